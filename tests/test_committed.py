"""The records that the repository carries: sound, of clean code, and the tables and the scorecard
beside them made from them."""

import json
import subprocess

import pytest

from qlstm.data.storage import ROOT
from qlstm.report import benchmarks, tables
from qlstm.report.scorecard import scorecard
from qlstm.study import records

REPORTS = ROOT / "reports"


def committed(folder: str) -> bool:
    """Whether git has files of the folder, and nobody has since worked in it."""
    git = ["git", "-C", str(ROOT)]
    try:
        listed = subprocess.run(
            [*git, "ls-files", folder], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", folder], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    return bool(listed) and not changed


unchanged_paper = pytest.mark.skipif(
    not committed("reports/paper"), reason="reports/paper is not as it was committed")
COMMITTED_AFTERWARDS = {"f115307bcc4a-dirty": "10e2fbb", "2e414a6a0b0a-dirty": "e39230b"}
"""Code that ran on a GPU as files beside an older commit, and the commit that holds it as it ran
there."""


def of_committed_code(record):
    commit = record["environment"]["commit"]
    return "dirty" not in COMMITTED_AFTERWARDS.get(commit, commit)


@unchanged_paper
def test_records_are_sound_and_of_committed_code():
    found = records.load_all("paper", REPORTS)
    assert found
    for record in found:
        assert of_committed_code(record), record["run_id"]


@unchanged_paper
@pytest.mark.parametrize("name", [f"table_{number}" for number in range(2, 6)])
def test_tables_are_those_of_the_records(tmp_path, name):
    beside = REPORTS / "paper" / "tables" / f"{name}.csv"
    found = records.load_all("paper", REPORTS)
    assert beside.exists() == tables.makeable(found, name)
    if beside.exists():
        tables.save(tables.results(found, name), tmp_path, name)
        assert (tmp_path / beside.name).read_text() == beside.read_text()


@unchanged_paper
def test_the_scorecard_is_that_of_the_records(tmp_path):
    made = tmp_path / "scorecard.csv"
    scorecard(records.load_all("paper", REPORTS), "paper").to_csv(made, index=False)
    assert made.read_text() == (REPORTS / "paper" / made.name).read_text()


@pytest.mark.skipif(
    not committed("reports/bench"), reason="reports/bench is not as it was committed")
def test_benchmarks_are_of_committed_code():
    paths = sorted((REPORTS / "bench").glob("*.json"))
    assert paths
    for path in paths:
        assert of_committed_code(json.loads(path.read_text())), path
    assert len(benchmarks.rows(REPORTS / "bench")) > 100
