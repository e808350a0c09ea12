import json
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
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from qlstm import ExperimentConfig, grid, notebooks, records
from qlstm.errors import ConfigError
from qlstm.paths import ROOT

sys.path.insert(0, str(ROOT / "workflow"))
import progress
import reproduce as workflow

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
    [
        (["--profile", "quik"], ["unknown profile 'quik'", "did you mean 'quick'"]),
        (["--only", "table2"], ["did you mean 'table_2'"]),
        (["--datasets", "war_and_piece"], ["did you mean 'war_and_peace'"]),
        (["--seeds", "0"], ["seeds must be a whole number of 1 or more"]),
        (["--epochs", "0"], ["epochs must be a whole number of 1 or more"]),
        (["--epochs", "many"], ["EPOCHS must be a whole number, got 'many'"]),
        (["--jobs", "0"], ["JOBS must be 1 or more"]),
        (["--profile", "paper", "--only", "figure_01", "--datasets", "text8"], ["no runs"]),
    ],
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
    result = reproduce("--profile", "paper", "--only", "figure_06", QLSTM_REPORTS=str(tmp_path / "reports"),
                       QLSTM_DATA=str(tmp_path / "raw"), QLSTM_MIRROR=str(tmp_path / "mirror"))  # fmt: skip
    one_clear_line(result, "warpeace_input.txt", str(tmp_path / "raw"), "python_help")
    assert kept.read_text() == "a finished run"


def test_make_data_says_what_is_there_and_what_is_not(reproduce, tmp_path):
    (tmp_path / "my.txt").write_text("Call me Ishmael. " * 100)
    (tmp_path / "mirror").mkdir()
    places = {"QLSTM_DATA": str(tmp_path / "raw"), "QLSTM_MIRROR": str(tmp_path / "mirror")}
    status, error = reproduce("data", "--datasets", f"war_and_peace,{tmp_path / 'my.txt'}", **places)
    assert status == 1
    assert error.startswith("error: war_and_peace: cannot get warpeace_input.txt")
    assert reproduce("data", "--datasets", str(tmp_path / "my.txt"), **places) == (0, "")


def test_reports_that_cannot_be_written_are_named(reproduce, tmp_path):
    (tmp_path / "reports").write_text("a file where the folder should be")
    one_clear_line(reproduce("--profile", "smoke", QLSTM_REPORTS=str(tmp_path / "reports")), str(tmp_path / "reports"))


def test_a_second_reproduce_at_once_stops_with_a_status_of_its_own(reproduce, tmp_path):
    (tmp_path / "smoke").mkdir()
    with filelock.FileLock(tmp_path / "smoke" / ".reproduce.lock"):
        status, error = reproduce("--profile", "smoke", QLSTM_REPORTS=str(tmp_path))
    assert status == 75
    assert "another `make reproduce` works in" in error


@pytest.mark.parametrize(("phase", "trains"), [("runs", True), ("page", False)])
def test_only_the_first_phase_can_train(tmp_path, phase, trains):
    """Records of other selections feed the page; the engine must have no rule to make them anew."""
    options = workflow.parse(["--profile", "smoke", "--only", "figure_04"])
    content = workflow.plan(options, grid("smoke", only=["figure_04"])) | {"phase": phase, "records": ["another-run"]}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "workflow" / "Snakefile"),
               "--directory", str(tmp_path), "--list-rules"]  # fmt: skip
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert ("run" in listed) == trains
    assert ("page" in listed) != trains


def test_an_unknown_run_is_named():
    result = subprocess.run(
        [sys.executable, "-m", "qlstm.run", "python_help-bwn-nome-seed0"], capture_output=True, text=True
    )
    one_clear_line((result.returncode, result.stderr), "did you mean 'python_help-bwn-none-seed0'")


def test_the_command_module_cannot_hide_the_function():
    code = "import qlstm\ntry:\n    import qlstm.run\nexcept ImportError: pass\nassert callable(qlstm.run)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_variable_that_make_does_not_know_is_an_error():
    result = subprocess.run(["make", "-n", "reproduce", "PROFIL=paper"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert 'unknown variable in "PROFIL=paper"' in result.stderr
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert all(f"make {target}" in shown for target in targets if target != "help")


def write_notebook(path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)


def test_a_notebook_runs_with_parameters_and_says_what_failed_in_one_line(tmp_path):
    write_notebook(tmp_path / "n.ipynb", "x = 1  # a number", "print(6 * x)\nassert x < 9, 'too\\nlarge'")
    notebooks.execute(tmp_path / "n.ipynb", tmp_path / "out" / "n.ipynb", {"x": 7})
    assert "42" in (tmp_path / "out" / "n.html").read_text()
    with pytest.raises(ConfigError, match="unknown parameter 'y'"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "m.ipynb", {"y": 7})
    with pytest.raises(notebooks.NotebookError, match=r"^n.ipynb, cell 2: AssertionError: too large$"):
        notebooks.execute(tmp_path / "n.ipynb", tmp_path / "m.ipynb", {"x": 10})
    assert (tmp_path / "m.ipynb").exists()  # kept, to look at


def test_papermill_by_hand_refuses_a_typo(tmp_path):
    command = [sys.executable, "-m", "papermill", str(ROOT / "notebooks/run/char_language_model.ipynb"), str(tmp_path / "out.ipynb"),
               "-p", "quantizer", "binary_conect", "-p", "directory", str(tmp_path / "run")]  # fmt: skip
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
    (tmp_path / "record.json").write_text("{}")
    assert progress.state(tmp_path) == ("done", {})


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, from_pip = environment["dependencies"]
    assert python.startswith("python=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python=") + ".0")
    assert pip == "pip"
    # nothing but the project itself, so that the list of dependencies stands in pyproject.toml alone
    assert from_pip == {"pip": ["-c constraints.txt", "-e .[test]"]}


def test_constraints_pin_every_dependency_within_its_range():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            pins[requirement.name.lower()] = requirement
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]:
        requirement = Requirement(text)
        pin = str(pins[requirement.name.lower()].specifier).removeprefix("==")
        assert requirement.specifier.contains(pin), text
        assert version(requirement.name).partition("+")[0] == pin, f"installed {requirement.name} is not the pinned one"


def test_notebooks_are_committed_clean():
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if path.parent.name != "learn":
            assert not any(cell.outputs or cell.execution_count for cell in code), f"{path.name}: strip its outputs"
            assert not any(re.search(r"^\s*(def|class) ", cell.source, re.M) for cell in code), (
                f"{path.name} defines a function"
            )
        assert "papermill" not in notebook.metadata, path.name


def test_run_directories_follow_the_reports_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    config = ExperimentConfig(profile="paper", dataset="text8")
    assert records.run_directory(config) == Path(tmp_path) / "paper" / "runs" / "text8-full_precision-none-seed0"
