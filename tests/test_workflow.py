import asyncio
import contextlib
import dataclasses
import json
import os
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from jupyter_client.channels import AsyncZMQSocketChannel
from made_up import made_up, quick
from nbclient.exceptions import CellTimeoutError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from papermill import parameterize

from qlstm import ExperimentConfig, grid
from qlstm.__main__ import COMMANDS, main, settle
from qlstm.data import storage
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError
from qlstm.report import kernel
from qlstm.report.kernel import PatientChannel
from qlstm.study import locks, records
from qlstm.study.grid import ARTEFACTS, FROM_ALL
from qlstm.study.tasks import TASKS
from qlstm.workflow import clean, cluster, command_line, made, notebooks, pool, progress, run
from qlstm.workflow import reproduce as workflow
from qlstm.workflow.plan import REPORTED_IN, make_plan

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def reproduce(monkeypatch, capsys):
    """`make reproduce` in this process: exit status and what it said on stderr."""

    def call(*arguments, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        handler = signal.getsignal(signal.SIGTERM)
        status = workflow.main(arguments)
        signal.signal(signal.SIGTERM, handler)
        return status, capsys.readouterr().err

    return call


def one_clear_line(status_and_error, *words):
    status, error = status_and_error
    assert status not in (0, None)
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--profile", "quik"], ["unknown profile 'quik'", "did you mean 'quick'"]),
     (["--only", "table2"], ["did you mean 'table_2'"]),
     (["--datasets", "war_and_piece"], ["did you mean 'war_and_peace'"]),
     (["--seeds", "0"], ["seeds must be a whole number of 1 or more"]),
     (["--epochs", "0"], ["epochs must be a whole number of 1 or more"]),
     (["--epochs", "many"], ["EPOCHS must be a whole number, got 'many'"]),
     (["--jobs", "0"], ["JOBS must be 1 or more"]),
     (["--profile", "paper", "--only", "figure_01", "--datasets", "text8"], ["no runs"]),
     (["--only", "table_4", "--datasets", "penn_word"], ["no runs"]),
     (["--only", "theorie"], ["did you mean 'theory'"])],
)
def test_a_typo_is_one_clear_line_and_nothing_is_made(reproduce, arguments, words, tmp_path):
    result = reproduce(*arguments, QLSTM_REPORTS=str(tmp_path / "reports"))
    one_clear_line(result, *words)
    assert not (tmp_path / "reports").exists()


def test_no_data_and_no_network_is_one_clear_line_and_finished_runs_stay(reproduce, tmp_path):
    (tmp_path / "mirror").mkdir()
    kept = tmp_path / "reports" / "paper" / "runs" / "done" / "record.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("a finished run")
    result = reproduce("--profile", "paper", "--only", "figure_06",
                       QLSTM_REPORTS=str(tmp_path / "reports"), QLSTM_DATA=str(tmp_path / "raw"),
                       QLSTM_MIRROR=str(tmp_path / "mirror"))
    one_clear_line(result, "warpeace_input.txt", str(tmp_path / "raw"), "python_help")
    assert kept.read_text() == "a finished run"


def test_make_data_says_what_is_there_and_what_is_not(reproduce, tmp_path):
    (tmp_path / "my.txt").write_text("Call me Ishmael. " * 100)
    (tmp_path / "mirror").mkdir()
    places = {"QLSTM_DATA": str(tmp_path / "raw"), "QLSTM_MIRROR": str(tmp_path / "mirror")}
    status, error = reproduce(
        "data", "--datasets", f"war_and_peace,{tmp_path / 'my.txt'}", **places)
    assert status == 1
    assert error.startswith("error: war_and_peace: cannot get warpeace_input.txt")
    assert reproduce("data", "--datasets", str(tmp_path / "my.txt"), **places) == (0, "")


def test_make_data_says_words_and_images(monkeypatch, capsys):
    options = workflow.parse(["data", "--datasets", "digits,python_help_words"])
    assert workflow.fetch(options) == 0
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["digits"].startswith("1,197 / 300 / 300 images of 64 pixels, sha256 ")
    assert re.match(
        r"[\d,]+ / [\d,]+ / [\d,]+ words, vocabulary [\d,]+, sha256 ", lines["python_help_words"])


@pytest.mark.parametrize(
    ("arguments", "tasks", "shown"),
    [(["--only", "statistics"], {"sequential_image"}, ["reviewers"]),
     (["--only", "gru"], {"char_lm"}, ["reviewers"]),
     (["--only", "gru,statistics,reviewers"], {"char_lm", "sequential_image"}, ["reviewers"]),
     (["--only", "theory"], set(), ["theory"]), (["--only", "reviewers"], set(), ["reviewers"]),
     (["--only", "table_4,theory"], {"sequential_image"}, ["theory"]),
     (["--only", "figure_04,figure_01"], {"char_lm", "word_lm"}, ["figure_04"])],
)
def test_what_a_selection_trains_and_shows(
        reproduce, pretended, monkeypatch, tmp_path, arguments, tasks, shown):
    """With one record of a BWN on characters there."""
    config = ExperimentConfig(profile="smoke", quantizer="bwn")
    directory = records.run_directory(config, tmp_path)
    directory.mkdir(parents=True)
    records.save(made_up(config), directory / "record.json")
    (directory / "notebook.html").touch()
    monkeypatch.setattr(records, "outdated", lambda *_: "")
    assert reproduce("--profile", "smoke", *arguments, QLSTM_REPORTS=str(tmp_path)) == (0, "")
    plan = json.loads((tmp_path / "smoke" / "plan.json").read_text())
    *trained, made, page = pretended
    for run_id, words in trained[0].items() if tasks else ():
        assert words[-4:] == ["run", run_id, "--profile", "smoke"]
    assert {plan["runs"][run]["task"] for runs in trained for run in runs} == tasks
    assert {name for name in made if not name.startswith("learn/")} == {
        "explore/explore_runs", *(f"report/{name}" for name in shown)}
    assert list(page) == ["report/overview"]
    for name in shown:
        notebook, parameters = notebooks.report_notebook(name)
        words = made[f"report/{name}"]
        assert words[3:5] == ["notebook", str(ROOT / "notebooks" / f"{notebook}.ipynb")]
        assert dict(map(notebooks._parse, words[6:])) == parameters | {
            "profile": "smoke", "save": True}
    assert (tmp_path / "smoke" / "index.html").exists()
    assert plan["records"] == [config.run_id]
    selected = [plan["runs"][run] for run in plan["selected"]]
    if "gru" in arguments[1]:
        assert {run["cell"] for run in selected if run["task"] == "char_lm"} == {"gru"}
    if "statistics" in arguments[1]:
        varied = {(run["initial_gain"], run["state_noise"]) for run in selected
                  if run["task"] == "sequential_image"}
        assert varied == {(gain, noise) for gain in (0.0, 0.1) for noise in (0.0, 0.1)}
    pretended.clear()
    assert reproduce("report", "--profile", "smoke", *arguments) == (0, "")
    assert pretended == []


