"""The benchmark is a command; here only that it measures what it says, not how fast."""

import contextlib
import json
import threading

import numpy as np
import pytest
import torch
from made_up import ENVIRONMENT

from qlstm import ExperimentConfig, RecordError, grid
from qlstm.data.storage import ROOT
from qlstm.report import benchmarks, names
from qlstm.workflow import bench, measure, throughput


def rows_of(rows):
    """Those of the roofline."""
    return rows[(rows["part"] == "layer") & (rows["pass"] == "forward + backward")]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    root = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLSTM_REPORTS", str(root))
        patch.setattr(measure, "SCALING", {"d": [8, 16]})
        patch.setattr(measure, "WARM_UP", 0)
        patch.setattr(bench, "in_own_process", lambda function, *arguments: function(*arguments))
        patch.setattr(measure, "CENTRE", {"T": 4, "N": 3, "d": 8})
        patch.setattr(
            measure, "SHAPES",
            {"words": dict(dataset="python_help_words", hidden_size=8, steps=5, batch_size=4)})
        patch.setattr(throughput, "COUNTS", [2, 1000])
        patch.setattr(throughput, "SECONDS", 0.2)
        patch.setattr(throughput.machine, "cores", lambda: 2)
        assert (
            bench.main(["--repeats", "1", "--normalizers", "none;layer", "--shapes", "words"]) == 0)
    return root / "bench"


def test_rows_and_ratios(record):
    (path,) = record.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert {row["part"] for row in rows} == {"layer", "step", "scaling"}
    for row in rows:
        peer = next(r for r in rows if r["backend"] == "torch.nn.LSTM"
                    and all(r[k] == row[k] for k in ("part", "shape", "pass")))
        assert row["ms"] > 0
        assert row["ratio"] == pytest.approx(row["ms"] / peer["ms"])


def test_processes_side_by_side(record):
    (path,) = record.glob("*.json")
    found = json.loads(path.read_text())["side_by_side"]
    assert [(row["shape"], row["processes"]) for row in found] == [("words", 2)]
    table = benchmarks.side_by_side(record)
    assert list(table.columns) == [2]
    shown = table.loc[(path.stem.replace("_", " "), "words"), 2]
    assert shown == f"{found[0]['steps_per_s']:.1f}"
    assert float(shown) > 0


def test_a_process_that_fails_keeps_no_other_waiting():
    ready = threading.Barrier(2)

    def wait():
        with contextlib.suppress(threading.BrokenBarrierError):
            ready.wait(60)

    waiting = threading.Thread(target=wait)
    waiting.start()
    with pytest.raises(AttributeError):
        throughput.steps_per_second(None, torch.device("cpu"), 1, 0.1, ready)
    waiting.join(5)
    assert not waiting.is_alive()


def test_parts_one_after_the_other_make_one_record(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))

    def measured(function, *arguments):
        if function is measure.peaks:
            return {"gflop_per_s": 1.0, "gb_per_s": 1.0}
        part, shape, *_ = arguments
        if shape == "quick":
            raise torch.OutOfMemoryError("CUDA out of memory.\nand more")
        return [measure.Row(part, shape, T=1, N=1, d=1, D=1, task="t", backend="b", quantizer="q",
                            normalizer="n", pass_="p", ms=next(times), memory_mb=None, ratio=1.0)]

    times, environment = iter(range(100)), ENVIRONMENT | {"device": "abacus", "commit": "a"}
    monkeypatch.setattr(bench, "describe_environment", lambda *_: environment.copy())
    monkeypatch.setattr(bench, "in_own_process", measured)

    def rows(*options):
        status = bench.main(list(options))
        (path,) = (tmp_path / "bench").glob("*.json")
        return status, [
            (row["part"], row["shape"], row["ms"]) for row in json.loads(path.read_text())["rows"]]

    first = ("--parts", "step", "--shapes", "character;word, d = 300")
    assert rows(*first) == (0, [("step", "character", 0), ("step", "word, d = 300", 1)])
    second = ("--parts", "layer;step", "--shapes", "quick;character")
    assert rows(*second) == (
        1, [("step", "word, d = 300", 1), ("layer", "character", 2), ("step", "character", 3)])
    environment["commit"] = "b"  # other code: a new record
    assert rows("--parts", "step", "--shapes", "character") == (0, [("step", "character", 4)])
    (path,) = (tmp_path / "bench").glob("*.json")
    path.write_text("{")
    assert rows("--parts", "step", "--shapes", "character") == (0, [("step", "character", 5)])


