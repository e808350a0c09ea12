"""The Makefile and the set-up, with a Python that installs nothing and says what it is asked."""

import os
import re
import shutil
import stat
import subprocess

import pytest

from qlstm.data.storage import ROOT

PYTHON = r"""#!/bin/sh
# "-m venv" puts a copy of it there; what pip is asked goes to a file; other words are shown
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cp "$NOTES/python" .venv/bin; echo "$*" >>"$NOTES/calls" ;;
"-m pip") echo "${PIP_TARGET:-}$*" >>"$NOTES/calls"
    if [ -e "$NOTES/offline" ]; then echo "WARNING: 1"; echo "ERROR: no numpy"; exit 1; fi ;;
"-m jupyter" | "- ") ;;
"-m "*) shift 2; printf '%s\n' "$@"
    env | grep -E '^(QLSTM_|PYTHON[^=]|PIP_USER)' | sort ;;
"-c "* | "-I "*) [ -z "$PYTHONHOME" ] && [ "${NO_PACKAGES:-}" != "$1" ] ;;
esac
"""
ODD = "my study's $HOME #1 & [a]; ü%"


@pytest.fixture
def checkout(tmp_path):
    """A checkout in a folder of an odd name, with what make and the set-up read; and a function
    that calls make in a folder, with variables of the environment."""
    folder, python = tmp_path / ODD, tmp_path / "python"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "workflow/install.sh"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IEXEC)

    def make(*words, folder=folder, status=0, **variables):
        (tmp_path / "calls").write_text("")
        done = subprocess.run(
            ["make", "-s", f"PYTHON={python}", *words], cwd=folder, capture_output=True, text=True,
            env={name: os.environ[name] for name in ("PATH", "HOME")} | {"NOTES": str(tmp_path)}
            | variables)
        assert done.returncode == status, done.stderr
        return done.stderr.splitlines() if status else done.stdout.splitlines()

    make.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return folder, make


def test_set_up_is_done_once_for_a_folder_and_its_versions(checkout, tmp_path):
    folder, make = checkout
    assert make("setup") == ["setting up .venv (once, a few minutes, 1.9 GB)"]
    assert make.calls()[0] == "-m venv --clear .venv"
    assert make.calls()[-1].endswith("-c constraints.txt -r .venv/requirements.txt")
    (folder / "pyproject.toml").touch()  # by git pull, say
    assert make("setup") == make.calls() == []
    with (folder / "pyproject.toml").open("a") as file:
        file.write("# another line\n")
    assert make("setup") == ["bringing .venv up to date"]
    assert make.calls()[0] == "-m venv .venv"
    assert make("setup") == []
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert make("setup", folder=moved) == [
        f".venv was set up for {folder}: it is set up for this folder"]
    assert make.calls() == ["-m venv .venv"]  # no network is needed
    assert make("setup", folder=moved) == make("setup") == []
    (folder / ".venv/bin/python").unlink()
    assert make("setup") == ["setting up .venv (once, a few minutes, 1.9 GB)"]
    (folder / ".venv/ready").unlink()  # made by hand, or half made
    assert make("setup") == ["bringing .venv up to date"]


def test_a_build_of_pytorch_is_chosen_once(checkout, tmp_path):
    folder, make = checkout
    make("setup", "TORCH=cu126")
    (pin,) = re.findall("^torch==.*$", (folder / "constraints.txt").read_text(), re.M)
    assert make.calls()[1].endswith(
        f"--index-url https://download.pytorch.org/whl/cu126 {pin}+cu126")
    assert "-c .venv/constraints.txt " in make.calls()[-1]
    pins = (folder / ".venv/constraints.txt").read_text()
    assert pin in pins
    assert "nvidia" not in pins  # each build has its own
    assert make("setup") == make("setup", "TORCH=cu126") == make.calls() == []
    assert make("setup", "TORCH=cpu") == ["bringing .venv up to date"]
    assert make.calls()[1].endswith(f"/whl/cpu {pin}+cpu")
    with (folder / "pyproject.toml").open("a") as file:
        file.write("# another line\n")
    make("setup")
    assert make.calls()[1].endswith(f"/whl/cpu {pin}+cpu")
    (tmp_path / "offline").touch()
    assert "there is no build 'cu1' of PyTorch, or it cannot be reached" in make(
        "setup", "TORCH=cu1", status=2)[0]
    for value in ("2.8.0", "cu", "gpu"):
        assert make("setup", f"TORCH={value}", status=2)[0] == (
            f"error: TORCH must be auto, cpu, cu126 or cu130, got '{value}'")
    (tmp_path / "offline").unlink()
    make("setup", "TORCH=auto")
    assert not (folder / ".venv/torch").exists()
    assert make("setup") == []


