"""One process a run on one or several machines; which GPU a process takes."""

import errno
import json
import os
import platform
import subprocess
import sys
import threading
import time

import pytest
from made_up import benchmark

from qlstm.study import locks, machine


def test_held_as_long_as_the_process_lives(tmp_path):
    script = "import pathlib, sys, time\nfrom qlstm.study import locks\n"
    script += f"with locks.exclusive(pathlib.Path({str(tmp_path)!r})):\n"
    script += "    print('in', flush=True)\n    time.sleep(60)"
    assert not locks.held(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    assert locks.held(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / ".owner").exists()  # left behind, but of this machine: the lock itself tells
    assert not locks.held(tmp_path)
    (tmp_path / ".record.json.abc.tmp").write_text("half")
    with locks.exclusive(tmp_path):
        assert not list(tmp_path.glob("*.tmp"))
        assert (tmp_path / ".owner").read_text() == f"{platform.node()} {os.getpid()}\n"
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_another_machines_process_counts_while_it_is_heard_of(tmp_path, monkeypatch):
    """The other machine is played by its .owner file; the lock here is free, as on a file system
    that keeps it local."""
    (tmp_path / ".lock").touch()
    owner = tmp_path / ".owner"
    owner.write_text("another-machine 17\n")
    assert locks.held(tmp_path)
    os.utime(owner, (time.time() - locks.STALE - 5,) * 2)
    assert not locks.held(tmp_path)
    monkeypatch.setattr(
        time, "time", lambda: 0.0
    )  # this machine's clock is decades behind: the file system's counts
    os.utime(owner)
    assert locks.held(tmp_path)
    lines = []
    threading.Timer(1.0, owner.unlink).start()
    with locks.exclusive(tmp_path, lines.append):
        assert owner.read_text().startswith(platform.node())
    assert lines == [f"{tmp_path.name}: another process trains this run; waiting for it to end"]


def test_the_holder_makes_itself_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.05)
    with locks.exclusive(tmp_path):
        os.utime(tmp_path / ".owner", (0, 0))
        time.sleep(0.5)
        assert (tmp_path / ".owner").stat().st_mtime > 0