def test_a_damaged_record_is_named_once_and_left_out(tmp_path, capsys):
    whole = (ROOT / "reports/bench/AMD_EPYC_1_threads.json").read_text()
    bad = [b"{", b"[]", b'{"rows": []}', b"\xff", whole.replace('"ms": ', '"ms": -', 1).encode(),
           whole.replace('"ms": ', '"ms": 1e999, "no": ', 1).encode(),
           whole.replace('"T": ', '"T": [], "T": ', 1).encode(), b"[" * 10**5]
    for k, content in enumerate(bad):
        (tmp_path / f"machine_{k}.json").write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(RecordError, match="no record of make bench to be shown"):
        benchmarks.rows(tmp_path)
    (tmp_path / "whole.json").write_text(whole)
    assert set(benchmarks.rows(tmp_path)["machine"]) == {"whole"}
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(bad) + 1
    assert all(".json: no record of make bench (" in line for line in said)


def test_table_and_figures(record):
    rows = benchmarks.rows(record)
    assert "layer" in benchmarks.wide(rows, "step", "training step").columns
    assert benchmarks.ratios(rows, "layer", "forward + backward").axes
    assert benchmarks.scaling(rows).axes


def test_the_roofline(record):
    rows = benchmarks.rows(record)
    roofline = benchmarks.roofline(rows)
    points = np.concatenate([c.get_offsets() for axes in roofline.axes for c in axes.collections])
    layer = rows_of(rows).iloc[0]
    # T 5, N 4, d 8, input 8: two products forward, four backward, of 2 * 20 * 32 * 8 flops each
    flops = 6 * 2 * 20 * 32 * 8
    np.testing.assert_allclose(points[:, 1], flops / rows_of(rows)["ms"] / 1e6)
    numbers = 2 * 32 * 8 + 20 * (8 + 32 + 8)
    np.testing.assert_allclose(points[:, 0], flops / (2 * 4 * numbers))
    (line,) = [line for line in roofline.axes[0].lines if len(line.get_xdata()) == 3]
    assert line.get_ydata()[-1] == pytest.approx(layer["gflop_per_s"])
    assert line.get_ydata()[0] == pytest.approx(layer["gb_per_s"] * line.get_xdata()[0])


def test_the_hours_of_the_grid(record, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(record.parent))
    hours = benchmarks.grid_hours()
    assert float(hours.loc["all", "NVIDIA H100, authors' code"].strip("+").replace(",", "")) > 1000
    assert hours.loc["all", "runs"] == len(grid("paper"))
    machine = next(column for column in hours if column.endswith("threads"))
    assert (
        hours.loc["Text8", machine] == names.NOT_RUN
    )  # the words of this test are of no size of the paper


def test_unknown_names(capsys):
    assert bench.main(["--shapes", "charcter"]) == 2
    assert "unknown shape 'charcter': did you mean 'character'?" in capsys.readouterr().err


@pytest.mark.parametrize("backend", [None, "naive"])
def test_step_trains_the_whole_model(backend, monkeypatch):
    found = []
    make_step = measure.make_step
    monkeypatch.setattr(
        measure, "make_step",
        lambda config, model, *rest: (found.append(model), make_step(config, model, *rest))[1])
    config = ExperimentConfig(profile="smoke", task="word_lm", hidden_size=8, steps=3)
    once = measure.training_step(config, torch.device("cpu"), backend)
    once()
    before = [p.clone() for p in found[0].parameters()]
    once()
    assert all(not torch.equal(a, b) for a, b in zip(before, found[0].parameters(), strict=True))