def test_the_plan_of_the_paper_says_what_is_most_wanted(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    words = ["plan", "--datasets", "war_and_peace", "--profile"]
    said = ["most wanted: 12 runs, 0 have their record; next"]
    for rest, shown in ((["paper"], said), (["paper", "--only", "figure_06"], []), (["quick"], [])):
        assert workflow.reproduce(workflow.parse([*words, *rest])) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(", with")[0] for line in lines if "most wanted" in line] == shown


def test_a_data_set_is_used_where_it_fits():
    runs = workflow.grid("paper", datasets=["penn_word"])
    assert {(config.dataset, config.task, config.cell) for config in runs} == {
        ("penn_word", "word_lm", "lstm")}
    assert {config.variant for config in runs} == {"small", "large", "deep"}
    assert {config for config in runs if not config.at_paper_scale} == set(
        workflow.grid("paper", only=["diagnoses"]))
    assert (workflow.grid("paper", only=["table_2", "table_4", "figure_06"], datasets=["penn_word"])
            == [])
    assert (
        len(workflow.grid("paper", only=["table_3"], datasets=["penn_word", "penn_char"])) == 2 * 38
    )
    assert {config.task for config in workflow.grid("quick", datasets=["penn_word", "digits"])} == {
        "word_lm", "sequential_image"}


def test_reports_that_cannot_be_written_are_named(reproduce, tmp_path):
    (tmp_path / "reports").write_text("a file where the folder should be")
    one_clear_line(reproduce("--profile", "smoke", QLSTM_REPORTS=str(tmp_path / "reports")),
                   str(tmp_path / "reports"))


@pytest.mark.parametrize(
    ("error", "line"),
    [(OSError(30, "Read-only file system", "r/.lock"),
      "r/.lock: Read-only file system; make it writable or set QLSTM_REPORTS"),
     (OSError(2, "No such file", "notebooks/learn"), "notebooks/learn: No such file"),
     (OSError(28, "No space left on device"), "[Errno 28] No space left on device")])
def test_what_the_machine_refuses_is_named_with_the_way_out_where_there_is_one(
        reproduce, monkeypatch, error, line):
    def refuses(_):
        raise error

    monkeypatch.setattr(workflow, "reproduce", refuses)
    assert reproduce("--profile", "smoke") == (2, f"error: {line}\n")


def test_a_second_reproduce_at_once_stops_with_a_status_of_its_own(reproduce, tmp_path):
    (tmp_path / "smoke").mkdir()
    with locks.exclusive(tmp_path / "smoke"):
        status, error = reproduce("--profile", "smoke", QLSTM_REPORTS=str(tmp_path))
    assert status == 75
    assert "another `make reproduce` works in" in error


PLAN = {"profile": "quick", "artefacts": ["figure_01", "figure_02", "table_2", "theory"],
        "lessons": ["learn/01", "learn/02"], "failures": {}}
FIGURES, REPORTS = ["report/figure_01", "report/figure_02"], ["report/table_2", "report/theory"]
ALL_REPORTS = [*FIGURES, *REPORTS, made.EXPLORE]


