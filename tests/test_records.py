"""Records are read in one place, which lets through nothing that reports could stumble over."""

import dataclasses
import json
import os
import re

import fuzz
import pytest
from made_up import made_up, paper, quick

from qlstm import ExperimentConfig, RecordError
from qlstm.data.storage import ROOT
from qlstm.quantizers import QUANTIZERS
from qlstm.report import explore, frames, overview, reviewers, scorecard, tables
from qlstm.study import costs, kinds, record_schema, records
from qlstm.study.theory import propositions
from qlstm.workflow import plan, progress

GOOD = json.loads(json.dumps(made_up(quick("bwn", "layer"))))


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    monkeypatch.setattr(records, "SAID", set())
    return tmp_path


def written(record, content=None):
    """A record in its place, or other content there."""
    path = records.reports() / "quick" / "runs" / record["run_id"] / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        records.save(record, path)
    else:
        path.write_bytes(content)
    return path


def test_what_is_committed_is_whole():
    paths = [*(ROOT / "reports/paper/runs").glob("*/record.json"),
             *(ROOT / "notebooks/learn/records").glob("*.json")]
    assert len(paths) > 40
    for path in paths:
        assert records.load(path)["schema"] == records.SCHEMA
    bench = [*(ROOT / "reports/bench").glob("*.json")]
    assert len(list(records.benchmarks(ROOT / "reports/bench"))) == len(bench) > 0


def test_the_schema_knows_what_the_package_has():
    assert {name for name, one in QUANTIZERS.items() if one.scales == "matrix"} == set(
        record_schema.SCALED)
    kinds_of = {name for found in propositions.PROPOSITIONS.values() for name in found}
    assert set(record_schema.PROPOSITIONS.values()) == kinds_of - {"3.3"}
    fields = {field.name for field in dataclasses.fields(ExperimentConfig)}
    assert not record_schema.CONFIG(quick().as_dict())
    assert all(record_schema.CONFIG({k: v for k, v in quick().as_dict().items() if k != name})
               for name in fields)


def changed(value, *way):
    """The record with another value in a place."""
    record = json.loads(json.dumps(GOOD))
    place = record
    for key in way[:-1]:
        place = place[key]
    place[way[-1]] = value
    return record


@pytest.mark.parametrize(("record", "fault"), [
    (changed(None, "epochs", 1, "valid_loss"), "epochs[1].valid_loss is None, not a number"),
    (changed([], "epochs"), "epochs has 0 entries, not 2 to inf"),
    (changed([], "epochs", 1), "epochs[1] is [], not a table"),
    (changed({"epoch": 1}, "epochs", 1), "epochs[1] has no alpha"),
    (changed("5", "seconds"), "seconds is '5', not a number"),
    (changed(-1, "seconds"), "seconds is -1, not a number of 0 or more"),
    (changed(True, "seconds"), "seconds is True, not a number"),
    (changed(10**400, "seconds"), "seconds is 1000000000"),
    (changed(2**70, "size_kb"), "size_kb is 1180591620717411303424, not a number"),
    (changed("bps", "metric"), "metric is 'bps', not 'bpc' or 'ppl' or 'accuracy'"),
    (changed("ppl", "metric"), "metric is ppl, not bpc"),
    (changed(1, "config", "lernrate"), "config has an unknown field 'lernrate'"),
    (changed("quik", "config", "profile"), "config.profile is 'quik', not 'smoke'"),
    (changed("lab", "config", "quantizer"), "no name of a run with its settings"),
    (changed(0, "config", "batch_size"),
     "config.batch_size is 0, not a whole number of 1 or more and at most 1,000,000"),
    (changed(2**70, "config", "seed"), "config.seed is 1180591620717411303424, not"),
    (changed([[1.0]], "traces", "gradient_norms", "initial", "training"), "has 1 entries, not 10"),
    (changed([1, 2], "traces", "gradient_norms", "initial", "steps"), "3 values for 2 steps"),
    (changed([3, 2, 1], "traces", "gradient_norms", "initial", "steps"), "not in order"),
    (changed({}, "traces", "gradient_norms"), "traces has no moments"),
    (changed(None, "traces", "propositions", "best"), "propositions['best'] is None, not a table"),
    (changed(None, "epochs", 0, "gains"), "epochs[0].gains is None, not a table"),
    (changed(None, "epochs", 0, "spectral"), "epochs[0].spectral is None, not a table"),
    (changed([[0.3] * 3], "epochs", 0, "alpha"), "epochs[0].alpha[0] has 3 entries, not 4"),
    (changed(7, "best_epoch"), "best_epoch is 7 of 2"),
    (changed(None, "test_metric"), "test_metric is None, and diverged False"),
    (changed("\ud800", "environment", "device"), "environment.device is '\\ud800', not a text"),
], ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_a_record_of_another_shape_is_refused_whatever_its_checksum(record, fault, capsys):
    path = written(GOOD, json.dumps(record | {
        "config_sha256": records.sha256(record["config"]),
        "checksum": records.checksum(record)}).encode())
    assert records.load_all("quick") == records.load_all("quick") == []
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"left out: {path}: not a record of schema 4: ")
    assert fault in line


