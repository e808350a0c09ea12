import dataclasses
import json

import pytest
from made_up import ENVIRONMENT, benchmark, made_up, paper

from qlstm import data, grid
from qlstm.data import catalogue, files
from qlstm.study import costs, records

H100 = "NVIDIA H100, authors' code"


def test_the_updates_of_an_epoch_are_those_of_training():
    config = paper("penn_word")
    symbols = range(929_589)
    train = -(-(len(symbols) // 20 - 1) // 35)
    valid = -(-(73_760 // 64 - 1) // 35)
    assert costs.updates(config) == pytest.approx(train + valid / 3)
    assert costs.updates(paper("mnist")) == pytest.approx(500 + 40 / 3)
    text = data.load_dataset("python_help")
    config = grid("smoke", only=["figure_05"])[0]
    batches = sum(
        1 for _ in data.minibatches(text.train[: config.max_train], config.batch_size, config.steps)
    )
    valid = sum(1 for _ in data.minibatches(text.valid[: config.max_train // 8], 64, config.steps))
    assert costs.updates(config) == pytest.approx(batches + valid / 3)


def test_hours_from_the_file_of_step_times():
    layer = paper("penn_char", "binary_connect", "layer")
    seconds = 200 * costs.updates(layer) * 0.130
    assert costs.estimate([layer, layer], H100) == pytest.approx((2 * seconds / 3600, 0))
    plain = paper("penn_char")
    assert costs.estimate([plain], H100).hours == pytest.approx(
        200 * costs.updates(plain) * 0.0053 / 3600)
    deep = paper("penn_word", "bwn", "weight", hidden_size=650, num_layers=2)
    assert costs.estimate([deep], H100).hours == pytest.approx(
        costs.SPENT_AFTER * costs.updates(deep) * 2 * 0.024 / 3600)
    for changes in (dict(min_learning_rate=0.0), dict(decay="latent")):
        whole = dataclasses.replace(deep, **changes)
        assert costs.estimate([whole], H100).hours == pytest.approx(
            120 * costs.updates(deep) * 2 * 0.024 / 3600)
    assert costs.estimate([paper("penn_char", cell="gru")], H100) == (0, 1)
    assert costs.estimate([layer], "abacus") == (0, 1)


def test_own_records_count_in_place_of_the_file():
    config = paper("penn_char", "binary_connect", "layer", epochs=3)
    environment = ENVIRONMENT | {"device": "abacus"}
    sizes = dict(zip(("train", "valid", "test"), data.CATALOGUE["penn_char"].counts, strict=True))
    record = made_up(config, seconds=7200.0) | {"environment": environment}  # two epochs
    record["data"]["sizes"] = sizes
    assert costs.machine(record) == "abacus, 1 threads"
    other = dataclasses.replace(config, quantizer="twn", seed=1, epochs=200)
    assert costs.estimate([other], "abacus, 1 threads", [record]) == pytest.approx((200, 0))
    on_the_other_text = dataclasses.replace(other, dataset="war_and_peace")
    ratio = costs.updates(on_the_other_text) / costs.updates(other)
    assert costs.estimate(
        [on_the_other_text], "abacus, 1 threads", [record]).hours == pytest.approx(200 * ratio)
    for differing in (dict(quantizer="full_precision"), dict(hidden_size=300),
                      dict(normalizer="weight")):
        assert (
            costs.estimate(
                [dataclasses.replace(other, **differing)], "abacus, 1 threads", [record]).unknown
            == 1
        )
    assert costs.estimate([other], "abacus, 1 threads", [record | {"diverged": True}]).unknown == 1
    slow = dataclasses.replace(config, quantizer="alternating")
    found = [record, record | {"seconds": 3 * 7200.0, "config": slow.as_dict()}]
    estimates = [costs.estimate([dataclasses.replace(one, epochs=200)], "abacus, 1 threads", found)
                 for one in (slow, config, other)]
    hours = [estimate.hours for estimate in estimates]
    assert hours == pytest.approx([600, 200, 400])  # twn: what quantizers take on average


def test_a_benchmark_of_the_machine_counts_by_its_fastest_backend(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    (tmp_path / "bench").mkdir()
    rows = [{"normalizer": "layer", "backend": backend, "ms": ms}
            for backend, ms in (("torch.nn.LSTM", 1), ("naive", 900), ("cpu", 300))]
    rows += [rows[-1] | {"part": "layer", "ms": 2}, rows[-1] | {"normalizer": "none", "ms": 200}]
    path = tmp_path / "bench" / "abacus.json"
    path.write_text(json.dumps(benchmark("abacus", rows, threads=2)))
    layer = paper("penn_char", "binary_connect", "layer")
    full, plain = (dataclasses.replace(layer, quantizer="full_precision", normalizer=name)
                   for name in ("layer", "none"))
    hours = 200 * costs.updates(layer) / 3600
    assert costs.estimate([layer], "abacus, 2 threads") == pytest.approx((0.3 * hours, 0))
    assert costs.estimate([full, plain], "abacus, 2 threads") == pytest.approx((0.5 * hours, 0))
    rows.append(rows[2] | {"quantizer": "full_precision", "ms": 250})
    path.write_text(json.dumps(benchmark("abacus", rows, threads=2)))
    assert costs.estimate([full, layer], "abacus, 2 threads") == pytest.approx((0.55 * hours, 0))


def test_the_plan_says_runs_data_and_hours(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "raw"))
    monkeypatch.delenv("QLSTM_MIRROR", raising=False)
    (tmp_path / "raw").mkdir()
    for file in catalogue.PENN:
        (tmp_path / "raw" / file.name).touch()
    configs = grid("paper", only=["figure_01", "figure_06"])
    done = made_up(configs[0]) | {
        "environment": ENVIRONMENT | {"device": "abacus"}}
    done["data"]["sizes"] = dict(
        zip(("train", "valid", "test"), data.CATALOGUE["penn_char"].counts, strict=True))
    directory = records.run_directory(configs[0], tmp_path)
    directory.mkdir(parents=True)
    records.save(done, directory / "record.json")
    lines = costs.plan(configs, "paper")
    assert lines[0] == "paper: 10 runs, 1 have their record, 9 to go"
    assert lines[1] == "data: penn_char, 5 runs, at hand"
    assert (lines[2]
            == "data: war_and_peace, 5 runs, not at hand, 3 MB: make data DATASETS=war_and_peace")
    (row,) = [line for line in lines if line.startswith(f"  {H100}: ")]
    every, left = (costs.estimate(part, H100).hours for part in (configs, configs[1:]))
    assert row == f"  {H100}: {every:,.1f} all, {left:,.1f} to go"
    (own,) = [line for line in lines if line.startswith("  abacus, 1 threads: ")]
    assert own.endswith("and 8 runs of sizes not measured there")
    assert costs.plan(configs, "paper", configs[:1])[-1] == (
        "most wanted: 1 runs, 1 have their record")
    head, *following = costs.plan(configs, "paper", configs[:7])[len(lines):]
    assert head == ("most wanted: 7 runs, 1 have their record; next, with their hours on the "
                    "machines above in that order:")
    machines = [line.strip().partition(": ")[0] for line in lines if line.endswith((
        " to go", "not measured there")) and line.startswith("  ")]
    assert [line.split()[0] for line in following] == [config.run_id for config in configs[1:6]]
    for line, config in zip(following, configs[1:6], strict=True):
        estimates = [costs.estimate([config], name, [done]) for name in machines]
        assert line.split()[1:] == [
            "-" if unknown else f"{hours:.1f}" for hours, unknown in estimates]
    assert following[0].endswith(" -")


def test_a_prefix_is_at_hand_where_its_whole_is(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_DATA", str(tmp_path / "raw"))
    monkeypatch.setenv("QLSTM_MIRROR", str(tmp_path))
    assert not files.at_hand(catalogue.TEXT8_PREFIX)
    (tmp_path / "text8").mkdir()
    (tmp_path / "text8" / "text8.zip").touch()
    assert files.at_hand(catalogue.TEXT8)
    assert files.at_hand(catalogue.TEXT8_PREFIX)
    assert costs.at_hand("python_help")
    assert not costs.at_hand("mnist")
