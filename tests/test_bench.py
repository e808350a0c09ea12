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
from qlstm.study import kinds, record_schema, records
from qlstm.workflow import bench, inference, measure, throughput


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


@pytest.mark.parametrize("setting", ["state_noise", "initial_gain"])
def test_a_classifier_trains_with_a_plain_lstm(setting):
    config = ExperimentConfig(profile="smoke", task="sequential_image", dataset="digits",
                              hidden_size=8, **{setting: 0.1})
    assert measure.training_step(config, torch.device("cpu"), None)()["training step"] > 0


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """The folder of a record of networks in use: of symbols and of vectors, each of a batch."""
    root = tmp_path_factory.mktemp("reports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QLSTM_REPORTS", str(root))
        patch.setattr(measure, "WARM_UP", 0)
        patch.setattr(inference, "SHAPES", {
            "symbols": inference.Shape(1, 32, 5, 3),
            "vectors": inference.Shape(2, 24, None, 3)})
        patch.setattr(bench, "in_own_process", lambda function, *arguments: function(*arguments))
        given = ["--parts", "inference", "--repeats", "1", "--normalizers", "layer;batch_separate"]
        assert bench.main(given) == 0
    return root / "bench"


def test_networks_in_use(used):
    (path,) = used.glob("*.json")
    rows = kinds.read_as(record_schema.BENCHMARK, path)["rows"]
    assert {(row["part"], row["T"], row["threads"]) for row in rows} == {("inference", 3, 1)}
    sizes = {(row["shape"], row["N"], row["d"], row["D"], row["task"]) for row in rows}
    assert sizes == {("symbols", 1, 32, 5, "char_lm"), ("vectors", 2, 24, 24, "word_lm")}
    told = inference._private_mb() is not None
    for shape in ("symbols", "vectors"):
        mine = [row for row in rows if row["shape"] == shape]
        found = {(row["backend"], row["quantizer"], row["normalizer"], row["pass"]) for row in mine}
        plain = {(form, "full_precision", "none") for form in ("torch.nn.LSTM", "int8")}
        ours = {(q, n) for q in inference.QUANTIZERS for n in ("layer", "batch_separate")}
        moments = ["sequence", "step by step"] if shape == "symbols" else ["sequence"]
        assert found == (
            {(*form, moment) for form in plain for moment in moments}
            | {("packed", *pair, moment) for pair in ours for moment in moments}
            | {("naive", q, "layer", "sequence") for q in inference.QUANTIZERS})
        assert len(mine) == len(found)
        for row in mine:
            peer = next(r for r in mine if r["backend"] == "torch.nn.LSTM"
                        and r["pass"] == row["pass"])
            assert row["ratio"] == pytest.approx(row["ms"] / peer["ms"])
            read = row["backend"] != "naive"
            assert (row["file_bytes"] is not None) == read
            assert (row["memory_mb"] is not None) == (read and shape == "symbols" and told)


@pytest.mark.parametrize("shape", [inference.Shape(2, 16, 5), inference.Shape(2, 16, None)])
def test_the_forms_compute_the_same_network(shape, tmp_path):
    """As read from a file: int8 the plain LSTM to its precision, packed and naive the same; a
    sequence in one call what it is step by step."""
    def output(rival, layer):
        with torch.no_grad():
            x = inference.inputs(rival, shape)
            return x, layer(x)[0]

    lstm, int8 = (output(rival, inference.load(rival, inference.save(rival, shape, tmp_path / "f")))
                  for rival in (inference.PEER, inference.INT8))
    torch.testing.assert_close(lstm[1], int8[1], atol=0.02, rtol=0)
    assert not torch.equal(lstm[1], int8[1])
    for quantizer in inference.QUANTIZERS:
        rival = measure.Rival("packed", quantizer, "layer")
        layer = inference.load(rival, inference.save(rival, shape, tmp_path / quantizer))
        torch.manual_seed(0)
        naive = inference._layer(rival, shape, "naive").eval()
        (x, packed), (_, expanded) = output(rival, layer), output(rival, naive)
        torch.testing.assert_close(packed, expanded, atol=1e-5, rtol=1e-4)
        assert x.is_floating_point() == (shape.symbols is None)
        same = x if shape.symbols is None else torch.nn.functional.one_hot(x, shape.symbols).float()
        assert torch.equal(same, lstm[0])


def test_passes_take_one_sequence_and_single_steps():
    calls = []

    class Layer(torch.nn.Module):
        def forward(self, x, state=None):
            calls.append((x.tolist(), state, torch.is_grad_enabled()))
            return x, sum(call[0][0][0] for call in calls)

    x = torch.tensor([[1], [2], [3]])
    assert set(inference.passes(Layer(), x)()) == {"sequence", "step by step"}
    assert calls == [([[1], [2], [3]], None, False), ([[1]], None, False), ([[2]], 2, False),
                     ([[3]], 4, False)]
    calls.clear()
    assert set(inference.passes(Layer(), x, by_step=False)()) == {"sequence"}
    assert len(calls) == 1