@pytest.fixture
def changing(tmp_path, monkeypatch):
    """A checkout of a few files and the folder of a profile: a function that makes what is to be
    made of a plan and records, and names it; and the checkout."""
    root = tmp_path / "checkout"
    for name in ("qlstm/layer.py", "qlstm/report/tables.py", "qlstm/report/published.csv",
                 "qlstm/course/demos.py", "qlstm/workflow/run.py",
                 "notebooks/learn/models/m.safetensors", "notebooks/explore/explore_runs.ipynb",
                 *(f"notebooks/learn/{name}.ipynb" for name in ("01", "02")),
                 *(f"notebooks/report/{name}.ipynb"
                   for name in ("figure", "table", "theory", "overview"))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("as it is")
    monkeypatch.setattr(made, "ROOT", root)
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    (tmp_path / "quick").mkdir()

    def make(checksums="ab", **plan):
        made_from = made.MadeFrom(tmp_path / "quick")
        found = [{"run_id": letter, "checksum": letter} for letter in checksums]
        todo = made_from.outdated(made.copies(PLAN | plan, found))
        for name, copy in todo.items():
            made_from.place(name).parent.mkdir(parents=True, exist_ok=True)
            made_from.place(name).touch()
            made_from.place(name).with_suffix(".html").touch()
            made_from.note(name, copy)
        return list(todo)

    assert make() == [*FIGURES, *REPORTS, made.EXPLORE, *PLAN["lessons"], made.OVERVIEW]
    assert make() == []
    return make, root


@pytest.mark.parametrize(
    ("changed", "again"),
    [("qlstm/layer.py", [*ALL_REPORTS, *PLAN["lessons"]]),
     ("qlstm/report/published.csv", [*ALL_REPORTS, *PLAN["lessons"]]),
     ("qlstm/report/another.py", [*ALL_REPORTS, *PLAN["lessons"]]),
     ("qlstm/course/demos.py", PLAN["lessons"]), ("qlstm/workflow/run.py", PLAN["lessons"]),
     ("notebooks/learn/models/m.safetensors", PLAN["lessons"]),
     ("notebooks/learn/01.ipynb", ["learn/01"]), ("notebooks/report/figure.ipynb", FIGURES),
     ("notebooks/report/theory.ipynb", ["report/theory"]),
     ("notebooks/report/overview.ipynb", [made.OVERVIEW]),
     ("notebooks/learn/Untitled.txt", []), ("qlstm/.#layer.py", []), ("qlstm/layer.py~", []),
     ("qlstm/core.1234", []), ("qlstm/.ipynb_checkpoints/layer-checkpoint.py", []),
     ("notebooks/learn/models/.ipynb_checkpoints/m-checkpoint.json", []),
     ("notebooks/learn/records/.DS_Store", [])],
)
def test_what_is_made_again_when_a_file_changes(changing, changed, again):
    make, root = changing
    (root / changed).parent.mkdir(exist_ok=True)
    (root / changed).write_text("another")
    overview = [made.OVERVIEW] if set(again) - set(PLAN["lessons"]) else []
    assert sorted(make()) == sorted({*again, *overview})
    assert make() == []


def test_nothing_is_made_again_for_links_to_nothing_folders_and_other_line_ends(changing):
    make, root = changing
    (root / "qlstm/broken.py").symlink_to("nothing")
    (root / "notebooks/learn/models/x.json").mkdir()
    for path in ("qlstm/layer.py", "qlstm/report/published.csv", "notebooks/report/theory.ipynb"):
        (root / path).write_bytes(b"two\nlines\n")
    make()
    for path in ("qlstm/layer.py", "qlstm/report/published.csv", "notebooks/report/theory.ipynb"):
        (root / path).write_bytes(b"two\r\nlines\r\n")
    assert make() == []


def test_what_is_no_lesson_is_not_executed(tmp_path, monkeypatch):
    learn = tmp_path / "notebooks/learn"
    (learn / ".ipynb_checkpoints").mkdir(parents=True)
    (learn / "07_folder.ipynb").mkdir()
    (learn / "08_broken.ipynb").symlink_to("nothing")
    for name in ("01_quantizers", "02_the_lstm", "02b_page", "START", "Untitled",
                 "01_quantizers-Copy1", "01_x (ada)", ".#02_the_lstm",
                 ".ipynb_checkpoints/01_quantizers"):
        (learn / f"{name}.ipynb").touch()
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    plan = make_plan("smoke", [], training=False)
    assert plan["lessons"] == [
        "learn/01_quantizers", "learn/02_the_lstm", "learn/02b_page", "learn/START"]


def test_git_gives_every_file_the_same_line_ends(tmp_path):
    """Also where core.autocrlf asks for others: scripts run, and digests are equal."""
    def git(*words):
        return subprocess.run(["git", "-C", tmp_path, "-c", "core.autocrlf=true", *words],
                              check=True, capture_output=True, text=True).stdout.split()

    git("init", "-q")
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    for name in ("install.sh", "record.json", "Snakefile", "text.ipynb", "figure.png"):
        (tmp_path / name).write_bytes(b"1\r\n2\n" if name == "figure.png" else b"1\n2\n")
    git("add", ".")
    git("checkout-index", "-f", "-a", "--prefix=out/")
    for path in (tmp_path / "out").glob("[!.]*"):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_what_is_made_again_when_the_records_change(changing, tmp_path):
    make, _ = changing
    for checksums in ("ac", "a", "abc"):
        assert make(checksums) == [*ALL_REPORTS, made.OVERVIEW]
    assert make("abc", artefacts=["figure_01"]) == [made.OVERVIEW]
    assert make("abc", artefacts=["figure_01"], failures={"d": "no memory"}) == [made.OVERVIEW]
    (tmp_path / "quick" / "runs" / "a").mkdir(parents=True)
    (tmp_path / "quick" / "runs" / "a" / "notebook.html").touch()
    assert make("abc", artefacts=["figure_01"]) == [made.OVERVIEW]
    assert make("", artefacts=[]) == [made.OVERVIEW]


def test_runs_by_hand_are_explored(changing, tmp_path):
    make, _ = changing
    record = tmp_path / "by_hand" / "quick" / "runs" / "mine" / "record.json"
    record.parent.mkdir(parents=True)
    for content in ("one", "another"):
        record.write_text(content)
        assert make() == [made.EXPLORE, made.OVERVIEW]
        assert make() == []


def test_what_is_lost_or_was_half_made_is_made_again(changing, tmp_path):
    make, root = changing
    folder = tmp_path / "quick"
    (folder / "notebooks" / "report" / "theory.html").unlink()
    assert make() == ["report/theory", made.OVERVIEW]
    (folder / "notebooks" / "learn" / "01.html").unlink()
    assert make() == ["learn/01"]
    (root / "notebooks/report/theory.ipynb").write_text("another")
    found = [{"run_id": letter, "checksum": letter} for letter in "ab"]
    made.MadeFrom(folder).outdated(made.copies(PLAN, found))  # and is killed
    (root / "notebooks/report/theory.ipynb").write_text("as it is")
    assert make() == ["report/theory", made.OVERVIEW]
    (folder / "made_from.json").write_text("[half")
    assert len(make()) == len(ALL_REPORTS) + 3


def test_a_notebook_that_fails_is_named_with_its_cause_and_the_others_are_made(
        pretended, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    plain = pool.side_by_side

    def two_fail(commands, jobs, *, ended, watch, logs, **_):
        watch()
        plain({name: words for name, words in commands.items() if "0" not in name}, jobs, ended)
        logs.mkdir(parents=True, exist_ok=True)
        (logs / "01_quantizers.log").write_text("error: 01.ipynb, cell 2: ValueError: no\nbye\n")
        for name, status in {"learn/01_quantizers": 1, "learn/02_the_lstm": -9}.items():
            if name in commands:
                ended(name, status)
        return pool.Outcome(dict.fromkeys([name for name in commands if "0" in name], 1), [], [])

    monkeypatch.setattr(pool, "side_by_side", two_fail)
    assert workflow.main(["report", "--profile", "smoke", "--only", "theory"]) == 1
    said = capsys.readouterr()
    assert "failed: learn/01_quantizers: 01.ipynb, cell 2: ValueError: no\n" in said.out
    assert "failed: learn/02_the_lstm: its process was killed (signal 9)" in said.out
    assert "lessons, tables and figures: 9 to make\n" in said.out
    assert said.err == f"error: the report is incomplete, see {tmp_path / 'smoke' / 'logs'}\n"
    assert (tmp_path / "smoke" / "index.html").exists()
    monkeypatch.setattr(pool, "side_by_side", plain)
    assert workflow.main(["report", "--profile", "smoke", "--only", "theory"]) == 0
    assert all("0" in name for name in pretended[-2])
    assert list(pretended[-1]) == [made.OVERVIEW]  # which was made without them
    pretended.clear()
    assert workflow.main(["report", "--profile", "smoke", "--only", "theory"]) == 0
    assert pretended == []


def test_a_page_that_cannot_be_written_is_made_again(pretended, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    command, plain = ["report", "--profile", "smoke", "--only", "theory"], workflow.to_html

    def full(notebook, page, code):
        raise OSError(28, "No space left on device", str(page))

    monkeypatch.setattr(workflow, "to_html", full)
    assert workflow.main(command) == 2
    assert "index.html: No space left on device" in capsys.readouterr().err
    pretended.clear()
    monkeypatch.setattr(workflow, "to_html", plain)
    assert workflow.main(command) == 0
    assert [list(names) for names in pretended] == [[made.OVERVIEW]]
    assert (tmp_path / "smoke" / "index.html").exists()


def test_a_page_is_written_as_a_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    write_notebook(tmp_path / "n.ipynb", "x = 1")
    (tmp_path / "n.html").write_text("as it was")
    places = []
    monkeypatch.setattr(notebooks, "write_atomically", lambda path, content: places.append(path))
    notebooks.to_html(tmp_path / "n.ipynb")
    assert places == [tmp_path / "n.html"]
    assert (tmp_path / "n.html").read_text() == "as it was"


def test_the_log_of_a_trained_run_stays_when_its_notebook_is_made(
        pretended, monkeypatch, tmp_path):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    config, folders, plain = grid("smoke")[0], {}, pool.side_by_side
    directory = records.run_directory(config)
    directory.mkdir(parents=True)
    records.save(made_up(config), directory / "record.json")

    def noting(commands, jobs, *, logs, **more):
        folders.update(dict.fromkeys(commands, logs))
        return plain(commands, jobs, **more)

    monkeypatch.setattr(pool, "side_by_side", noting)
    workflow.main(["report", "--profile", "smoke", "--only", "theory"])
    logs = tmp_path / "smoke" / "logs"
    assert folders.pop(config.run_id) == logs / "notebooks"
    assert set(folders.values()) == {logs}


def test_what_a_cluster_lacks_is_installed_for_this_python(reproduce, monkeypatch):
    monkeypatch.setattr(workflow, "find_spec", lambda name: None)
    one_clear_line(reproduce("--cluster", "slurm"), f"{shlex.quote(sys.executable)} -m pip install",
                   "[slurm]")


def test_make_clean_needs_no_installation_where_there_is_nothing_to_ask(tmp_path):
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def installs():
        return "install.sh" in subprocess.run(
            ["make", "-n", "-f", str(ROOT / "Makefile"), "clean"], cwd=tmp_path, check=True,
            capture_output=True, text=True, env=os.environ | {"CONDA_DEFAULT_ENV": ""}).stdout

    assert not installs()
    (tmp_path / "reports" / "quick").mkdir(parents=True)
    assert installs()  # its runs are looked at before they are removed


def test_notebooks_are_counted_in_one_line_with_the_time_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    count = progress.Count("tables and figures", 18, progress.Line())
    count.show()
    clock[0] = 30.0
    for _ in range(5):
        count.one_more()
    clock[0] = 32.0
    count.show()
    shown = [line.strip() for line in capsys.readouterr().out.split("\r")]
    assert shown == ["", "tables and figures: 0 of 18", "tables and figures: 5 of 18, 1:16 left"]


@pytest.mark.parametrize(
    ("columns", "text", "shown"),
    [(80, "3 of 28 runs done", "3 of 28 runs done"), (12, "3 of 28 runs done", "3 of 28 ..."),
     (11, "戦争と平和 1/2", "戦争と..."), (4, "3 of 28", "..."), (3, "3 of 28", ".."),
     (1, "3 of 28", "")])
def test_the_line_fits_the_terminal(monkeypatch, capsys, columns, text, shown):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.shutil, "get_terminal_size",
                        lambda: os.terminal_size((columns, 9)))
    monkeypatch.setenv("TERM", "xterm")
    progress.Line().show(text)
    said = capsys.readouterr().out
    assert said.rstrip() == f"\r{shown}".rstrip()
    assert progress._columns(said[1:]) == columns - 1


def test_a_terminal_that_cannot_go_back_gets_the_news_alone(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    line = progress.Line()
    line.show("1 of 2, epoch 1", "1 of 2")
    line.show("1 of 2, epoch 2")
    line.clear()
    line.say("failed")
    assert capsys.readouterr().out == "1 of 2\nfailed\n"


def test_a_cluster_gets_the_runs_with_its_own_settings(tmp_path):
    """Snakemake is there where a cluster is (make test-slurm)."""
    pytest.importorskip("snakemake_executor_plugin_slurm")
    from snakemake.cli import parse_args

    content = make_plan("smoke", grid("smoke", only=["figure_04"]), training=True)
    (tmp_path / "plan.json").write_text(json.dumps(content))
    words = cluster.command("slurm", tmp_path, 100)
    _, settings = parse_args(words)
    assert (settings.latency_wait, settings.executor, settings.retries) == (60, "slurm", 3)
    listed = subprocess.run(
        [sys.executable, "-m", "qlstm.workflow.cluster", *words, "--dry-run"], capture_output=True,
        text=True, cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    for run_id in content["todo"]:
        assert f"-m qlstm run {run_id} --profile smoke" in listed.stdout


def test_a_cluster_gets_no_settings_but_its_own(tmp_path, monkeypatch):
    """By Snakemake's own parser, which also looks for some where it is called, at home and in the
    environment."""
    parser = pytest.importorskip("snakemake.cli")
    own = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    # without the plugin, which has the executor and the words that begin like it
    own = {key: value for key, value in own.items() if not key.startswith("slurm")}
    others = "latency-wait: 5\nretries: 9\ncores: 7\ndry-run: true\n"
    for place in ("default", "profiles/default", "workflow/profiles/default", ".config/snakemake/x",
                  ".config/snakemake/default"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.yaml").write_text(others)
    (tmp_path / "workflow/profiles/slurm").mkdir()
    (tmp_path / "workflow/profiles/slurm/config.yaml").write_text(
        yaml.safe_dump(own | {"executor": "local"}))
    (tmp_path / "workflow/Snakefile").touch()
    monkeypatch.setattr(cluster, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": str(tmp_path), "SNAKEMAKE_PROFILE": "x"}.items():
        monkeypatch.setenv(name, value)
    _, settings = parser.parse_args(cluster.command("slurm", tmp_path, 100))
    assert (settings.executor, settings.jobs, settings.cores, settings.dryrun) == (
        "local", 100, None, False)
    for key in ("latency-wait", "retries", "keep-going", "rerun-incomplete", "nolock"):
        assert getattr(settings, key.replace("-", "_")) == own[key]
    assert settings.profile == [str(tmp_path / "workflow/profiles/slurm")]


def test_an_unknown_run_is_named():
    result = subprocess.run([sys.executable, "-m", "qlstm", "run", "python_help-bwn-nome-seed0"],
                            capture_output=True, text=True)
    one_clear_line((result.returncode, result.stderr), "did you mean 'python_help-bwn-none-seed0'")


def test_the_command_module_cannot_hide_the_function():
    code = "import qlstm, qlstm.workflow.run\nassert callable(qlstm.run)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_gives_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: python -m qlstm ")


def test_a_variable_that_make_does_not_know_is_an_error():
    result = subprocess.run(
        ["make", "-n", "reproduce", "PROFIL=paper"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert 'unknown variable in "PROFIL=paper"' in result.stderr
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert all(f"make {target}" in shown for target in targets if target != "help")


@pytest.fixture
def cleaning(tmp_path, monkeypatch):
    """Reports with a run of the grid of smoke, and a function that adds runs."""
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))

    def add(config):
        directory = records.run_directory(config)
        directory.mkdir(parents=True, exist_ok=True)
        records.save(made_up(config), directory / "record.json")
        return directory

    (tmp_path / "paper").mkdir()
    add(grid("smoke")[0])
    return add


def test_make_clean_removes_what_is_made_again(cleaning, tmp_path):
    assert clean.main([]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["paper"]
    assert clean.main([]) == 0


@pytest.mark.parametrize("answer", ["", "n", "y"])
def test_make_clean_asks_for_runs_that_were_trained_by_hand(
        cleaning, tmp_path, monkeypatch, capsys, answer):
    others = [dataclasses.replace(grid("smoke")[0], **own) for own in ({"seed": 7}, {"epochs": 9})]
    for config in others:
        cleaning(config)
    begun = tmp_path / "smoke" / "runs" / "python_help-mine-none-seed0" / "epochs.jsonl"
    begun.parent.mkdir()
    begun.touch()
    assert clean.main([]) == 1  # no terminal
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "3 runs that make reproduce does not make again by itself:",
        *sorted(f"  smoke: {run}" for run in [begun.parent.name, *(run.run_id for run in others)])]
    assert said.err == "error: nothing is removed; make clean YES=1 removes these too\n"
    assert begun.exists()
    monkeypatch.setattr(clean.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert clean.main([]) == (0 if answer == "y" else 1)
    assert begun.exists() == (answer != "y")
    assert clean.main(["--yes"]) == 0
    assert not begun.exists()


def write_notebook(path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """What a user may have set on his machine; a line of it each would change or break a notebook.
    The paths are as long as those of clusters."""
    home, temporary = tmp_path / "home", tmp_path / ("t" * 90)
    rc = "backend: TkAgg\nfigure.dpi: 33\ntext.usetex: True\n"
    for place, content in {
            "home/.ipython/profile_default/startup/mine.py": "x = None\nstartup = 1",
            "home/.ipython/profile_default/ipython_config.py":
                "c.InteractiveShellApp.exec_lines = ['line = 1']",
            "home/.ipython/profile_default/ipython_kernel_config.py":
                "c.InlineBackend.figure_formats = {'svg'}",
            "home/.local/share/jupyter/kernels/python3/kernel.json":
                '{"argv": ["false"], "display_name": "Mine", "language": "python"}',
            "home/pythonrc.py": "pythonrc = 1", "home/rc": rc, "matplotlibrc": rc}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(content)
    temporary.mkdir()
    for name, value in {
            "HOME": home, "MPLBACKEND": "TkAgg", "MATPLOTLIBRC": home / "rc",
            "IPYTHONDIR": home / ".ipython", "PYTHONSTARTUP": home / "pythonrc.py",
            "JUPYTER_DATA_DIR": home / ".local/share/jupyter",
            "JUPYTER_RUNTIME_DIR": "/dev/null/no",
            "JUPYTER_DEFAULT_PROVISIONER_NAME": "mine", "PYTHONPATH": ""}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("in_a_folder", [True, False])  # its sockets; not so on Windows
def test_a_notebook_runs_with_parameters_whatever_the_user_has_set(
        tmp_path, monkeypatch, in_a_folder):
    monkeypatch.setattr(kernel, "IN_A_FOLDER", in_a_folder)
    write_notebook(
        tmp_path / "n.ipynb", "x = 1  # a number", "print(6 * x)",
        "import matplotlib, qlstm\nimport matplotlib.pyplot as plt\n"
        "figure, axes = plt.subplots()\nplt.close(figure)\nfigure",
        "print(matplotlib.get_backend(), plt.rcParams['figure.dpi'], plt.rcParams['text.usetex'])\n"
        "print({'startup', 'line', 'pythonrc'} & set(globals()), qlstm.__file__)")
    content = json.loads((tmp_path / "n.ipynb").read_text())
    content["metadata"] = {"kernelspec": {"name": "ir", "display_name": "R"}}  # of another program
    (tmp_path / "n.ipynb").write_text(json.dumps(content))
    notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out" / "n.ipynb", {"x": 7})
    assert "42" in (tmp_path / "out" / "n.html").read_text()
    *_, picture, said = nbformat.read(tmp_path / "out" / "n.ipynb", as_version=4).cells
    assert set(picture.outputs[-1].data) == {"image/png", "text/plain"}
    assert said.outputs[0].text.splitlines() == [
        "module://matplotlib_inline.backend_inline 100.0 False",
        f"set() {ROOT / 'qlstm' / '__init__.py'}"]


def test_a_cell_that_fails_is_one_line(tmp_path):
    write_notebook(tmp_path / "n.ipynb", "x = 1", "assert x < 9, 'too\\nlarge'")
    with pytest.raises(ConfigError, match="unknown parameter 'y'"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "m.ipynb", {"y": 7})
    with pytest.raises(
            notebooks.NotebookError, match=r"^n.ipynb, cell 2: AssertionError: too large$"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "m.ipynb", {"x": 10})
    assert (tmp_path / "m.ipynb").exists()  # kept, to look at


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "NotJSONError"), (b"\xff\xfe{", "UnicodeDecodeError"), (b"[]", ""), (b"null", ""),
     (b"{}", ""), (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}', ""),
     (b'{"nbformat": 9, "nbformat_minor": 0, "metadata": {}, "cells": []}', "9")],
)
def test_what_is_no_notebook_is_one_line(tmp_path, capsys, content, words):
    (tmp_path / "n.ipynb").write_bytes(content)
    assert notebooks.main([str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'n.ipynb'}: no notebook that can be read: ")
    assert words in line
    assert not (tmp_path / "out.ipynb").exists()


@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [("exit 3", 1, "its kernel ended with status 3"),
     ("kill -9 $$", 137, "its kernel was killed (signal 9); if nobody did that, the memory was")])
def test_a_kernel_that_dies_is_one_line(tmp_path, monkeypatch, capsys, ending, status, words):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{ending}\n")
    (tmp_path / "python").chmod(0o755)
    write_notebook(tmp_path / "n.ipynb", "x = 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert notebooks.main([str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb")]) == status
    assert f"error: n.ipynb: {words}" in capsys.readouterr().err.splitlines()[-1]


def test_a_cell_that_says_nothing_in_time_is_one_line(tmp_path, monkeypatch, capsys):
    import papermill

    def slow(*_, **__):
        raise CellTimeoutError("A cell timed out\n, after 4 seconds\n")

    write_notebook(tmp_path / "n.ipynb", "x = 1")
    monkeypatch.setattr(papermill, "execute_notebook", slow)
    assert notebooks.main([str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb")]) == 1
    assert capsys.readouterr().err == "error: n.ipynb: A cell timed out\n"


def test_a_kernel_that_never_answers_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "python").chmod(0o755)
    write_notebook(tmp_path / "n.ipynb", "x = 1")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(notebooks, "PATIENCE", 0)
    assert notebooks.main([str(tmp_path / "n.ipynb"), str(tmp_path / "out.ipynb")]) == 1
    assert "n.ipynb: Kernel didn't respond in 0 seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shown", "missing"),
    [({"text/plain": "<Figure size 640x480 with 2 Axes>"}, True),
     ({"text/plain": "<Figure size 640x480 with 2 Axes>", "image/png": ""}, False),
     ({"text/plain": "<Figure size 640x480 with 0 Axes>"}, False), ({"text/plain": "2"}, False)])
def test_a_figure_without_a_picture_is_an_error(shown, missing):
    cell = nbformat.v4.new_code_cell(outputs=[nbformat.v4.new_output("display_data", shown)])
    executed = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(""), cell])
    with (pytest.raises(notebooks.NotebookError, match=r"n\.ipynb, cell 1: a figure has no picture")
          if missing else contextlib.nullcontext()):
        notebooks._check_pictures("n.ipynb", executed)