@pytest.fixture
def three_gpus(tmp_path, monkeypatch):
    """A machine with three GPUs: its nvidia-smi."""
    (tmp_path / "bin").mkdir()
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text(
        "#!/bin/sh\ncase $1 in *index) printf '0\\n1\\n2\\n';; "
        "*name) printf 'Fast GPU\\nSlow\\nSlow\\n';; esac\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def hold():
    """Another process that takes a GPU; its name."""
    script = "import os, time\nfrom qlstm.study import machine\nwith machine.one_gpu():\n"
    script += "    print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n    time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.usefixtures("three_gpus")
def test_a_run_takes_the_gpu_that_the_fewest_use(monkeypatch):
    assert machine.visible() == ["0", "1", "2"]
    assert machine.side_by_side() == 3 * machine.GPU_SLOTS
    holders = [hold() for _ in range(5)]
    try:
        assert [name for _, name in holders] == ["0", "1", "2", "0", "1"]
        with machine.one_gpu() as name:
            assert name == os.environ["CUDA_VISIBLE_DEVICES"] == "2"
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
        end(holders[1][0])  # kill -9 frees its slot
        end(holders[4][0])
        with machine.one_gpu() as name:
            assert name == "1"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
        with machine.one_gpu() as name:
            assert name == "2"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,2"
    finally:
        for process, _ in holders:
            end(process)


@pytest.mark.parametrize(
    ("device", "rates", "slots"),
    [("Fast GPU", {1: 10, 2: 17, 4: 19, 8: 18}, 4), ("Fast GPU", {1: 10, 2: 9}, 1),
     ("Fast GPU", {}, machine.GPU_SLOTS), ("Other", {1: 10, 2: 9}, machine.GPU_SLOTS)],
)
@pytest.mark.usefixtures("three_gpus")
def test_as_many_runs_share_a_gpu_as_the_benchmark_found(
        tmp_path, monkeypatch, device, rates, slots):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    (tmp_path / "bench").mkdir()
    found = [{"shape": "character", "processes": count, "steps_per_s": rate}
             for count, rate in rates.items()]
    record = benchmark(device, side_by_side=found)
    (tmp_path / "bench" / "machine.json").write_text(json.dumps(record))
    assert machine.side_by_side() == 3 * slots


@pytest.mark.parametrize(
    ("visible", "names"),
    [("", []), ("-1", []), ("3", ["3"]), ("0, 5", ["0", "5"]), ("GPU-a,MIG-b", ["GPU-a", "MIG-b"])])
@pytest.mark.usefixtures("three_gpus")
def test_what_the_environment_allows_counts(monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.visible() == names
    assert machine.side_by_side() == len(names) * machine.GPU_SLOTS or min(machine.cores(), 8)
    if len(names) < 2:
        with machine.one_gpu() as name:
            assert name is None
            assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_lock_tested_while_it_is_free_is_free_afterwards(tmp_path):
    (tmp_path / ".lock").touch()
    assert not locks.held(tmp_path)
    with locks.exclusive(tmp_path):
        assert locks.held(tmp_path)


NONE = ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EINVAL"]
"""How file systems say that they have no locks."""


@pytest.fixture(params=NONE)
def no_locks(request, monkeypatch):
    def flock(*_):
        raise OSError(getattr(errno, request.param), "no locks here")

    monkeypatch.setattr(locks.fcntl, "flock", flock)


def test_on_windows_no_process_is_sent_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.setattr(locks.os, "kill", lambda *_: pytest.fail("this would be Ctrl-C"))
    with locks.exclusive(tmp_path):
        assert not locks.held(tmp_path)  # by another
        (tmp_path / ".owner").write_text(f"{platform.node()} {os.getpid() + 1}\n")
        assert locks.held(tmp_path)
        monkeypatch.setattr(locks, "STALE", -1)
        assert not locks.held(tmp_path)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_holder_is_known_by_what_it_writes(tmp_path):
    with locks.exclusive(tmp_path):
        assert (tmp_path / ".owner").read_text() == f"{platform.node()} {os.getpid()}\n"
    assert not locks.held(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as another:
        (tmp_path / ".owner").write_text(f"{platform.node()} {another.pid}\n")
        assert locks.held(tmp_path)
        lines = []
        threading.Timer(0.3, lambda: (another.kill(), another.wait())).start()
        with locks.exclusive(tmp_path, lines.append):
            pass
        assert len(lines) == 1
    (tmp_path / ".owner").write_text(f"{platform.node()} {another.pid}\n")
    assert not locks.held(tmp_path)  # killed, and its number is free
    for number in ("abc", "9" * 20, "-1"):  # damaged
        (tmp_path / ".owner").write_text(f"{platform.node()} {number}\n")
        locks.held(tmp_path)
    (tmp_path / ".owner").write_text("another-machine 17\n")
    assert locks.held(tmp_path)
    (tmp_path / ".owner").write_text("")  # just being written
    assert locks.held(tmp_path)


@pytest.mark.usefixtures("no_locks", "three_gpus")
def test_without_locks_a_run_takes_some_gpu():
    with machine.one_gpu() as name:
        assert name in ("0", "1", "2")


def test_who_may_not_write_sees_who_works(tmp_path, monkeypatch):
    """As on reports that are read-only, or of another user."""
    plain, readable = os.open, [True]

    def read_only(path, flags, mode=0o777, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or not readable[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path, flags, mode, **more)

    (tmp_path / ".lock").touch()
    with locks.exclusive(tmp_path):
        monkeypatch.setattr(os, "open", read_only)
        assert locks.held(tmp_path)
        monkeypatch.undo()
    (tmp_path / ".owner").write_text("another-machine 17\n")
    monkeypatch.setattr(os, "open", read_only)
    assert locks.held(tmp_path)
    readable[0] = False
    assert locks.held(tmp_path)
    os.utime(tmp_path / ".owner", (0, 0))
    assert not locks.held(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".owner"]


def test_cores_are_counted_on_every_system(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    for count, cores in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert machine.cores() == cores
