"""A GPU that is lent for minutes: the parts and their limits, archives, the table, a rehearsal."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_up import benchmark, made_up

from qlstm.study import records
from qlstm.study.grid import most_wanted
from qlstm.study.records import run_directory
from qlstm.workflow import bench, run
from qlstm.workflow.gpu import archive, command, processes, rehearsal, summary
from qlstm.workflow.gpu.archive import ArchiveError, Packed

ROWS = most_wanted("smoke")[:4]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path / "reports"))
    return tmp_path / "reports"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def trained(root):
    """A finished row, one that was finished before, an unfinished and a failed one; state and
    logs."""
    finished, before, unfinished, failed = (run_directory(row, root) for row in ROWS)
    for row, folder in zip(ROWS, (finished, before), strict=False):
        folder.mkdir(parents=True)
        records.save(made_up(row, 86.0), folder / "record.json")
        write(folder / "packed.safetensors", os.urandom(5000))
    write(unfinished / "checkpoint.pt", os.urandom(30_000))
    write(unfinished / "epochs.jsonl", b'{}\n{"valid_metric": 101.5}\n')
    write(failed / "epochs.jsonl", b'{}\n{"diverged": true}\n')
    write(failed / "error.txt", b"no memory\n")
    write(failed / ".lock", b"")
    write(root / "gpu" / "equality.log", b"2 passed\n")
    write(root / "bench" / "card.json", b"{}")
    write(root / "quick" / "index.html", b"not the archive's")
    return root


def tree(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob("*") if path.is_file()}


def pack(root, out, megabytes=60.0):
    out.mkdir(exist_ok=True)
    return archive.pack(root, out, megabytes, ROWS, {ROWS[1].run_id})


def test_archives_and_back(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 15_000)
    packed = pack(trained, tmp_path / "out")
    assert packed.left_out == []
    assert [path.name for path in packed.files] == [
        f"qlstm-gpu.{n}-of-3.tgz" for n in (1, 2, 3)]
    assert [path.stat().st_size for path in packed.files[:2]] == [15_000, 15_000]
    assert 0 < packed.files[2].stat().st_size <= 15_000
    told = archive.unpack(tmp_path / "out", tmp_path / "back")
    assert told.endswith("out: 3 runs")
    expected = {path: content for path, content in tree(trained).items()
                if ROWS[1].run_id not in path.parts and path.name not in (".lock", "index.html")}
    assert tree(tmp_path / "back") == expected
    assert pack(trained, tmp_path / "out").files == packed.files  # earlier ones are replaced
    joined = b"".join(path.read_bytes() for path in packed.files)
    listed = subprocess.run(["tar", "tz"], input=joined, capture_output=True, check=True).stdout
    assert len(listed.splitlines()) == len(expected)


def test_what_is_too_large_is_left_out_and_the_most_wanted_is_not(trained, tmp_path):
    packed = pack(trained, tmp_path / "out", megabytes=0.125)
    assert [path.name for path in packed.left_out] == ["checkpoint.pt"]
    archive.unpack(tmp_path / "out", tmp_path / "back")
    names = {path.name for path in tree(tmp_path / "back")}
    assert {"record.json", "epochs.jsonl", "error.txt", "equality.log", "card.json",
            "packed.safetensors"} == names


def test_a_run_that_is_finished_here_stays(trained, tmp_path):
    pack(trained, tmp_path / "out")
    own = run_directory(ROWS[0], tmp_path / "back") / "record.json"
    write(own, b'{"test_metric": 85.0}')
    older = run_directory(ROWS[2], tmp_path / "back") / "epochs.jsonl"
    write(older, b"{}\n")
    assert "3 runs; 1 are as far here and stay" in archive.unpack(
        tmp_path / "out", tmp_path / "back")
    assert own.read_bytes() == b'{"test_metric": 85.0}'
    assert not (own.parent / "packed.safetensors").exists()
    assert b"101.5" in older.read_bytes()
    older.write_bytes(b"{}\n" * 9)  # went on here since
    write(tmp_path / "back" / "gpu" / archive.STATE, json.dumps({"time": time.time()}).encode())
    archive.unpack(tmp_path / "out", tmp_path / "back")
    assert older.read_bytes() == b"{}\n" * 9
    assert set(json.loads((tmp_path / "back" / "gpu" / archive.STATE).read_text())) == {"time"}


def test_damaged_archives_change_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PIECE", 15_000)
    files = pack(trained, tmp_path / "out").files
    before = files[1].read_bytes()
    for position in (10, len(before) // 2, len(before) - 1):
        changed = bytearray(before)
        changed[position] ^= 1
        files[1].write_bytes(changed)
        with pytest.raises(ArchiveError, match=r"damaged .*nothing of them was used"):
            archive.unpack(tmp_path / "out", tmp_path / "back")
    files[1].write_bytes(before)
    files[2].write_bytes(files[2].read_bytes()[:-9])  # cut off in its checksum
    with pytest.raises(ArchiveError, match="damaged"):
        archive.unpack(tmp_path / "out", tmp_path / "back")
    files[2].unlink()
    with pytest.raises(ArchiveError, match=r"exactly qlstm-gpu\.1-of-3\.tgz, .*3-of-3\.tgz"):
        archive.unpack(tmp_path / "out", tmp_path / "back")
    with pytest.raises(ArchiveError, match="no archives"):
        archive.unpack(tmp_path / "back", tmp_path / "back")
    assert tree(tmp_path / "back") == {}


@pytest.mark.parametrize(
    ("script", "status", "last"),
    [("print('fine')", "done", "fine"), ("raise SystemExit(75)", "done", None),
     ("print('so'); raise SystemExit(3)", "failed (exit status 3)", "so"),
     ("import os; print('gone', flush=True); os.kill(os.getpid(), 9)", "failed (exit status -9)",
      "gone")])
def test_a_part_and_what_it_said(tmp_path, script, status, last):
    log = tmp_path / "log"
    python = [sys.executable, "-c", script]
    assert processes.attempt(python, 20, log, dict(os.environ)) == status
    assert summary.said(log)[-1:] == ([last] if last else [])


def test_a_part_that_hangs_ends_with_its_children(tmp_path, monkeypatch):
    """Parent and child ignore that they are asked to end, and the child has the output open."""
    monkeypatch.setattr(processes, "GRACE", 0.3)
    script = ("import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
              "child = os.fork(); print(os.getpid(), flush=True); time.sleep(60)")
    started, log = time.monotonic(), tmp_path / "log"
    status = processes.attempt([sys.executable, "-c", script], 1.5, log, dict(os.environ))
    assert status == "stopped at its limit of 2 s"
    assert time.monotonic() - started < 15
    for process in log.read_text().split():
        for _ in range(50):  # a child that was killed is a zombie until somebody collects it
            state = Path(f"/proc/{process}/stat")
            if not state.exists() or ") Z " in state.read_text():
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"process {process} runs on")


def test_the_first_difference_comes_with_the_command_that_repeats_it(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_SEED", "7")
    log = tmp_path / "log"
    log.write_text("..F.F\n" + "E  much more\n" * 9
                   + "FAILED tests/triton_equality.py::test_one[a-b] - AssertionError: c_n: 3e-2\n"
                   "FAILED tests/triton_equality.py::test_two - Exception\n\n2 failed, 3 passed\n")
    assert summary.said(log)[:2] == [
        "FAILED tests/triton_equality.py::test_one[a-b] - AssertionError: c_n: 3e-2",
        "again: QLSTM_SEED=7 python -m pytest -o addopts= "
        "'tests/triton_equality.py::test_one[a-b]'"]
    assert summary.said(log)[-1] == "2 failed, 3 passed"
    assert summary.said(tmp_path / "none") == []


def test_warnings_at_the_end_of_a_log_are_left_out(tmp_path):
    log = tmp_path / "log"
    log.write_text("4 side by side: 1194.1 steps/s together\n/usr/lib/resource_tracker.py:254: "
                   "UserWarning: 9 leaked semaphore objects\n  warnings.warn('There appear')\n")
    assert summary.said(log) == ["4 side by side: 1194.1 steps/s together"]


def test_the_table_tells_all_in_forty_lines(trained, monkeypatch):
    rows = [{"part": part, "shape": shape, "pass": "training step", "normalizer": normalizer,
             "backend": backend, "ratio": 0.876}
            for part in ("layer", "step") for shape in ("character", "words")
            for normalizer in ("none", "layer") for backend in ("torch.nn.LSTM", "triton")]
    write(trained / "bench" / "card.json", json.dumps(
        benchmark("NVIDIA X1", rows)).encode())
    state = {"card": "NVIDIA X1", "before": [ROWS[1].run_id], "parts": {
        "machine": {"status": "done", "seconds": 9.8, "said": ["NVIDIA X1", "driver", "copies"]},
        "equality": {"status": "failed (exit status 1)", "seconds": 70,
                     "said": ["FAILED test", "again: it", "E  x", "1 failed"]}}}
    text = summary.table(state, ROWS, Packed([], [trained / "a" / "checkpoint.pt"]), 540)
    assert [line.strip() for line in text.splitlines()] == [
        "machine         10 s  done; copies", "NVIDIA X1", "driver",
        "equality        70 s  failed (exit status 1); 1 failed", "FAILED test", "again: it",
        "times as multiples of torch.nn.LSTM's",
        "layer, character: none 0.88 triton; layer 0.88 triton",
        "layer, words: none 0.88 triton; layer 0.88 triton",
        "step, character: none 0.88 triton; layer 0.88 triton",
        "step, words: none 0.88 triton; layer 0.88 triton", "rows trained here",
        f"{ROWS[0].run_id}: done, test {'ppl'} 86", f"{ROWS[2].run_id}: 1 of "
        f"{ROWS[2].epochs} epochs, validation ppl 101.5",
        f"{ROWS[3].run_id}: 1 of {ROWS[3].epochs} epochs, validation diverged; failed, see its "
        "error.txt",
        "540 s in all; 0 archives, 0.0 MB; too large for them: 1 files, first a/checkpoint.pt",
        "go on: the same command with --from their folder"]
    monkeypatch.setattr(summary, "_rows", lambda *_: iter([f"row {n}" for n in range(99)]))
    write(trained / "bench" / "card.json", b"{")  # what is damaged is left out
    lines = summary.table(state, ROWS, Packed([], []), 540).splitlines()
    assert len(lines) == summary.LINES
    assert lines[-3] == "and 69 rows more"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--minutes", "0"], "--minutes must be above 0, got 0"),
     (["--megabytes", "113"], "--megabytes must be above 0 and at most 112, got 113"),
     (["--jobs", "0"], "--jobs must be 1 or more, got 0"),
     (["--data", "/nowhere"], "--data /nowhere: there is no such folder"),
     ([], "no NVIDIA GPU is visible here; --rehearse tries all of it on a CPU")])
def test_what_cannot_be_is_one_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(command, "_sees_gpu", lambda: False)
    assert command.main(["--out", str(tmp_path / "out"), *arguments]) == 2
    assert capsys.readouterr().err == f"error: {words}\n"


def test_missing_archives_are_told_before_anything_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "_sees_gpu", lambda: True)
    arguments = ["--out", str(tmp_path / "out"), "--from", str(tmp_path)]
    assert command.main(arguments) == 2
    assert "no archives qlstm-gpu.*.tgz in this folder" in capsys.readouterr().err


def test_the_commands_of_the_parts_are_understood():
    words = {part.name: part.command for part in command.PARTS}
    for name in ("ratios", "side by side"):
        options = bench.parse(words[name][4:])
        assert set(options.shapes or []) <= set(bench.measure.SHAPES)
        assert set(options.parts) <= set(bench.PARTS)
        assert set(options.backends) <= set(bench.BACKENDS)
    options = run.parse([*words["rows"][4:], "--minutes", "3.5"])
    assert options.most_wanted
    assert options.no_notebook
    assert options.profile == "paper"


def test_parts_that_ended_on_such_a_card_with_this_code_are_not_repeated(root, capsys):
    def calls(card, again=False, **state):
        state = {"card": card, "parts": {"p": {
            "status": "done", "card": "A", "code": command._code(), **state}}}
        part = command.Part("p", [sys.executable, "-c", "print('now')"], 20)
        command._do(part, state, time.monotonic() + 30, dict(os.environ), again=again)
        return capsys.readouterr().out

    (root / "gpu").mkdir(parents=True)
    assert "== p: done, in an earlier call" in calls("A")
    assert "== p: failed (exit status 1), in" in calls("A", status="failed (exit status 1)")
    assert "now" in calls("B")
    assert "now" in calls("A", code="other")
    assert "now" in calls("A", again=True)
    assert "now" in calls("A", status="stopped at its limit of 3 s")
    assert json.loads((root / "gpu" / archive.STATE).read_text())["parts"]["p"]["said"] == ["now"]


@pytest.mark.parametrize(("status", "usable"), [(0, True), (1, True), (0, False)])
def test_the_multi_process_service_ends_with_the_part(tmp_path, monkeypatch, status, usable):
    """A script stands for NVIDIA's: it notes how it is called, and leaves a process behind."""
    monkeypatch.setattr(processes, "USES_GPU", ["true" if usable else "false"])
    control, notes = tmp_path / "nvidia-cuda-mps-control", tmp_path / "notes"
    control.write_text(f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {notes}\n'
                       f'[ "$1" = -d ] || cat >> {notes}\nsleep 9 &\nexit {status}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with processes.multi_process_service(False) as variables:
        assert variables == {}
        assert not notes.exists()
    started = time.monotonic()
    with processes.multi_process_service() as variables:
        folder = notes.read_text().split()[1]
        assert Path(folder).is_dir()
        works = status == 0 and usable
        assert variables.get("CUDA_MPS_PIPE_DIRECTORY") == (folder if works else None)
    assert time.monotonic() - started < 5
    assert notes.read_text().split("\n")[1:] == [f" {folder}", "quit", ""]
    assert not Path(folder).exists()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with processes.multi_process_service() as variables:
        assert variables == {}


def test_another_card_is_noticed(tmp_path, monkeypatch):
    """And a warning before or after its name does not matter."""
    def call(card):
        said = f"print('a warning'); print('card: {card}'); print('free: 9 GB'); print(1); print(2)"
        parts = [command.Part("machine", [sys.executable, "-c", said], 20, once=False),
                 command.Part("p", [sys.executable, "-c", ""], 20)]
        assert command.main(["--out", str(tmp_path / card)], parts, "smoke") == 0
        return json.loads((tmp_path / "reports" / "gpu" / archive.STATE).read_text())

    times = []
    for card in ("X1", "X1", "X2"):
        state = call(card)
        assert state["card"] == state["parts"]["p"]["card"] == card
        times.append(state["parts"]["p"]["seconds"])
    assert command.PARTS[0].once is False
    assert times[0] == times[1]


def test_a_disk_that_is_full_meanwhile_costs_one_part(root, tmp_path, monkeypatch, capsys):
    write(run_directory(ROWS[0], root) / "epochs.jsonl", b'{}\n{"valid_metric": 9.0}\n')
    attempt = command.attempt

    def full(words, seconds, log, environment):
        if log.name == "first.log":
            raise OSError(28, "No space left on device")
        return attempt(words, seconds, log, environment)

    monkeypatch.setattr(command, "attempt", full)
    parts = [command.Part(name, [sys.executable, "-c", "print(7)"], 20)
             for name in ("first", "second")]
    assert command.main(["--out", str(tmp_path / "out")], parts, "smoke") == 1
    table = (tmp_path / "out" / "summary.txt").read_text()
    assert "failed ([Errno 28] No space left on device)" in table
    assert "done; 7" in table
    assert ROWS[0].run_id in table
    monkeypatch.setattr(archive, "pack", lambda *_: full([], 0, root / "first.log", {}))
    assert command.main(["--out", str(tmp_path / "out")], parts, "smoke") == 1
    assert "error: no archives" in capsys.readouterr().out


def test_what_is_finished_before_is_not_packed_and_what_an_earlier_call_finished_is(
        trained, tmp_path, capsys, monkeypatch):
    """Also where the calls are on two machines, of which each has records of its own."""
    def call(name, *more):
        arguments = ["--out", str(tmp_path / name), *more]
        assert command.main(arguments, [], "smoke") == 0
        unpacked = tmp_path / f"{name} unpacked"
        archive.unpack(tmp_path / name, unpacked)
        return {path.parent.name for path in unpacked.rglob("record.json")}

    finished = run_directory(ROWS[0], trained)
    record = (finished / "record.json").read_bytes()
    (finished / "record.json").unlink()
    assert call("first") == set()
    (finished / "record.json").write_bytes(record)
    assert call("again") == {ROWS[0].run_id}
    other = tmp_path / "other"
    monkeypatch.setenv("QLSTM_REPORTS", str(other))
    (other / "smoke" / "runs" / ROWS[3].run_id).mkdir(parents=True)
    records.save(made_up(ROWS[3]), other / "smoke" / "runs" / ROWS[3].run_id / "record.json")
    assert call("elsewhere", "--from", str(tmp_path / "again")) == {ROWS[0].run_id}
    (other / "gpu" / archive.STATE).write_text("[]")  # what was finished before is forgotten
    assert call("damaged") == {ROWS[0].run_id, ROWS[3].run_id}


def test_a_folder_that_cannot_be_written_is_told_first(trained, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert command.main(["--out", str(tmp_path / "file")], [], "smoke") == 2
    assert "file" in capsys.readouterr().err


def test_no_time_is_told(root):
    (root / "gpu").mkdir(parents=True)
    state = {"card": "A", "parts": {}}
    command._do(command.Part("p", ["false"], 20), state, time.monotonic() + 0.5, {})
    assert state["parts"]["p"]["status"] == "no time left"


def test_the_rehearsal(tmp_path, capsys):
    """The rows, with every fault survived and told; the other parts have tests of their own."""
    status = rehearsal.rehearse(
        tmp_path / "out", without=("machine", "equality", "hangs", "ratios"))
    told = capsys.readouterr().out
    assert status == 0, told[-6000:]
    assert told.count(": told: ") == 5
    second = tmp_path / "out" / "second"
    assert {path.name for path in second.iterdir()} == {
        "qlstm-gpu.1-of-1.tgz", "summary.txt", "reports"}
    found = [records.load_of(row.run_id, "smoke", second / "reports")
             for row in most_wanted("smoke", datasets=["digits"])]
    assert len(found) == 3
    assert all(record["epochs"] for record in found)
