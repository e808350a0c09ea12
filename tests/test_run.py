"""The command `python -m qlstm run`, with plain processes in place of notebooks."""

import errno
import functools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from made_up import made_up

from qlstm import grid
from qlstm.study import records
from qlstm.study.grid import most_wanted
from qlstm.workflow import notebooks, pool, progress, run

COMMAND = [sys.executable, "-m", "qlstm", "run", "--profile", "smoke", "--no-notebook"]
RUN = "python_help-bwn-none-seed0"
OTHER = "python_help-full_precision-none-seed1"
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
    block += f"sys.argv = {[*COMMAND[2:], RUN, '--backend', 'naive']!r}\n"
    block += "runpy.run_module('qlstm', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert f"{RUN}: epoch 2/2" in result.stdout
    record = records.load_of(RUN, "smoke")
    assert record["environment"]["made_by"] == "command"
    assert record["environment"]["backend"] == "naive"
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == [
        "epochs.jsonl", "model.safetensors", "packed.safetensors", "record.json"]
    before = (folder / "record.json").read_bytes()
    again = call(RUN, "--minutes", "1")
    assert again.stdout.splitlines()[0] == "1 runs, 1 done before, 1 side by side"
    assert again.returncode == 0
    assert (folder / "record.json").read_bytes() == before


def test_what_is_stopped_is_not_finished_and_goes_on(tmp_path, started, capsys):
    arguments = ["--only", "figure_05", "--epochs", "3000", "--jobs", "1", "--seeds", "2"]
    total = len(grid("smoke", only=["figure_05"], seeds=2))
    for moment in (": epoch 2/3000", ": going on after epoch"):
        with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == f"{total} runs, 0 done before, 1 side by side\n"
            assert any(moment in line for line in process.stdout)
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate()
        assert process.returncode == 75, error
    assert not list(tmp_path.rglob("record.json"))
    started.statuses = {RUN: [None], OTHER: [None]}  # what runs on, for a time limit
    names = [RUN, OTHER, f"{RUN[:-1]}1"]
    assert run.main([*names, "--profile", "smoke", "--jobs", "2", "--minutes", "0.005"]) == 75
    slow = "0 of 2 epochs; none ended in this call, so the time limit may be too short"
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"not finished: {RUN}, {slow}", f"not finished: {OTHER}, {slow}",
        "0 done, 0 failed, 3 not finished; the same command goes on from here"]
    assert [command[4] for command in started] == started.ended == [RUN, OTHER]