def test_a_stream_takes_single_steps_where_there_is_one():
    taken = []

    class Layer(torch.nn.Module):
        def stream(self, samples):
            taken.append(samples)
            return lambda x: taken.append(x.tolist())

        def forward(self, x, state=None):
            assert len(x) == 2

    inference.passes(Layer(), torch.tensor([[1], [2]]))()
    assert taken == [1, [1], [2]]


def test_the_threads_are_those_that_are_asked_for_and_then_as_before(monkeypatch):
    monkeypatch.setattr(inference, "in_turn", lambda *_: torch.get_num_threads())
    before = torch.get_num_threads()
    assert inference.times(inference.Shape(1, 4, 5), {}, 1, before + 1) == before + 1
    assert torch.get_num_threads() == before


def test_times_are_of_a_single_step(monkeypatch):
    monkeypatch.setattr(inference, "SHAPES", {"symbols": inference.Shape(2, 16, 5)})
    monkeypatch.setattr(inference, "in_turn", lambda timed, repeats, device: [
        measure.Timing(rival, "sequence", 60.0, None) for rival in timed])
    found = inference.rows("symbols", ["twn"], ["none"], 1, 1, lambda function, *given: function(
        *given))
    assert [(row.backend, row.ms, row.ratio) for row in found] == [
        (form, 60 / 10, 1) for form in inference.FORMS]


def test_memory_is_what_the_network_takes(tmp_path):
    if inference._private_mb() is None:
        pytest.skip("no /proc/self/smaps_rollup here")
    shape = inference.Shape(1, 700, None)  # 15 MB of weights
    path = inference.save(inference.PEER, shape, tmp_path / "lstm")
    assert path.stat().st_size == pytest.approx(4 * 4 * 700 * 1402, rel=0.01)
    found = bench.in_own_process(inference.memory_mb, shape, inference.PEER, path)
    assert found == pytest.approx(4 * 4 * 700 * 1402 / 2**20, rel=0.3)


def test_figure_and_tables_of_networks_in_use(used):
    rows = benchmarks.rows(used)
    figure = benchmarks.inference(rows, "sequence")
    assert [axes.get_title().splitlines()[1] for axes in figure.axes] == ["batch 1", "batch 2"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        *benchmarks.FORMS.values()}
    machine = rows["machine"].iloc[0].rsplit(" ", 2)[0] + ", threads: 1"
    row = rows[(rows["backend"] == "packed") & (rows["quantizer"] == "ter_connect")
               & (rows["normalizer"] == "layer") & (rows["pass"] == "step by step")
               & (rows["N"] == 1)].iloc[0]
    times = benchmarks.step_times(rows)
    assert list(times.columns) == [*benchmarks.FORMS.values()]
    cell = times.loc[(machine, "step by step", 1, 32), "2 bits"]
    assert cell == f"{row['ms']:.3f} ms, {row['ratio']:.2f}"
    other = rows.loc[(rows["normalizer"] == "batch_separate") & (rows["pass"] == "sequence")
                     & (rows["backend"] == "packed") & (rows["N"] == 1), "ratio"]
    drawn = [line.get_ydata() for line in benchmarks.inference(
        rows, "sequence", "batch_separate").axes[0].lines]
    assert set(other) <= set(np.concatenate(drawn).tolist())
    if inference._private_mb() is not None:
        cell = benchmarks.memory(rows).loc[(machine, 32), "2 bits"]
        assert cell == (
            f"{row['memory_mb']:.1f} MB, file {row['file_bytes'] / 2**20:.2f} MB")
    assert "layer" in benchmarks.wide(rows, "inference", "sequence").columns


def test_records_of_before_are_read():
    found = list(records.benchmarks(ROOT / "reports/bench"))
    assert len(found) == len(list((ROOT / "reports/bench").glob("*.json"))) > 0
    assert any("threads" not in row for _, record in found for row in record["rows"])


@pytest.mark.parametrize("option", ["part", "shape", "backend", "quantizer", "normalizer"])
def test_unknown_names_are_told(option, capsys):
    assert bench.main([f"--{option}s", "infrence"]) == 2
    assert f"unknown {option} 'infrence'" in capsys.readouterr().err


def test_networks_in_use_are_timed_on_a_cpu_alone_and_at_their_own_shapes():
    def work(device, *words):
        return bench._work(bench.parse([*words]), torch.device(device))

    first = next(iter(inference.SHAPES))
    assert work("cuda", "--parts", "inference") == []
    assert [shape for _, shape in work("cpu", "--parts", "inference")] == [*inference.SHAPES]
    assert work("cpu", "--parts", "layer;step;inference", "--shapes", f"quick;{first}") == [
        ("layer", "quick"), ("step", "quick"), ("inference", first)]