@pytest.mark.parametrize(("content", "fault"), [
    (b"", "Expecting value"), (b"\xff\xfe", "can't decode"), (b"[" * 10**6, "nested too deeply"),
    (b'{"schema": NaN}', "NaN is no number"), (b'{"a": 1, "a": 2}', "'a' stands there twice"),
    (b"9" * 5000, "Exceeds the limit"), (b'{"schema": 1e999}', "has no run_id"),
    (b"5", "is 5, not a table"), (b'{"schema": 3}', "older version"),
    (b'{"schema": 5}', r"newer version .*update qlstm"),
    (json.dumps(GOOD).encode("utf-16"), "can't decode"),
    (json.dumps(GOOD | {"seconds": 4.0}).encode(), "does not match its checksum"),
    (b" " * (kinds.LARGEST_FILE + 1), "larger than 16 MB"),
], ids=range(13))
def test_what_is_no_record_is_refused_in_one_line(content, fault, capsys):
    path = written(GOOD, content)
    with pytest.raises(RecordError, match=re.escape(f"{path}: ") + ".*" + fault) as error:
        records.load_of(GOOD["run_id"], "quick")
    assert "\n" not in str(error.value)


def test_folders_and_pipes_are_no_records(capsys):
    path = written(GOOD)
    path.unlink()
    for make in (os.mkdir, os.mkfifo):
        make(path)
        with pytest.raises(RecordError, match="not a file"):
            records.load(path)
        assert progress.state(path.parent)[0] == "failed"
        os.rmdir(path) if path.is_dir() else path.unlink()


def test_every_command_goes_on_without_the_bad_one(reports, capsys):
    config = quick("twn")
    written(made_up(config))
    bad = written(GOOD, b"{")
    lines = costs.plan([config, quick("bwn", "layer")], "quick")
    assert lines[0] == "quick: 2 runs, 1 have their record, 0 to go"
    assert lines[1].startswith("1 runs have a record that is left out")
    made = plan.make_plan("quick", [config, quick("bwn", "layer")], training=False)
    assert "no readable record" in made["failures"][GOOD["run_id"]]
    assert GOOD["run_id"] not in made["todo"]
    (record,) = explore.load("quick")
    assert record["run_id"] == config.run_id
    assert progress.status(reports / "quick") == 0
    said = capsys.readouterr().out
    assert said.count(f"left out: {bad}: no readable record") == 1
    assert f"failed: 1\n  {GOOD['run_id']}: {bad}: no readable record" in said


def test_what_a_record_names_may_be_gone(reports, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "gone_tomorrow.py").write_text("def threshold(w):\n    return w\n")
    text = tmp_path / "my.txt"
    text.write_text("Some text of my own. " * 100)
    own = dict(quantizer="gone_tomorrow:threshold", dataset=str(text))
    found = [made_up(config) for config in (
        quick("binary_connect", dataset=text), quick(**own), quick(**own, normalizer="layer"),
        paper("penn_word", "gone_tomorrow:threshold"))]
    for record in found:
        written(record)
    older = made_up(dataclasses.replace(quick("twn")))
    older["config"]["dataset"] = "text7"  # no longer in the catalogue
    older |= {"run_id": older["run_id"].replace("python_help", "text7"),
              "config_sha256": records.sha256(older["config"])}
    written(older)
    text.unlink()
    (tmp_path / "gone_tomorrow.py").unlink()
    monkeypatch.delitem(__import__("sys").modules, "gone_tomorrow", raising=False)
    read = explore.load("quick")
    assert len(read) == 5
    assert sorted(capsys.readouterr().out.splitlines()) == [
        f"the {what} is gone; its runs are shown without it" for what in (
            "quantizer gone_tomorrow:threshold", f"text {text}", "text text7")]
    assert {name.partition(" (")[0] for name in frames.frame(read)["label"]} == {
        "my.txt", "text7", "Penn Treebank"}
    for name in tables.TITLES:
        tables.shown(read, name)
    for reader in (frames.gradients, frames.by_epoch, reviewers.statistics_experiment,
                   reviewers.beside_lstm, reviewers.run_time, explore.table, explore.varying):
        reader(read)
    assert "my.txt" in overview.runs(read, reports)
    scorecard.scorecard(read, "quick")
    lines = costs.plan([quick()], "quick")
    assert lines[0] == "quick: 1 runs, 0 have their record, 1 to go"
    assert not costs.at_hand(str(text))


def test_an_unknown_size_is_said_to_be_unknown(tmp_path, monkeypatch):
    record = made_up(quick("bwn"), packed=None) | {"size_kb": None}
    record["config"]["quantizer"] = "mine:threshold"
    (run,) = frames.frame([record]).itertuples()
    assert run.size_kb != run.size_kb
    assert explore.table([record])["size (KB)"].tolist() == ["unknown"]
    assert "<td>unknown</td>" in overview.runs([record], tmp_path)
    (section,) = tables.shown([record], "table_2").sections
    assert section.cells["KB"].tolist() == ["unknown"]
    whole = tables.wide(tables.results([record], "table_2")).to_string()
    assert "unknown" in whole


def test_mutants_are_refused(tmp_path, capsys):
    ends = set(fuzz.mutants_of_records(tmp_path / "fuzz", 100, seed=7))
    assert ends <= fuzz.GOOD, capsys.readouterr().out


def test_a_plan_is_damaged_or_empty(reports, capsys):
    (reports / "quick").mkdir(parents=True, exist_ok=True)
    path = reports / "quick" / "plan.json"
    path.write_text(json.dumps(records.planned(reports / "quick") | {"profile": "quick"}))
    assert records.planned(reports / "quick")["runs"] == {}
    assert capsys.readouterr().out == ""
    path.write_text('{"runs": 5, "todo": ["a"]}')
    assert records.planned(reports / "quick")["todo"] == ["a"]
    assert capsys.readouterr().out == (
        f"{path} is damaged; the next make reproduce writes it anew\n")
