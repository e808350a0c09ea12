import asyncio
import contextlib
import dataclasses
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import filelock
import nbformat
import pytest
import yaml
from jupyter_client.channels import AsyncZMQSocketChannel
from made_up import made_up, quick
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from qlstm import ExperimentConfig, grid
from qlstm.__main__ import COMMANDS, main
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError
from qlstm.study import records
from qlstm.study.grid import ARTEFACTS, FROM_ALL
from qlstm.study.tasks import TASKS
from qlstm.workflow import clean, cluster, made, notebooks, pool, progress, run
from qlstm.workflow import reproduce as workflow
from qlstm.workflow.kernel_client import PatientChannel
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
    assert all(config.at_paper_scale for config in runs)
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


def test_a_second_reproduce_at_once_stops_with_a_status_of_its_own(reproduce, tmp_path):
    (tmp_path / "smoke").mkdir()
    with filelock.FileLock(tmp_path / "smoke" / ".reproduce.lock"):
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
     ("notebooks/learn/Untitled.txt", []), ("qlstm/.#layer.py", [])],
)
def test_what_is_made_again_when_a_file_changes(changing, changed, again):
    make, root = changing
    (root / changed).write_text("another")
    overview = [made.OVERVIEW] if set(again) - set(PLAN["lessons"]) else []
    assert sorted(make()) == sorted({*again, *overview})
    assert make() == []


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
    assert "failed: learn/02_the_lstm: its process ended with status -9\n" in said.out
    assert "lessons, tables and figures: 6 to make\n" in said.out
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
    one_clear_line(reproduce("--cluster", "slurm"), f"{sys.executable} -m pip install", "[slurm]")


def test_make_clean_needs_no_installation_where_there_is_nothing_to_ask(tmp_path):
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def installs():
        return "-m venv" in subprocess.run(
            ["make", "-n", "-f", str(ROOT / "Makefile"), "clean"], cwd=tmp_path, check=True,
            capture_output=True, text=True, env=os.environ | {"CONDA_DEFAULT_ENV": ""}).stdout

    assert not installs()
    (tmp_path / "reports" / "quick").mkdir(parents=True)
    assert installs()  # its runs are looked at before they are removed


def test_notebooks_are_counted_in_one_line_with_the_time_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True, raising=False)
    count = progress.Count("tables and figures", 18, progress.Line())
    count.show()
    clock[0] = 30.0
    for _ in range(5):
        count.one_more()
    clock[0] = 32.0
    count.show()
    shown = [line.strip() for line in capsys.readouterr().out.split("\r")]
    assert shown == ["", "tables and figures: 0 of 18", "tables and figures: 5 of 18, 1:16 left"]


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


def test_a_notebook_runs_with_parameters_and_says_what_failed_in_one_line(tmp_path):
    write_notebook(
        tmp_path / "n.ipynb", "x = 1  # a number", "print(6 * x)\nassert x < 9, 'too\\nlarge'")
    notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out" / "n.ipynb", {"x": 7})
    assert "42" in (tmp_path / "out" / "n.html").read_text()
    with pytest.raises(ConfigError, match="unknown parameter 'y'"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "m.ipynb", {"y": 7})
    with pytest.raises(
            notebooks.NotebookError, match=r"^n.ipynb, cell 2: AssertionError: too large$"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "m.ipynb", {"x": 10})
    assert (tmp_path / "m.ipynb").exists()  # kept, to look at


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
    with filelock.FileLock(tmp_path / ".lock"):
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
        with filelock.FileLock(folder / ".lock"):
            assert progress.status(tmp_path) == 0
        assert "running: 1\n  mine: " in capsys.readouterr().out


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
            held.enter_context(filelock.FileLock(folder / ".lock"))
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
    assert extras["test"][0] == "qlstm[site]"
    for text in PROJECT["dependencies"] + extras["site"] + extras["test"][1:]:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        pin = str(pins[requirement.name.lower()].specifier).removeprefix("==")
        assert requirement.specifier.contains(pin), text
        assert version(requirement.name).partition("+")[0] == pin, (
            f"installed {requirement.name} is not the pinned one")


def test_notebooks_are_committed_clean():
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
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