def test_a_run_that_fails_is_named_and_the_others_are_done(tmp_path):
    damaged = tmp_path / "smoke" / "runs" / RUN / "record.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"schema": 3')
    other = "python_help-full_precision-none-seed1"
    result = call(RUN, other)
    assert result.returncode == 1
    assert f"error: {RUN}: {damaged}: no readable record" in result.stderr
    assert f"failed: {RUN}: {damaged}: no readable record" in result.stdout
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
def test_a_selection_that_cannot_be_run_is_one_clear_line(
        tmp_path, monkeypatch, capsys, arguments, words):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "raw"))
    monkeypatch.setenv("QLSTM_MIRROR", str(tmp_path / "mirror"))
    assert run.main([*COMMAND[4:], *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The commands of runs in the order of their start; none is trained, as no process is started.
    There is no data set that needs a download."""
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path))
    monkeypatch.setenv("QLSTM_MIRROR", str(tmp_path))
    class Commands(list):
        statuses = {RUN: [-9]}  # noqa: RUF012 - those of a run's processes, one after the other

    commands = Commands()
    commands.ended = []

    class Process:
        def __init__(self, command, env, stdin):
            before = sum(command[4] == other[4] for other in commands)
            commands.append(command)
            statuses = commands.statuses.get(command[4], [0])
            self.returncode = statuses[min(before, len(statuses) - 1)]
            self.stdin = SimpleNamespace(close=lambda: commands.ended.append(command[4]))

        def poll(self):
            return self.returncode

        def wait(self, seconds):
            return 0

    fake = SimpleNamespace(Popen=Process, PIPE=subprocess.PIPE)
    monkeypatch.setattr(pool, "subprocess", fake)
    monkeypatch.setattr(run, "stop_when_terminated", lambda: None)
    return commands


@pytest.mark.parametrize("status", [-9, 137])  # itself, or its kernel
def test_a_process_that_is_killed_goes_on_once_and_then_is_told(
        started, capsys, status, tmp_path):
    started.statuses = {RUN: [status]}
    (tmp_path / "smoke" / "runs" / RUN).mkdir(parents=True)
    assert run.main([RUN, OTHER, "--profile", "smoke", "--jobs", "1"]) == 1
    assert [command[4] for command in started] == [RUN, RUN, OTHER]
    said = capsys.readouterr()
    assert said.out.splitlines()[1:] == [
        f"{RUN} was killed (signal 9) and is started once more",
        f"{RUN} was killed again (signal 9)",
        f"failed: {RUN}: {KILLED}", "1 done, 1 failed, 0 not finished"]
    assert progress.state(tmp_path / "smoke" / "runs" / RUN) == ("failed", {"cause": KILLED})


KILLED = "its process was killed (signal 9); if nobody did that, the memory was too small"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [(NotImplementedError("no such call\n here"), 1, "NotImplementedError: no such call here"),
     (KeyError("HOME"), 1, "KeyError: 'HOME'"),
     (OSError(13, "Denied", "m\udcfcller"), 1, r"[Errno 13] Denied: 'm\udcfcller'"),
     (OSError(28, "No space"), 1, "[Errno 28] No space"),
     (notebooks.KernelError("n.ipynb", "", -9), 137,
      "n.ipynb: its kernel was killed (signal 9); if nobody did that, the memory was too small")])
def test_whatever_ends_a_run_is_a_line_that_status_shows(
        tmp_path, monkeypatch, capsys, error, status, line):
    def fails(*_):
        raise error

    monkeypatch.setattr(run, "plain", fails)
    assert run.main([RUN, "--profile", "smoke", "--no-notebook"]) == status
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {RUN}: {line}"
    assert progress.state(tmp_path / "smoke" / "runs" / RUN) == ("failed", {"cause": line})


def test_status_knows_what_could_not_be_written_down(tmp_path, monkeypatch, capsys):
    (tmp_path / "smoke" / "runs" / OTHER).mkdir(parents=True)
    (tmp_path / "smoke" / "plan.json").write_text(json.dumps(
        {"runs": {}, "metrics": {}, "selected": [RUN], "failures": {RUN: "no room"}}))
    plain = os.open

    def closed(path, *more, **others):  # another user's folder
        if OTHER in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path, *more, **others)

    monkeypatch.setattr("io.open", functools.partial(open, opener=closed))
    assert progress.main(["smoke"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "failed: 2", f"  {RUN}: no room",
        f"  {OTHER}: cannot read its folder: Permission denied"]


def test_what_has_too_little_memory_goes_on_beside_fewer(started, capsys, monkeypatch):
    monkeypatch.setattr(started, "statuses", {RUN: [pool.NO_MEMORY, 0]})
    assert run.main([RUN, OTHER, "--profile", "smoke", "--jobs", "2"]) == 0
    assert [command[4] for command in started] == [RUN, OTHER, RUN]
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{RUN} had too little memory and goes on with 1 side by side",
        "2 done, 0 failed, 0 not finished"]
    started.statuses = {RUN: [pool.NO_MEMORY, 0], OTHER: [pool.NO_MEMORY, 0]}  # both at once
    assert run.main([RUN, OTHER, "--profile", "smoke", "--jobs", "2"]) == 0
    started.statuses = {RUN: [pool.NO_MEMORY]}  # alone it is a failure
    assert run.main([RUN, "--minutes", "9", "--profile", "smoke"]) == 1


def alive(*pids):
    return [pid for pid in pids if psutil.pid_exists(pid)
            and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def none_is_left(*pids):
    end = time.monotonic() + 15
    while alive(*pids) and time.monotonic() < end:
        time.sleep(0.1)
    return not alive(*pids)


HEAD = """
import sys
from qlstm.workflow import pool
pool.side_by_side({"a notebook": COMMAND}, 1, watch=lambda: print("working", flush=True))
"""
TOLD = "import os, sys, time; open(sys.argv[1] + str(os.getpid()), 'w'); time.sleep(99)"


def head_of(command, folder):
    """A process with a pool that runs the command; its child and what that starts, which tell of
    themselves by a file each."""
    head = subprocess.Popen([sys.executable, "-c", HEAD.replace("COMMAND", repr(command))],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list(folder.glob("kernel*")):
        assert head.stdout.readline() == b"working\n"
    return head, [child.pid for child in psutil.Process(head.pid).children(recursive=True)]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGHUP])
def test_a_head_that_is_killed_leaves_no_process_and_no_kernel(tmp_path, end):
    cell = f"import sys; sys.argv = ['', {str(tmp_path / 'kernel')!r}]; {TOLD}"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3",
                                       "language": "python"}
    nbformat.write(notebook, tmp_path / "n.ipynb")
    head, family = head_of(
        [*pool.QLSTM, "notebook", str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb")], tmp_path)
    assert len(family) >= 2
    head.send_signal(end)
    head.wait()
    assert none_is_left(*family)
    head.communicate()


def test_a_closed_pipe_orphans_nothing(tmp_path):
    """As in `make reproduce | head -1`."""
    follower = f"from qlstm.workflow.command_line import follow; follow(); {TOLD}"
    head, family = head_of([sys.executable, "-c", follower, str(tmp_path / "kernel")], tmp_path)
    assert len(family) == 1
    head.stdout.close()
    assert head.wait(15) != 0
    assert none_is_left(*family)
    assert b"BrokenPipeError" in head.stderr.read()
    head.stderr.close()


def test_a_command_whose_output_nobody_reads_ends_without_a_word():
    words = [sys.executable, "-m", "qlstm", "status", "smoke"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_too_little_memory_is_an_exit_status(tmp_path, monkeypatch, capsys):
    def too_little(*_):
        raise MemoryError(f"{RUN}: CUDA out of memory")

    monkeypatch.setattr(run, "plain", too_little)
    assert run.main([RUN, "--profile", "smoke", "--no-notebook"]) == pool.NO_MEMORY
    assert capsys.readouterr().err == f"error: {RUN}: CUDA out of memory\n"


PAPER = ["--most-wanted", "--profile", "paper"]


def record_of(config, tmp_path):
    directory = records.run_directory(config, tmp_path)
    directory.mkdir(parents=True)
    records.save(made_up(config), directory / "record.json")


def test_the_most_wanted_are_trained_in_order_without_those_whose_data_cannot_be_had(
        started, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "outdated", lambda *_: "")
    datasets = ["war_and_peace", "digits", "mnist"]
    wanted = most_wanted(datasets=datasets)
    done = [next(config for config in wanted if config.dataset == name) for name in datasets]
    for config in done:
        record_of(config, tmp_path)
    arguments = ["--datasets", ",".join(datasets), "--jobs", "99", "--backend", "naive"]
    assert run.main([*PAPER, *arguments, "--no-notebook"]) == 0
    there = [config.run_id for config in wanted if config.dataset == "digits"]
    assert [command[4] for command in started] == there[1:]
    assert {"--backend=naive", "--no-notebook", "--profile=paper"} <= set(started[0])
    assert capsys.readouterr().out.splitlines() == [
        "48 runs are left out, as their data sets cannot be had: war_and_peace, mnist "
        "(make data says why)", "40 runs, 3 done before, 40 side by side",
        "40 done, 0 failed, 0 not finished"]


def test_without_any_data_the_most_wanted_are_an_error_unless_all_are_done(
        started, capsys, tmp_path):
    arguments = [*PAPER, "--datasets", "war_and_peace"]
    assert run.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: cannot get warpeace_input.txt")
    assert said.out == ""
    for config in most_wanted(datasets=["war_and_peace"]):
        record_of(config, tmp_path)
    assert run.main(arguments) == 0
    assert "12 done, 0 failed, 0 not finished" in capsys.readouterr().out
    assert started == []


def test_what_is_chosen_otherwise_needs_all_its_data(started, capsys):
    assert run.main(["--profile", "paper", "--datasets", "digits,war_and_peace"]) == 2
    assert capsys.readouterr().err.startswith("error: cannot get warpeace_input.txt")
    assert started == []


def test_what_is_most_wanted_cannot_be_chosen_otherwise(started, capsys):
    for words in ([RUN], ["--only", "table_3"], ["--seeds", "1"]):
        assert run.main(["--most-wanted", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == (
            "error: --most-wanted names the runs itself: leave out run ids, --only, --seeds")


def test_a_notebook_gets_the_backend_and_an_unknown_one_is_named(capsys, monkeypatch):
    given = []
    monkeypatch.setattr(
        run.notebooks, "execute", lambda notebook, output, parameters: given.append(parameters))
    run.main([RUN, "--profile", "smoke", "--backend", "naive"])
    assert [parameters["backend"] for parameters in given] == ["naive"]
    capsys.readouterr()
    assert run.main([RUN, "--profile", "smoke", "--backend", "nave"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean 'naive'" in line


SHOWN = """
import os, runpy, sys
sys.argv = ["qlstm", "status", "smoke"]
try:
    runpy.run_module("qlstm", run_name="__main__")
except SystemExit as ended:
    names = ("PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONWARNINGS")
    print(ended.code, [name for name in names if name in os.environ])
    os._exit(0)
"""


def test_what_changes_python_reaches_no_process_that_is_started():
    """As `python -m qlstm` that starts others."""
    changed = os.environ | {
        "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONINSPECT": "1"}
    result = subprocess.run([sys.executable, "-c", SHOWN], env=changed, stdin=subprocess.DEVNULL,
                            capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["0 []"], result.stderr


def test_every_terminal_gets_a_line_and_no_output_is_none(tmp_path):
    folder = tmp_path / "smoke" / "runs" / "żółw-λ₁"
    folder.mkdir(parents=True)
    (folder / "error.txt").write_text("§ 漢字", encoding="utf-8")
    words = [sys.executable, "-m", "qlstm", "status", "smoke"]
    for encoding, said in (("utf-8", "żółw-λ₁: § 漢字"), ("ascii", "???w-??: ? ??"),
                           ("iso8859-2", "żółw-??: § ??"), ("cp1252", "?ó?w-??: § ??")):
        result = subprocess.run(words, capture_output=True, check=True,
                                env=os.environ | {"PYTHONIOENCODING": encoding})
        assert result.stdout.decode(encoding).splitlines()[1] == f"  {said}"
    for closed in (">&-", ">&- 2>&- <&-"):
        script = f'"$@" {closed}; echo $?'
        result = subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, text=True)
        assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [(OSError(30, "Read-only file system", "reports/site"), 2,
      "error: [Errno 30] Read-only file system: 'reports/site'\n"),
     (KeyboardInterrupt(), 130, "stopped\n")])
def test_no_command_ends_with_a_traceback_for_what_the_machine_refuses(
        monkeypatch, capsys, error, status, said):
    def fails(*_):
        raise error

    monkeypatch.setattr(progress, "main", fails)
    monkeypatch.setattr(sys, "argv", ["qlstm", "status", "smoke"])
    monkeypatch.delitem(sys.modules, "qlstm.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("qlstm", run_name="__main__")
    assert ended.value.code == status
    assert capsys.readouterr().err == said
