"""The command `python -m qlstm run`, with plain processes in place of notebooks."""

import json
import os
import signal
import subprocess
import sys

import pytest

from qlstm import grid
from qlstm.study import records

COMMAND = [sys.executable, "-m", "qlstm", "run", "--profile", "smoke", "--no-notebook"]
RUN = "python_help-bwn-none-seed0"
ABSENT = ["pandas", "scipy", "matplotlib", "seaborn", "jinja2", "psutil", "pooch", "tqdm",
          "papermill", "IPython", "nbconvert", "nbformat", "snakemake", "tabulate", "ipywidgets"]


@pytest.fixture(autouse=True)
def _reports(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))


def call(*arguments):
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)


def test_torch_numpy_and_safetensors_are_enough(tmp_path):
    folder = tmp_path / "smoke" / "runs" / RUN
    folder.mkdir(parents=True)
    (folder / "notebook.html").write_text("of an earlier record")
    # a module that is None cannot be imported
    block = f"import runpy, sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n"
    block += f"sys.argv = {[*COMMAND[2:], RUN]!r}\nrunpy.run_module('qlstm', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"{RUN}: epoch 2/2" in result.stdout
    record = records.load_of(RUN, "smoke")
    assert record["environment"]["made_by"] == "command"
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        "epochs.jsonl", "model.safetensors", "packed.safetensors", "record.json"]
    before = (folder / "record.json").read_bytes()
    again = call(RUN, "--minutes", "1")
    assert again.stdout.splitlines()[0] == "1 runs, 1 done before, 1 side by side"
    assert again.returncode == 0
    assert (folder / "record.json").read_bytes() == before


def test_what_is_stopped_is_not_finished_and_goes_on(tmp_path):
    arguments = ["--only", "figure_05", "--epochs", "3000", "--jobs", "2", "--seeds", "2"]
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if ": epoch 2/3000" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 75, error
    total = len(grid("smoke", only=["figure_05"], seeds=2))
    assert lines[0] == f"{total} runs, 0 done before, 2 side by side\n"
    limited = call(*arguments, "--minutes", "0.2")
    assert limited.returncode == 75, limited.stderr
    assert (f"0 done, 0 failed, {total} not finished; the same command goes on from here"
            in limited.stdout)
    assert "going on after epoch" in limited.stdout
    stopped = [line for line in limited.stdout.splitlines() if line.startswith("not finished: ")]
    assert len(stopped) == 2
    assert all(" of 3000 epochs" in line for line in stopped)
    assert not list(tmp_path.rglob("record.json"))


def test_a_run_that_fails_is_named_and_the_others_are_done(tmp_path):
    damaged = tmp_path / "smoke" / "runs" / RUN / "record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"schema": 3')
    other = "python_help-full_precision-none-seed1"
    result = call(RUN, other)
    assert result.returncode == 1
    assert f"error: {RUN}: {damaged}: no readable record" in result.stderr
    assert "1 done, 1 failed, 0 not finished" in result.stdout
    assert damaged.read_text() == '{"schema": 3'
    assert "no readable record" in (damaged.parent / "error.txt").read_text()
    assert records.load_of(other, "smoke")["config"]["seed"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--only", "table_2", "--datasets", "digits"], "no runs"),
     (["--only", "table2"], "did you mean 'table_2'"),
     ([RUN, "--jobs", "0"], "--jobs must be 1 or more"),
     ([RUN, "--minutes", "-1"], "--minutes must be above 0"),
     (["--only", "table_2", "--datasets", "war_and_peace"], "cannot get warpeace_input.txt")],
)
def test_a_selection_that_cannot_be_run_is_one_clear_line(tmp_path, arguments, words):
    (tmp_path / "mirror").mkdir()
    places = {"QLSTM_DATA": str(tmp_path / "raw"), "QLSTM_MIRROR": str(tmp_path / "mirror")}
    result = subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, env=os.environ | places)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_record_in_another_runs_folder_is_refused_by_name(tmp_path):
    config = grid("smoke")[0]
    path = records.run_directory(config, tmp_path) / "record.json"
    path.parent.mkdir(parents=True)
    content = json.loads(json.dumps({name: None for name in records.REQUIRED}))
    content |= {"schema": records.SCHEMA, "run_id": "another", "config": {},
                "config_sha256": records.sha256({})}
    records.save(content, path)
    with pytest.raises(records.RecordError, match="the record of another run, another"):
        records.load_all("smoke")
    records.save(content | {"config_sha256": records.sha256({"seed": 1})}, path)
    with pytest.raises(
            records.RecordError, match=r"record\.json: the settings do not match their hash"):
        records.load_all("smoke")
