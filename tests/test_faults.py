"""What may happen to a run, for real: the record at the end is that of an unbroken one. `make soak`
has the long ones."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from made_up import made_up
from test_train import TINY, comparable, quiet

import qlstm
from qlstm import grid
from qlstm.study import records, training
from qlstm.workflow import reproduce as workflow

KILLED_WHILE_WRITING = """
import functools, os, signal
from pathlib import Path
import torch._dynamo  # an optimizer imports it: once, not in each process
import qlstm
from qlstm import data
from qlstm.study import records

data.load_dataset = functools.cache(data.load_dataset)
data.load_dataset("python_help", "char_lm")
config, directory = qlstm.ExperimentConfig(**CONFIG), DIRECTORY
moments = 0


def maybe_die(before=lambda: None):
    global moments
    moments += 1
    if moments == deadly:
        before()
        os.kill(os.getpid(), signal.SIGKILL)


def fsync(descriptor, fsync=os.fsync):
    maybe_die(lambda: os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2))
    fsync(descriptor)


def replace(source, target, replace=os.replace):
    maybe_die()
    replace(source, target)
    maybe_die()


killed = 0
while True:
    deadly = killed % 16 + 1
    if (child := os.fork()) == 0:
        os.fsync, os.replace = fsync, replace
        qlstm.run(config, directory, report=lambda line: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    killed += 1
    if (Path(directory) / "record.json").exists():
        records.load(Path(directory) / "record.json")
print(killed)
"""


def test_kill_9_at_every_moment_of_writing(tmp_path):
    config = dataclasses.replace(TINY, quantizer="bwn", epochs=2, hidden_size=4, max_train=160)
    script = KILLED_WHILE_WRITING.replace("CONFIG", repr(config.as_dict())).replace(
        "DIRECTORY", repr(str(tmp_path)))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 6
    assert comparable(records.load(tmp_path / "record.json")) == comparable(
        qlstm.run(config, report=quiet))
    assert not list(tmp_path.glob(".*.tmp"))
    history = [
        json.loads(line)["epoch"] for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert history == [0, 1, 2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KB, and a function that makes it larger."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk, lambda: subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_named_and_with_room_the_run_goes_on(small_disk):
    disk, enlarge = small_disk
    run_id = "python_help-ter_connect-none-seed0"
    command = [sys.executable, "-m", "qlstm", "run", "--profile", "smoke", "--no-notebook", run_id]
    full = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"QLSTM_REPORTS": str(disk)})
    assert full.returncode == 1
    assert full.stderr.startswith(f"error: {run_id}: ")
    assert "No space left on device" in full.stderr
    assert not list(disk.rglob("record.json"))
    enlarge()
    subprocess.run(command, check=True, env=os.environ | {"QLSTM_REPORTS": str(disk)},
                   capture_output=True)
    (config,) = [config for config in grid("smoke") if config.run_id == run_id]
    assert comparable(records.load_of(run_id, "smoke", disk)) == comparable(
        qlstm.run(config, report=quiet))
    assert not list(disk.rglob(".*.tmp"))


def test_a_gpu_out_of_memory_says_the_way_out_and_keeps_the_epochs(tmp_path, monkeypatch):
    plain, epochs = training.train_epoch, itertools.count(1)

    def too_large(*arguments):
        if next(epochs) == 3:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")
        return plain(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_epoch", too_large)
        with pytest.raises(
            MemoryError, match=rf"^{TINY.run_id}: CUDA out of memory\. .*JOBS=1.*goes on after"
        ) as error:
            qlstm.run(TINY, tmp_path, report=quiet)
    assert "\n" not in str(error.value)
    lines = []
    record = qlstm.run(TINY, tmp_path, report=lines.append)
    assert "going on after epoch 2" in lines[0]
    assert comparable(record) == comparable(qlstm.run(TINY, report=quiet))


@pytest.fixture
def report(tmp_path, monkeypatch, pretended):
    """`make report` of a table: exit status, the plan, and what it makes, a list for each phase."""
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path / "merged"))

    def call(*arguments, profile="smoke"):
        pretended.clear()
        status = workflow.main(
            ["report", "--profile", profile, "--only", "table_2", *arguments])
        plan = json.loads((tmp_path / "merged" / profile / "plan.json").read_text())
        return status, plan, [[name for name in commands if not name.startswith("learn/")]
                              for commands in pretended]

    return call


TABLE = [["report/table_2", "explore/explore_runs"], ["report/overview"]]


def written(config, root, **more):
    """A finished run as a machine has it in its reports."""
    directory = records.run_directory(config, root)
    directory.mkdir(parents=True, exist_ok=True)
    records.save(made_up(config) | more, directory / "record.json")
    return directory / "record.json"


def test_reports_of_two_machines_merge_by_copying(tmp_path, report, monkeypatch, capsys):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "raw"))
    monkeypatch.setenv("QLSTM_MIRROR", str(tmp_path / "mirror"))
    one, other, third = grid("smoke", only=["table_2"])[:3]
    for machine, config in (("a", one), ("b", other), ("b", one)):
        written(config, tmp_path / machine)
    (tmp_path / "b" / "smoke" / "index.html").write_text("the page of machine b")
    foreign = written(dataclasses.replace(third, epochs=7, dataset="war_and_peace"), tmp_path / "b")
    for machine in "ab":
        subprocess.run(["cp", "-r", f"{tmp_path / machine}/.", tmp_path / "merged"], check=True)
    (tmp_path / "merged" / "smoke" / "made_from.json").write_text('{"report/table_2": "of b"}')
    status, plan, (rendered, *made) = report()
    assert status == 0
    assert set(plan["records"]) == {one.run_id, other.run_id, foreign.parent.name}
    assert made == TABLE  # whatever page and notes on what it was made from were copied along
    assert set(rendered) == set(plan["unrendered"]) == {one.run_id, other.run_id}
    assert ("1 notebooks are left out: their data sets are not at hand (war_and_peace)"
            in capsys.readouterr().out)
    for run_id in rendered:
        (tmp_path / "merged" / "smoke" / "runs" / run_id / "notebook.html").touch()
    assert report()[2] == [["report/overview"]]  # the notebooks that it links to are there now
    assert report()[2] == []


def test_a_report_needs_no_data(tmp_path, report, monkeypatch):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "raw"))
    monkeypatch.setenv("QLSTM_MIRROR", str(tmp_path / "mirror"))
    config = grid("paper", only=["table_2"])[0]
    written(config, tmp_path / "merged")
    status, plan, made = report(profile="paper")
    assert status == 0
    assert plan["records"] == [config.run_id]
    assert made == TABLE


@pytest.mark.parametrize("age", [-1e7, 1e7])
def test_ages_neither_repeat_nor_hide_work(tmp_path, report, monkeypatch, age):
    """Clocks differ: of a record only the content counts."""
    config = grid("smoke", only=["table_2"])[0]
    path = written(config, tmp_path / "merged")
    path.with_name("notebook.html").touch()
    os.utime(path, (time.time() + age,) * 2)
    monkeypatch.setattr(records, "outdated", lambda *_: "")
    _, plan, made = report()
    assert config.run_id not in plan["todo"]
    assert made == TABLE
    assert report()[2] == []
    written(config, tmp_path / "merged", seconds=4.0)  # another record, as old as the one before
    os.utime(path, (time.time() + age,) * 2)
    assert report()[2] == TABLE


def test_a_run_is_repeated_only_for_its_settings_text_or_recipe_and_its_record_stays(
        tmp_path, report, capsys):
    config = grid("smoke", only=["table_2"])[0]
    text = qlstm.load_dataset(config.dataset).sha256
    record = made_up(config, sha256=text)
    assert records.outdated(record, config.as_dict(), text) == ""
    assert records.outdated(record, config.as_dict(), None) == ""
    assert (records.outdated(record, config.as_dict() | {"seed": 1}, "b")
            == "other settings, other text")
    assert records.outdated(record | {"recipe": 0}, config.as_dict(), text) == "other recipe"
    path = written(config, tmp_path / "merged", recipe=0)
    workflow.main(["--profile", "smoke", "--only", "table_2"])
    said = capsys.readouterr().out
    assert "1 of them again, their records are of other text, other recipe" in said
    assert not path.exists()
    assert records.load(path.with_name("record.outdated.json"))["recipe"] == 0
