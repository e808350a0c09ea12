"""Runs that are chosen by their settings, and what is drawn of them."""

import dataclasses

import pytest
import torch
from made_up import everything, made_up, paper, quick

import qlstm
from qlstm import ConfigError, ExperimentConfig, data
from qlstm.report import experiment, explore
from qlstm.report.names import label
from qlstm.study import records as files
from qlstm.study.networks import build_model


def of_one_model():
    """BC without normalization: of other sizes, epochs, texts and seeds, also of other tasks."""
    bc = quick("binary_connect")
    configs = [bc, *(dataclasses.replace(bc, seed=seed) for seed in (1, 2)),
               dataclasses.replace(bc, hidden_size=192), dataclasses.replace(bc, epochs=9),
               quick("binary_connect", task="word_lm"), paper("mnist", "binary_connect")]
    return [*(made_up(config, 2.0 + k) for k, config in enumerate(configs)),
            made_up(bc, 9.0, sha256="b" * 64)]


def settings_of(record):
    return label(ExperimentConfig(**record["config"]), record["data"]["sha256"])


@pytest.mark.parametrize(("draw", "panels_a_setting"), [(explore.learning_curves, 1),
                                                        (explore.gradient_curves, 2)])
def test_runs_of_two_settings_are_never_in_one_panel_nor_two_runs_in_one_line(
        draw, panels_a_setting):
    records = of_one_model()
    counts = {}
    for record in records:
        counts[settings_of(record)] = counts.get(settings_of(record), 0) + 1
    figure = draw(records)
    assert len(counts) == 6
    assert len(figure.axes) == panels_a_setting * len(counts)
    shown = {}
    for axes in figure.axes:
        title = " ".join(axes.get_title().split())
        (name,) = [name for name in counts if title == name or title.startswith(f"{name} at ")]
        shown[name] = len([line for line in axes.get_lines() if len(line.get_xdata())])
        assert axes.get_ylabel() or axes.get_title().endswith("best epoch")
    assert shown == counts


def test_a_line_has_the_values_of_its_run():
    figure = explore.learning_curves(of_one_model()[:3])
    (axes,) = figure.axes
    assert sorted(line.get_ydata()[-1] for line in axes.get_lines()) == pytest.approx(
        [2 + 1 / 3, 3 + 1 / 3, 4 + 1 / 3])
    assert axes.get_ylabel() == "validation BPC"


def test_colours_and_strokes_do_not_depend_on_the_choice():
    records = everything()
    some = explore.select(records, normalizer="layer", quantizer="ter_connect")
    looks = [explore._look(explore._lines(explore.frame(chosen))) for chosen in (records, some)]
    for kind in ("palette", "dashes"):
        assert looks[1][kind].items() <= looks[0][kind].items()
    assert looks[1]["hue_order"] == ["layer"]


def test_runs_are_chosen_by_their_settings():
    records = [*everything(), *everything("python_help_words")]
    chosen = explore.select(records, task="char_lm", quantizer=["lab", "twn"], seed=0)
    assert {(r["config"]["task"], r["config"]["quantizer"]) for r in chosen} == {
        ("char_lm", "lab"), ("char_lm", "twn")}
    assert explore.select(records) == records
    assert explore.select([], quantizer="lab") == []
    some = explore.select(records, quantizer=["lab", "twn"])  # none of full precision
    lists = explore.Chooser(some, quantizer=["full_precision", "lab"], seed=0)
    assert {record["config"]["quantizer"] for record in lists.records} == {"lab"}
    assert lists._list("quantizer").value == ("lab",)
    with pytest.raises(ConfigError, match="unknown quantizer 'lap': did you mean 'lab'"):
        explore.select(records, quantizer=["lap"])
    with pytest.raises(ConfigError, match="unknown filter 'quantiser'"):
        explore.select(records, quantiser="lab")


def test_what_chosen_runs_differ_in_is_said(capsys):
    records = of_one_model()[:5]
    assert explore.varying(records) == ["hidden_size", "seed", "epochs"]
    table = explore.table(records)
    assert list(table.columns) == [
        "hidden_size", "seed", "epochs", "test", "metric", "size (KB)", "minutes"]
    assert len(table) == len(records)
    diverged = made_up(quick("binary_connect"), diverged=True)
    assert list(explore.table([diverged])["test"]) == ["diverged"]
    chooser = explore.Chooser(records, seed=[1, 2])
    chooser._ipython_display_()
    assert capsys.readouterr().out.startswith("2 of 5 runs\nthey differ in: seed\n")
    explore.Chooser([], quantizer="lab")._ipython_display_()
    assert "no runs yet" in capsys.readouterr().out