def test_a_set_up_that_fails_says_why_in_a_line_and_is_repeated(checkout, tmp_path):
    folder, make = checkout
    (tmp_path / "offline").touch()
    for _ in range(2):
        line, _ = make("status", status=2)
        assert line.startswith("error: the set-up failed: no numpy (all of it: .venv/setup.log)")
        assert make.calls()
    (tmp_path / "offline").unlink()
    assert make("setup", NO_PACKAGES="-I", status=2)[0].startswith(
        "error: the packages are not in .venv")
    assert make("status")[1:3] == ["status", "quick"]
    shutil.rmtree(folder / ".venv")
    assert "is needed (/no python is another or missing)" in make(
        "setup", "PYTHON=/no python", status=2)[0]


def test_settings_reach_the_command_as_they_were_typed(checkout, tmp_path):
    folder, make = checkout
    make("setup")
    given = "a b'c\"d$HOME$(HOME)#e`f`;g\\&ü"
    said = make("reproduce", f"DATASETS={given}", "ONLY=--x", f"QLSTM_REPORTS={tmp_path}/{given}",
                "QLSTM_DATA=~/my data", QLSTM_MIRROR="https://a.b/c d")
    assert f"--datasets={given}" in said
    assert "--only=--x" in said
    assert f"QLSTM_REPORTS={tmp_path}/{given}" in said
    assert f"QLSTM_DATA={os.environ['HOME']}/my data" in said
    assert "QLSTM_MIRROR=https://a.b/c d" in said
    for target, place in {"learn": "course/work/START.ipynb", "bench": "bench/bench.ipynb"}.items():
        assert f"{folder}/r {given}/{place}" in make(target, QLSTM_REPORTS=f"r {given}")
    assert make("site")[:2] == ["site", "PYTHONNOUSERSITE=1"]
    assert make("site", PROFILE="smoke")[:2] == ["site", "smoke"]


def test_what_runs_is_the_code_of_the_folder_whatever_the_environment_says(checkout, tmp_path):
    folder, make = checkout
    users = {"PYTHONPATH": "/other/study", "PYTHONHOME": "/none", "PYTHONSTARTUP": "/s.py",
             "PYTHONSAFEPATH": "1", "PYTHONOPTIMIZE": "2", "PIP_USER": "1", "PIP_TARGET": "/t"}
    said = make("status", **users)
    assert [line for line in said if line.startswith("PYTHON")] == [
        "PYTHONNOUSERSITE=1", f"PYTHONPATH={folder}"]
    assert not any(line.startswith("/t") for line in make.calls())
    shutil.rmtree(folder / ".venv")
    conda = tmp_path / "my conda's" / "bin"
    conda.mkdir(parents=True)
    shutil.copy(tmp_path / "python", conda)
    active = {"CONDA_DEFAULT_ENV": "qlstm", "CONDA_PREFIX": str(conda.parent)}
    assert f"PYTHONPATH={folder}" in make("status", **active, **users)
    assert not (folder / ".venv").exists()
    assert "lacks packages: conda env update" in make(
        "status", **active, NO_PACKAGES="-c", status=2)[0]


def test_a_folder_that_python_cannot_name_is_an_error(checkout, tmp_path):
    folder, make = checkout
    assert "has a colon" in make("setup", folder=folder.rename(tmp_path / "a:b"), status=2)[0]
    assert not (tmp_path / "a:b" / ".venv").exists()
