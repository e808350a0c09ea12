"""Records as DataFrames, and the choice of runs for a figure."""

import math

import pandas as pd
import pytest
from made_up import everything, made_up, paper, quick

from qlstm.report import figures, frames, tables
from qlstm.study import records


def test_a_made_up_record_is_one_that_can_be_loaded(tmp_path):
    config = quick("bwn", "layer")
    records.save(made_up(config), tmp_path / "record.json")
    assert set(records.load(tmp_path / "record.json")) == set(records.REQUIRED)


def test_gradients_are_the_growth_by_hand():
    record = made_up(quick("binary_connect", steps=5))
    moment = record["traces"]["gradient_norms"]["initial"]
    moment["steps"] = [1, 3, 5]
    moment["last_step"] = [[16.0, 4.0, 1.0], [81.0, 1.0, 1.0], [256.0, 1.0, 1.0]]
    first = tables.gradients([record]).set_index("moment").loc["initial"]
    # the middle one, the fourth root of 81: four steps back from 5 to 1
    assert first["rate"] == pytest.approx(3)
    assert first["growth"] == pytest.approx(81)
    assert (first["proposition"], first["ratio"], first["lambda_1"]) == ("2.1", 0.5, 2.5)
    assert (first["lambda_2"], first["largest_lambda_1"]) == (0.5, 2.5)
    batch = tables.gradients([made_up(quick("binary_connect", "batch_shared"), lambdas=(1.0, 9.0))])
    assert set(batch["lambda_1"]) == {3.0}  # of squared norms
    own = made_up(quick("sbn", "batch_separate"))
    own["traces"]["propositions"] = dict.fromkeys(own["traces"]["propositions"])
    assert tables.gradients([own])["ratio"].isna().all()
    images = tables.gradients([made_up(quick("bwn", dataset="digits"), 90.0, rate=1.2)])
    assert images["rate"].tolist() == pytest.approx(
        [1.2] * 3
    )  # their only loss is that of the last step


@pytest.mark.parametrize(
    ("lines", "rate"),
    [
        ([[None, 1e30, 1.0]] * 3, 1e30 ** (1 / 50)),  # None: too large for a number
        ([[0.0, 1e-30, 1.0]] * 3, 1e-30 ** (1 / 50)),  # 0: too small for one
        (
            [[16.0, 4.0, 1.0], [16.0, 4.0, 1.0], [2.0, 1.0, 0.0]],
            16 ** (1 / 99),
        ),  # a sample without a gradient is left out
        ([[0.0, 0.0, 0.0]] * 3, math.nan),
    ],
)
def test_gradients_beyond_the_range_of_numbers_are_read_as_far_as_they_go(lines, rate):
    record = made_up(quick("binary_connect", steps=100))
    for losses in record["traces"]["gradient_norms"].values():
        losses["last_step"] = lines
    assert tables.gradients([record])["rate"].tolist() == pytest.approx([rate] * 3, nan_ok=True)


def test_a_square_that_overflows_is_no_violation_of_a_bound():
    record = made_up(quick("binary_connect", steps=100))
    record["traces"]["propositions"]["initial"]["ratio"] = 1e300
    record["traces"]["propositions"]["best"]["ratio"] = 1e299
    ratios = tables.gradients([record]).set_index("moment")["ratio"]
    assert math.isnan(ratios["initial"])
    assert ratios["best"] == 1e299


def test_by_epoch_is_the_history():
    found = tables.by_epoch(
        [
            made_up(quick("binary_connect", "batch_shared"), 2.0, lambdas=(4.0, 9.0),
                    gains=(1.0, 1.5, 0.5))
        ]
    )
    assert found["epoch"].tolist() == [0, 1, 2]
    assert found["g"].tolist() == [1.0, 1.5, 0.9]  # the largest over gates
    assert found["lambda_1_before"].tolist() == [2.0] * 3  # its root, in batch normalization
    assert found["lambda_1_after"].tolist() == [3.0] * 3
    assert found["valid_metric"].tolist()[1:] == [2.5, pytest.approx(2 + 1 / 3)]
    plain = tables.by_epoch([made_up(quick("binary_connect"), lambdas=(4.0, 9.0))])
    assert plain["g"].isna().all()
    assert plain["lambda_1_after"].tolist() == [9.0] * 3


def test_by_epoch_of_a_diverged_run_does_not_crash():
    record = made_up(quick("binary_connect", "layer"), diverged=True)
    assert math.isnan(tables.by_epoch([record])["lambda_1_after"].iloc[-1])
    record["epochs"][-1]["gains"] = {"g": [[None] * 4]}  # NaN weights
    assert pd.isna(tables.by_epoch([record])["g"].iloc[-1])


def test_a_figure_prefers_the_papers_text_and_scale():
    words, small, small_paper_text = (
        everything(name, steps=5) for name in ("python_help_words", "python_help", "penn_char"))
    at_scale = [made_up(paper("penn_char", q)) for q in ("bwn", "lab")]

    def labels(found):
        return [label for _, label, _ in tables.select(found, "figure_04")]

    assert labels(small)[0].startswith("Python's help text")
    assert labels(small + small_paper_text)[0].startswith("Penn Treebank (reduced")
    assert labels(small + small_paper_text + at_scale) == ["Penn Treebank"]
    assert len(labels(small + words)) == 2
    ((panel, _, found),) = tables.select(at_scale, "figure_04")
    assert panel.dataset == "penn_char"
    assert {row: record["run_id"] for row, record in found.items()} == {
        ("bwn", "none"): "penn_char-bwn-none-seed0", ("lab", "none"): "penn_char-lab-none-seed0"}
    with pytest.raises(LookupError, match="make reproduce ONLY=figure_04"):
        tables.select([made_up(quick("twn"))], "figure_04")


def test_the_best_setting_is_the_users_text_then_the_longest_training(tmp_path):
    rows = [("full_precision", "none"), ("binary_connect", "none")]

    def runs(epochs=3, train=10**6, **settings):
        found = [made_up(quick(q, n, epochs=epochs, **settings), curve=[2.0] * epochs)
                 for q, n in rows]
        for record in found:
            record["data"]["sizes"] = {"train": train, "valid": 1, "test": 1}
        return found

    def best(found):
        return [name for name, _ in frames.best_settings(found, ["full_precision",
                                                                 "binary_connect"])]
    short, long = runs(), runs(10)
    assert best(short + long) == best(long + short) == best(long)
    few, many = (runs(train=size, max_train=size) for size in (10**5, 2 * 10**6))
    assert best(few + many) == best(many + few) == best(many)
    text = tmp_path / "my.txt"
    text.write_text("My own text. " * 200)
    own = runs(dataset=str(text))
    assert best(long + own) == best(own + long) == best(own)
    complete = [*short, made_up(quick("binary_connect", "layer"), curve=[2.0] * 3)]
    complete[-1]["config"]["epochs"] = 3
    assert best(complete + own)[0] == best(short)[0]


def test_a_figure_of_words_takes_the_model_of_its_size():
    runs = [
        made_up(paper("penn_word", "binary_connect", **size)) for size in ({}, {"hidden_size": 650})
    ]
    for name, size in (("figure_02", 300), ("figure_10", 650)):
        assert tables.select(runs, name)[0][1] == f"Penn Treebank (words), d = {size}"
    assert not tables.makeable(runs, "figure_05")
    assert tables.makeable(runs, "reviewers")
    assert not tables.makeable([], "theory")


def test_figures_take_no_gru():
    assert not any(
        tables.makeable([made_up(quick("bwn", cell="gru"))], name) for name in figures.NAMES)