def test_what_the_notebook_asks_for_need_not_be_there():
    weight = [made_up(quick("twn", "weight"))]
    chooser = explore.Chooser(weight, quantizer=["full_precision", "twn"], normalizer="layer")
    assert chooser.records == []
    assert chooser._list("quantizer").value == ("twn",)
    with pytest.raises(ConfigError, match="unknown quantizer 'tvn': did you mean 'twn'"):
        explore.select(weight, quantizer="tvn")


def test_lists_to_click_choose_runs(monkeypatch):
    chooser = explore.Chooser(of_one_model(), task="char_lm")
    lists = {name: chooser._list(name) for name in explore.FIELDS}
    assert lists["task"].value == ("char_lm",)
    assert lists["hidden_size"].value == ()
    chooser._choose(hidden_size=(192,), task=(), seed=())
    assert [record["config"]["hidden_size"] for record in chooser.records] == [192]


def test_runs_by_hand_are_found_beside_those_of_the_profile(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    planned, by_hand = (made_up(quick("binary_connect", hidden_size=d)) for d in (128, 64))
    for record, folder in ((planned, files.run_directory), (by_hand, experiment.folder)):
        directory = folder(ExperimentConfig(**record["config"]))
        directory.mkdir(parents=True)
        files.save(record, directory / "record.json")
    assert {record["run_id"] for record in explore.load("quick")} == {
        planned["run_id"], by_hand["run_id"]}
    assert explore._folder(by_hand).parts[-4:-1] == (
        "by_hand", "quick", "runs")


def test_a_result_stands_beside_full_precision_of_the_same_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    record = made_up(quick("binary_connect", "layer"), 2.5)
    folder = experiment.folder(ExperimentConfig(**record["config"]))
    for others, shown in (
            ([made_up(quick(epochs=9), 1.0), made_up(quick(), 1.5, sha256="b" * 64)], [2.5]),
            ([made_up(quick(seed=1), 1.7)], [2.5, 1.7]),
            ([made_up(quick(), 2.0)], [2.5, 2.0])):
        for other in others:
            directory = files.run_directory(ExperimentConfig(**other["config"]))
            directory.mkdir(parents=True, exist_ok=True)
            files.save(other, directory / "record.json")
        assert list(experiment.result(record, folder)["test BPC"]) == shown


def test_the_network_of_a_run_is_listed_with_its_bits():
    network = experiment.network(quick("ter_connect", "layer", dataset="digits"))
    assert network.loc["rnn.weight_hh_l0", "bits"] == 2
    assert network.loc["rnn.weight_ih_l0", "bits"] == 32  # one column, which is not quantized
    assert network.loc["decoder.weight", "shape"] == "10 × 64"


def test_an_image_is_read_pixel_by_pixel():
    config = quick(dataset="digits", hidden_size=8)
    torch.manual_seed(0)
    model, dataset = build_model(config).eval(), data.load_dataset("digits")
    figure = experiment.reading(model, dataset, count=2)
    inputs, _ = next(data.image_minibatches(
        tuple(part[:2] for part in dataset.test), 2, levels=dataset.levels))
    with torch.no_grad():
        expected = torch.softmax(model(inputs[:40])[0], -1)[0, dataset.test[1][0]]
    (_, pixels, chances) = figure.axes[:3]
    assert pixels.get_lines()[0].get_ydata()[39] == pytest.approx(float(inputs[39, 0, 0]))
    assert chances.get_lines()[0].get_ydata()[39] == pytest.approx(float(expected), abs=1e-6)


def test_what_a_trained_network_does_is_shown_for_each_task(tmp_path, capsys, monkeypatch):
    for task in ("char_lm", "word_lm", "sequential_image"):
        config = ExperimentConfig(profile="smoke", task=task, hidden_size=8, epochs=1)
        qlstm.run(config, tmp_path / task, report=lambda line: None)
        capsys.readouterr()
        experiment.show_data(config)
        assert data.title(config.dataset) in capsys.readouterr().out
        experiment.show_answers(tmp_path / task)
        assert ("|" in (out := capsys.readouterr().out)) == (task != "sequential_image"), out
    experiment.show_answers(tmp_path)
    assert "no trained network" in capsys.readouterr().out