def test_a_reply_that_nobody_was_told_of_is_found(tmp_path, monkeypatch):
    """What a cell with widgets does now and then (jupyter/nbclient#312)."""
    plain, missed = AsyncZMQSocketChannel.get_msg, []

    async def deaf(self, timeout=None):
        if isinstance(self, PatientChannel) and len(missed) < 3:
            missed.append(timeout)
            await asyncio.sleep(60 if timeout is None else 0.01)
            raise queue.Empty
        return await plain(self, timeout)

    monkeypatch.setattr(AsyncZMQSocketChannel, "get_msg", deaf)
    write_notebook(tmp_path / "n.ipynb", "x = 1", "print(6 * x)")
    notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out.ipynb", {"x": 7})
    assert len(missed) == 3
    assert None not in missed


def test_a_notebook_may_lie_in_a_folder_whose_name_has_braces(tmp_path, monkeypatch):
    places = []
    folder = tmp_path / "{x} {}"
    folder.mkdir()
    write_notebook(folder / "n.ipynb", "x = 1")

    def execute(source, target, parameters, **_):
        places.extend(parameterize.parameterize_path(path, parameters) for path in (source, target))
        return nbformat.v4.new_notebook()

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.setattr(notebooks, "to_html", lambda notebook: None)
    notebooks.execute(folder / "n.ipynb", folder / "out.ipynb", {"x": 2})
    assert places == [str(folder / "n.ipynb"), str(folder / "out.ipynb")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("table_2,figure_01 theory", ["table_2", "figure_01", "theory"]), (" , ", None),
     ("my text, 1.txt", ["my text, 1.txt"]), ("digits, my text.txt", ["digits", "my text.txt"])],
)
def test_names_of_files_may_have_blanks(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my text, 1.txt", "my text.txt"):
        (tmp_path / name).touch()
    assert command_line.names(text) == expected


def test_what_a_command_starts_is_of_the_same_checkout(monkeypatch, tmp_path):
    given = {"PYTHONPATH": "/mine", "QLSTM_REPORTS": "my reports", "QLSTM_DATA": "~/data",
             "QLSTM_MIRROR": "https://a.b/c", "HOME": "/home/me"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settle()
    wanted = {"PYTHONPATH": f"{ROOT}{os.pathsep}/mine", "QLSTM_REPORTS": f"{tmp_path}/my reports",
              "QLSTM_DATA": "/home/me/data", "QLSTM_MIRROR": "https://a.b/c"}
    assert {name: os.environ[name] for name in wanted} == wanted
    monkeypatch.chdir(ROOT)
    settle()
    (tmp_path / "qlstm").mkdir()
    (tmp_path / "qlstm" / "__main__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=re.escape(f"imports the one of {ROOT}; call")):
        settle()


def test_papermill_by_hand_refuses_a_typo(tmp_path):
    command = [sys.executable, "-m", "papermill",
               str(ROOT / "notebooks/run/experiment.ipynb"), str(tmp_path / "out.ipynb"),
               "-p", "quantizer", "binary_conect", "-p", "directory", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode != 0
    assert "did you mean 'binary_connect'?" in result.stderr
    assert not (tmp_path / "run").exists()


def test_states_of_runs(tmp_path):
    assert progress.state(tmp_path) == ("waiting", {})
    (tmp_path / "epochs.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    with locks.exclusive(tmp_path):
        assert progress.state(tmp_path) == ("running", {"epoch": 2})
    (tmp_path / "error.txt").write_text("cause\n")
    assert progress.state(tmp_path) == ("failed", {"cause": "cause"})
    folder = records.run_directory(quick(), tmp_path)
    (folder / "record.json").mkdir(parents=True)
    state, about = progress.state(folder)
    assert (state, "record.json: no readable record (not a file)" in about["cause"]) == (
        "failed", True)
    (folder / "record.json").rmdir()
    records.save(made_up(quick()), folder / "record.json")
    assert progress.state(folder) == ("done", {})
    (folder / "record.json").write_text('{"schema": 3')
    assert "record.json: no readable record" in progress.state(folder)[1]["cause"]


@pytest.mark.parametrize("line", ["5", "null", "[" * 10**5, '{"epoch": "x", "valid_metric": []}',
                                  '{"epoch": NaN}', '{"epoch": 1, "valid_metric": 2}', "\xff", ""])
def test_status_reads_over_a_damaged_history(tmp_path, capsys, line):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "epochs.jsonl").write_text(line, encoding="latin-1")
    (folder / "underway.json").write_text(line, encoding="latin-1")
    for plan in (line, json.dumps({"selected": 5, "runs": {"mine": 5}}), "[]"):
        (tmp_path / "plan.json").write_text(plan, encoding="latin-1")
        with locks.exclusive(folder):
            assert progress.status(tmp_path) == 0
        assert "running: 1\n  mine: " in capsys.readouterr().out


def test_status_counts_runs_alone(tmp_path, capsys):
    for name in ("my-run", ".ipynb_checkpoints"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    for name in (".DS_Store", "core"):
        (tmp_path / "runs" / name).touch()
    assert progress.status(tmp_path) == 0
    assert "waiting: 1\n" in capsys.readouterr().out


def test_status_names_each_tasks_metric(tmp_path, capsys):
    runs = {"word_lm": ("words", "ppl 101.500"), "char_lm": ("chars", "bpc 101.500"),
            "sequential_image": ("digits", "accuracy 101.500")}
    plan = {"runs": {}, "selected": [],
            "metrics": {name: task.metric.name for name, task in TASKS.items()}}
    with contextlib.ExitStack() as held:
        for task, (run, _) in runs.items():
            folder = tmp_path / "runs" / run
            folder.mkdir(parents=True)
            (folder / "epochs.jsonl").write_text(
                '{"epoch": 2, "valid_metric": 101.5, "seconds_left": 90}\n')
            held.enter_context(locks.exclusive(folder))
            plan["runs"][run] = quick(epochs=4).as_dict() | {"dataset": run, "task": task}
            plan["selected"].append(run)
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        assert progress.status(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    for run, metric in runs.values():
        assert f"  {run}: epoch 2/4, validation {metric}, about 1.5 min left" in lines


def test_every_report_has_its_notebook_which_takes_what_it_is_given():
    names = [name for name in ARTEFACTS if name not in REPORTED_IN] + FROM_ALL + ["overview"]
    needed = {notebook for notebook, _ in map(notebooks.report_notebook, names)}
    there = {f"report/{path.stem}" for path in (ROOT / "notebooks" / "report").glob("*.ipynb")}
    assert there == needed | {"report/bench"}  # that one is of make bench
    assert set(REPORTED_IN.values()) <= set(names)
    for name in [*names, "bench"]:
        notebook, parameters = notebooks.report_notebook(name)
        content = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
        first = content.cells[index_of_parameters(content)].source
        known = {}
        exec(first, {}, known)
        profile = set() if name == "bench" else {"profile"}
        assert known.keys() == {*parameters, *profile, "save"}, notebook
        assert known["save"] is False


def index_of_parameters(notebook):
    (index,) = [index for index, cell in enumerate(notebook.cells)
                if "parameters" in cell.metadata.get("tags", [])]
    return index


def test_texts_name_notebooks_that_are_there():
    named = re.compile(r"`((?:learn|report|run|explore)/\w+\.ipynb)`")
    folder, found = ROOT / "notebooks", []
    texts = [path.read_text() for path in folder.rglob("*.md")]
    for path in folder.glob("*/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        texts += [cell.source for cell in cells if cell.cell_type == "markdown"]
    for text in texts:
        found += named.findall(text)
    assert "report/table.ipynb" in found
    assert [name for name in found if not (folder / name).exists()] == []


def test_a_report_executed_by_hand_changes_no_file():
    """What is written is tracked by git, where the profile is paper: only make report and make
    bench write it."""
    writes = re.compile(r"\b(save|write\w*|to_(csv|html|latex|json)|savefig)\(")
    for path in (ROOT / "notebooks" / "report").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and writes.search(cell.source):
                at = re.search(r"(?m)^if save:\n", cell.source)
                assert at, f"{path.name}: {cell.source}"
                before, after = cell.source[:at.start()], cell.source[at.end():]
                assert not writes.search(before), f"{path.name}: {before}"
                assert all(line.startswith((" ", "\n")) for line in after.splitlines(True))


def test_the_run_notebook_takes_all_settings():
    assert list((ROOT / "notebooks" / "run").glob("*.ipynb")) == [run.NOTEBOOK]
    notebook = nbformat.read(run.NOTEBOOK, as_version=4)
    source = notebook.cells[index_of_parameters(notebook)].source
    namespace = {}
    exec(source, {}, namespace)
    others = ["directory", "device", "backend", "train"]
    assert set(namespace) == {
        field.name for field in dataclasses.fields(ExperimentConfig)} | set(others)
    assert all("#" in line for line in source.splitlines())
    for task in TASKS:
        config = ExperimentConfig.from_parameters(namespace | {"task": task}, *others)
        assert (config.profile, config.task) == ("quick", task)


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert python.startswith("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=") + ".0")
    assert pip == "pip"
    # nothing but the project itself, so that the list of dependencies stands in pyproject.toml
    # alone
    assert from_pip == {"pip": ["-c constraints.txt", "-e .[test]"]}


def test_constraints_pin_every_dependency_within_its_range():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name.lower()] = requirement
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + list(chain.from_iterable(extras.values())):
        requirement = Requirement(text)
        marker = requirement.marker
        if requirement.name == "qlstm" or (marker is not None and not marker.evaluate()):
            continue
        pin = str(pins[requirement.name.lower()].specifier).removeprefix("==")
        assert requirement.specifier.contains(pin), text
        with contextlib.suppress(PackageNotFoundError):  # some are not installed by make setup
            assert version(requirement.name).partition("+")[0] == pin, (
                f"installed {requirement.name} is not the pinned one")


def test_notebooks_are_committed_clean():
    for path in storage.files(ROOT / "notebooks", "**/*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if path.parent.name != "learn":
            assert not any(cell.outputs or cell.execution_count for cell in code), (
                f"{path.name}: strip its outputs")
            assert not any(re.search(r"^\s*(def|class) ", cell.source, re.M) for cell in code), (
                f"{path.name} defines a function")
        assert "papermill" not in notebook.metadata, path.name


def test_run_directories_follow_the_reports_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    config = ExperimentConfig(profile="paper", dataset="text8")
    assert (records.run_directory(config)
            == Path(tmp_path) / "paper" / "runs" / "text8-full_precision-none-seed0")
