import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy

from qlstm import ExperimentConfig
from qlstm.report import figures, profile_page, tables
from qlstm.study import records
from qlstm.study.config import METRICS
from qlstm.study.grid import ARTEFACTS, DEEP_ROWS, GRU_ROWS, STATISTICS_EXPERIMENT, TABLE_ROWS
from qlstm.study.recipe import recipe
from qlstm.study.sizes import size_kb


def made_up(config, test=2.0, *, sha256="a" * 64, diverged=False, packed=4096, seconds=3.0,
            rate=1.0, growing=None, ratio=0.5, lambdas=(1.5, 2.5), norms=(1.0, 8.0), bound=4.0,
            gains=(1.0, 1.1, 1.2), alpha=0.3, moments=("initial", "epoch 1", "best")):
    """A record as `run` would write it, with numbers that only a test may invent.

    ``rate``: growth of the gradient a step back, at every moment but those of ``growing`` (by
    name); ``lambdas`` and ``norms``: before and after quantization; ``gains``: g_* by epoch, an
    epoch each.
    """
    gates = {"lstm": 4, "gru": 3}[config.cell]
    metric, batch = METRICS[config.task], config.normalizer.startswith("batch")
    proposition = {"none": "2.1", "weight": "3.1", "layer": "3.2"}.get(config.normalizer, "3.4")
    coded = config.quantizer != "full_precision"
    epochs = []
    for e, g in enumerate(gains):
        line = {"epoch": e} | (
            {"valid_loss": 1 + 1 / (e + 1), "valid_metric": test + 1 / (e + 1), "train_loss": 1.0}
            if e else {})
        after = {"norms": [norms[1]] * gates, "lambda_1": lambdas[1], "lambda_2": 0.5}
        line["alpha"] = (
            [[alpha] * gates] if config.quantizer in ("bwn", "lab", "twn", "lat") else None)
        line["gains"] = None if config.normalizer == "none" else {"g": [[g, *[0.9] * (gates - 1)]]}
        line["spectral"] = {
            "before": {"norms": [norms[0]] * gates, "lambda_1": lambdas[0], "lambda_2": 0.25},
            "after": after | ({"bounds": [bound] * gates} if coded else {})}
        epochs.append(line)
    if diverged:
        epochs[-1] = {"epoch": epochs[-1]["epoch"], "diverged": True, "spectral": None,
                      **{key: epochs[-1][key] for key in ("alpha", "gains")}}
    steps = [1, config.steps // 2, config.steps]
    norm_lines, propositions = {}, {}
    for moment in [name for name in moments if name != "best" or not diverged]:
        grows = (growing or {}).get(moment, rate)
        lines = [[(k + 1) * 1e-3 * grows ** (config.steps - step) for step in steps]
                 for k in range(1 if batch else 3)]
        norm_lines[moment] = {"steps": steps, "training": lines}
        if config.task != "sequential_image":
            norm_lines[moment]["last_step"] = lines
        propositions[moment] = {"proposition": proposition, "steps": steps, "ratio": ratio,
                                "median_ratio": ratio / 2, "lambda_1": [lambdas[1]] * 3,
                                "lambda_2": [0.5] * 3}
    record = {
        "schema": records.SCHEMA,
        "run_id": config.run_id,
        "config": config.as_dict(),
        "config_sha256": records.sha256(config.as_dict()),
        "data": {"sha256": sha256, "reduced": not config.at_paper_scale,
                 "sizes": {"train": 1, "valid": 1, "test": 1}},
        "metric": metric,
        "test_metric": None if diverged else test,
        "valid_metric": None if diverged else test,
        "best_epoch": None if diverged else len(gains) - 1,
        "diverged": diverged,
        "size_kb": size_kb(config),
        "packed_bytes": packed,
        "seconds": seconds,
        "epochs": epochs,
        "recipe": recipe(config.as_dict()),
        "traces": {"gradient_norms": norm_lines, "propositions": propositions},
        "environment": {"torch": "t", "backend": "cpu"},
    }
    return record | {"checksum": records.checksum(record)}


def quick(quantizer="full_precision", normalizer="none", **more):
    return ExperimentConfig(quantizer=quantizer, normalizer=normalizer, **more)


def paper(dataset, quantizer="full_precision", normalizer="none", **more):
    return quick(quantizer, normalizer, profile="paper", dataset=dataset, **more)


def row_of(table, label, quantizer, normalizer="none"):
    (found,) = table.query(
        "label == @label and quantizer == @quantizer and normalizer == @normalizer").itertuples()
    return found


def test_a_made_up_record_is_one_that_can_be_loaded(tmp_path):
    config = quick("bwn", "layer")
    records.save(made_up(config), tmp_path / "record.json")
    assert set(records.load(tmp_path / "record.json")) == set(records.REQUIRED)


# Tables 2 to 5: the paper's rows


def test_an_empty_table_still_shows_the_papers_rows_and_names_the_misprints():
    table = tables.results([], "table_2")
    assert len(table) == 3 * len(TABLE_ROWS)
    assert table["ours"].isna().all()
    assert set(table["verdict"]) == {"not run"}
    wide = tables.wide(table)
    assert wide.loc[("1", "BinaryConnect (BC)", "weight"), ("War and Peace", "paper BPC")] == "1.74"
    assert wide.loc[("1", "BinaryConnect (BC)", "–"), ("Text8", "paper BPC")] == "N/A"
    assert wide.loc[("1", "BWN", "layer"), ("Text8", "paper BPC")] == tables.NOT_AT_HAND
    misprints = [line for line in tables.notes(table) if line.startswith("Misprint")]
    assert len(misprints) == 2
    assert all(
        words in " ".join(misprints) for words in ("3521 printed, 3925", "15303 printed, 29443"))


ELSEWHERE = [made_up(quick("bwn", dataset="digits"))]
"""A record that has no place in Tables 2, 3 and 5."""

PENN_300, PENN_650, PENN_DEEP = (
    f"Penn Treebank (words), d = {size}" for size in ("300", "650", "650, 2 layers"))
@pytest.mark.parametrize(
    ("artefact", "label", "quantizer", "normalizer", "value", "kb"),
    [("table_2", "War and Peace", "binary_connect", "weight", 1.74, 174),
     ("table_2", "Text8", "ter_connect", "weight", 1.42, 4053),
     ("table_3", PENN_300, "binary_connect", "weight", 87.6, 102),
     ("table_3", PENN_650, "binary_connect", "weight", 84.8, 443),
     ("table_3", PENN_650, "full_precision", "none", 87.6, 13213),
     ("table_3", PENN_300, "alternating", "none", 103.1, 180),
     ("table_5", PENN_DEEP, "binary_connect", "weight", 81.86, 886),
     ("table_5", PENN_DEEP, "twn", "batch_separate", 81.69, 4596)],
)
def test_the_papers_numbers_stand_in_their_rows(artefact, label, quantizer, normalizer, value, kb):
    row = row_of(tables.results(ELSEWHERE, artefact), label, quantizer, normalizer)
    assert (row.in_paper, row.paper, row.paper_kb, row.computed_kb) == (True, value, kb, kb)


def test_the_rows_and_settings_of_tables_3_4_and_5():
    found = {name: tables.results([made_up(quick("bwn"))], name)
             for name in ("table_3", "table_4", "table_5")}
    assert list(found["table_3"]["label"].unique()) == [PENN_300, PENN_650]
    assert list(found["table_4"]["label"].unique()) == ["sequential MNIST"]
    assert list(found["table_5"]["label"].unique()) == [PENN_DEEP]
    assert [len(table) for table in found.values()] == [2 * len(TABLE_ROWS), len(TABLE_ROWS),
                                                        len(DEEP_ROWS)]
    assert found["table_3"]["in_paper"].sum() == 14 + 13
    assert found["table_5"]["in_paper"].all()
    assert not found["table_4"]["in_paper"].any()  # its numbers are not at hand
    assert found["table_4"]["computed_kb"].notna().all()
    assert set(found["table_4"]["metric"]) == {"accuracy"}


def test_the_third_misprint_the_suspect_and_lab_on_words_are_named():
    lines = tables.notes(tables.results(ELSEWHERE, "table_3"))
    assert [line for line in lines if line.startswith("Misprint")] == [
        f"Misprint in the paper's sizes: BinaryConnect (BC), batch (separate), {PENN_300}: "
        "767 printed, 768 by the formula."]
    assert any("113.8" in line and "d = 300 and d = 650" in line and "suspected misprint" in line
               for line in lines)
    assert any("LAB and LAT use D = 1" in line for line in lines)
    deep = tables.notes(tables.results(ELSEWHERE, "table_5"))
    assert not any("Misprint" in line or "113.8" in line for line in deep)


# our numbers beside them


def test_mean_and_interval_over_seeds():
    runs = [made_up(paper("penn_char", "twn", "layer", seed=seed), test)
            for seed, test in enumerate([1.5, 1.6, 1.55])]
    runs.append(made_up(paper("penn_char", "twn", "layer", seed=3), diverged=True))
    label = "Penn Treebank"
    row = row_of(tables.results(runs, "table_2"), label, "twn", "layer")
    assert row.ours == pytest.approx(1.55)
    assert row.half_width == pytest.approx(
        4.302653 * 0.05 / math.sqrt(3), rel=1e-6
    )  # t(0.975, 2) s / sqrt(n)
    assert (row.seeds, row.diverged) == (4, 1)
    shown = tables.wide(tables.results(runs, "table_2")).loc[
        ("2", "TWN", "layer"), (label, "our BPC")]
    assert shown == "1.55 ± 0.12 (1 of 4 diverged)"


def test_a_reduced_number_never_stands_in_a_row_of_the_paper():
    reduced = [paper("war_and_peace", epochs=10),
               quick(dataset="war_and_peace", hidden_size=128, epochs=200, max_train=0)]
    table = tables.results([made_up(config) for config in reduced], "table_2")
    assert table.loc[table["paper_scale"], "ours"].isna().all()
    labels = [label for label in table["label"].unique() if "reduced" in label]
    assert labels == ["War and Peace (reduced: 10 epochs)", "War and Peace (reduced: d = 128)"]
    at_hand = table["label"].isin(labels)
    assert table.loc[at_hand, ["paper", "paper_kb", "computed_kb"]].isna().all(axis=None)
    assert set(table.loc[at_hand & table["seeds"].notna(), "verdict"]) == {"reduced"}
    headings = [heading for heading in tables.wide(table).columns.get_level_values(0).unique()
                if "reduced" in heading]
    assert headings == ["War and Peace, reduced [1]", "War and Peace, reduced [2]"]
    assert any(
        line.startswith("[1] War and Peace (reduced: 10 epochs)") for line in tables.notes(table))


@pytest.mark.parametrize(
    ("artefact", "reduced"),
    [
        ("table_3", paper("penn_word", "binary_connect", epochs=5)),
        ("table_3", paper("penn_word", "binary_connect", hidden_size=650, clip_norm=1.0)),
        ("table_4", paper("mnist", "binary_connect", epochs=5)),
        ("table_5", paper("penn_word", "binary_connect", num_layers=2, hidden_size=128)),
        ("table_5",
         quick("binary_connect", dataset="python_help_words", num_layers=2, hidden_size=128)),
    ],
)
def test_reduced_runs_of_the_other_tables_stand_apart_too(artefact, reduced):
    table = tables.results([made_up(reduced, 33.0)], artefact)
    (row,) = table[table["ours"].notna()].itertuples()
    assert "reduced" in row.label
    assert not row.paper_scale
    assert math.isnan(row.paper)


def test_each_word_model_has_its_table():
    sizes = {"table_3": [{}, {"hidden_size": 650}],
             "table_5": [{"hidden_size": 650, "num_layers": 2}]}
    runs = [made_up(paper("penn_word", "bwn", **more), 80.0 + i)
            for i, more in enumerate([*sizes["table_3"], *sizes["table_5"]])]
    ours = {name: tables.results(runs, name).dropna(subset=["ours"])
            for name in ("table_2", "table_3", "table_4", "table_5")}
    assert dict(zip(ours["table_3"]["label"], ours["table_3"]["ours"], strict=True)) == {
        PENN_300: 80.0, PENN_650: 81.0}
    assert dict(zip(ours["table_5"]["label"], ours["table_5"]["ours"], strict=True)) == {
        PENN_DEEP: 82.0}
    assert ours["table_2"].empty
    assert ours["table_4"].empty


def test_grus_and_the_statistics_experiment_never_stand_in_tables_2_to_5():
    gru = [made_up(paper("penn_char", q, n, cell="gru")) for q, n in GRU_ROWS]
    gru += [made_up(paper("penn_word", q, n, cell="gru")) for q, n in GRU_ROWS]
    varied = [made_up(paper("mnist", *row, **panel.settings), 90.0)
              for panel in STATISTICS_EXPERIMENT for row in panel.rows]
    permuted = [made_up(paper("mnist", "bwn", permuted=True), 90.0)]
    usual = [r for r in varied if ExperimentConfig(**r["config"]).at_paper_scale]
    assert {r["run_id"] for r in usual} == {
        f"mnist-binary_connect-batch_{kind}-seed0" for kind in ("shared", "separate")}
    others = [record for record in varied if record not in usual]
    assert len(others) == 6
    for artefact in ("table_2", "table_3", "table_4", "table_5"):
        assert tables.results([*gru, *others, *permuted], artefact)["ours"].isna().all()
        assert not tables.makeable([*gru, *others, *permuted], artefact)
    assert tables.results(varied, "table_4")["ours"].notna().sum() == 2
    assert tables.makeable(gru, "gru")
    assert tables.makeable(others, "statistics")


def test_verdicts_stand_beside_the_numbers_and_speak_of_the_papers_scale_only():
    runs = [made_up(paper("war_and_peace"), 1.73),
            made_up(paper("war_and_peace", "binary_connect"), 4.0),
            made_up(paper("war_and_peace", "binary_connect", "weight"), 1.80),
            made_up(paper("war_and_peace", "ter_connect", "weight"), diverged=True),
            made_up(paper("war_and_peace", "bwn"), 1.7), made_up(quick("binary_connect"), 4.0)]
    table = tables.results(runs, "table_2")
    told = {(r.quantizer, r.normalizer): r.verdict for r in table[table["paper_scale"]].itertuples()
            if r.verdict != "not run"}
    assert told == {("full_precision", "none"): "within the margin, one seed",
                    ("binary_connect", "none"): "fails too, one seed",
                    ("binary_connect", "weight"): "outside the margin, one seed",
                    ("ter_connect", "weight"): "fails, one seed", ("bwn", "none"): "no number"}
    wide = tables.wide(table)
    shown = wide.loc[("1", "BinaryConnect (BC)", "weight"), ("War and Peace", "verdict")]
    assert shown == "outside the margin, one seed"
    assert "verdict" not in [name for heading, name in wide.columns if "reduced" in heading]
    assert "verdict" not in [
        name for heading, name in wide.columns if heading == "Text8"
    ]  # nothing run there


@pytest.mark.parametrize(
    ("tests", "answer"),
    [
        ((1.750, 1.755, 1.745), "agrees"),  # the paper: 1.74
        ((1.75, 1.85), "too uncertain"),  # half-width 0.6
        ((1.70, 1.75, 1.80), "too uncertain"),
        ((1.800, 1.805, 1.810), "worse"),
        ((1.690, 1.695, 1.700), "better"),
        ((1.75, None), "fails"),
        ((1.75, None, None), "fails"),
    ],
)
def test_the_verdict_on_several_seeds_is_by_their_interval(tests, answer):
    runs = [made_up(paper("war_and_peace"), 1.73)]
    for seed, test in enumerate(tests):
        config = paper("war_and_peace", "binary_connect", "weight", seed=seed)
        runs.append(made_up(config, test or 2.0, diverged=test is None))
    row = row_of(tables.results(runs, "table_2"), "War and Peace", "binary_connect", "weight")
    assert row.verdict == answer


def test_sizes_on_disk_stand_where_something_was_run():
    runs = [made_up(paper("war_and_peace", "bwn"), packed=2048),
            made_up(quick("bwn"), packed=5 * 1024 + 102)]
    table = tables.results(runs, "table_2")
    wide = tables.wide(table)
    reduced = next(heading for heading in wide.columns.get_level_values(0) if "reduced" in heading)
    assert wide.loc[("1", "BWN", "–"), ("War and Peace", "on disk KB")] == "2.0"
    assert wide.loc[("1", "BWN", "–"), (reduced, "on disk KB")] == "5.1"
    assert wide.loc[("1", "BWN", "layer"), (reduced, "on disk KB")] == tables.NOT_RUN
    assert ("Text8", "on disk KB") not in wide.columns
    assert row_of(table, "War and Peace", "bwn").packed_kb == 2.0


def test_records_of_different_texts_are_never_pooled():
    runs = [made_up(quick("bwn"), 2.0, sha256="a" * 64),
            made_up(quick("bwn", seed=1), 4.0, sha256="b" * 64)]
    assert sorted(tables.results(runs, "table_2").dropna(subset=["ours"])["ours"]) == [2.0, 4.0]


def test_a_diverged_run_is_shown_as_not_available():
    table = tables.results([made_up(quick("binary_connect"), diverged=True)], "table_2")
    wide = tables.wide(table)
    assert wide.iloc[:, 0].loc[("1", "BinaryConnect (BC)", "–")] == "N/A"
    assert wide.iloc[:, 0].loc[("1", "BinaryConnect (BC)", "layer")] == tables.NOT_RUN
    assert any("Left to PROFILE=paper" in line and "SBN (batch (separate))" in line
               for line in tables.notes(table))


def test_a_quantizer_of_ones_own_gets_a_row_without_a_packed_size():
    config = quick("qlstm.quantizers:bwn", "layer")
    found = [made_up(config, 1.25, packed=None),
             made_up(dataclasses.replace(config, seed=1), 1.35, packed=None)]
    runs = tables.over_seeds(tables.frame(found))
    assert (len(runs), runs["mean"].iloc[0], runs["seeds"].iloc[0]) == (1, pytest.approx(1.3), 2)
    assert math.isnan(runs["packed_kb"].iloc[0])
    shown = tables.wide(tables.results(found, "table_2"))
    assert any(text.startswith("1.30 ± ") for text in shown.iloc[:, 0])
    assert set(shown.iloc[:, 2]) == {tables.NOT_RUN}  # on disk
    assert shown.index[-1] == ("", "qlstm.quantizers:bwn", "layer")  # below the paper's rows


def test_the_four_files(tmp_path):
    table = tables.results([made_up(quick("lab"))], "table_2")
    tables.save(table, tmp_path, "table_2")
    again = pd.read_csv(tmp_path / "table_2.csv")
    assert again["ours"].dropna().tolist() == [2.0]
    assert "| LAB" in (tmp_path / "table_2.md").read_text(encoding="utf-8")
    latex = (tmp_path / "table_2.tex").read_text(encoding="utf-8")
    assert "\\toprule" in latex
    assert "–" not in latex
    assert 'class="results"' in (tmp_path / "table_2.html").read_text(encoding="utf-8")


# Table 1 and what the reviewers asked


def test_table_1_shows_norms_before_and_after_and_the_bound(tmp_path):
    runs = [made_up(quick("binary_connect"), norms=(1.0, 8.0), lambdas=(1.5, 2.5), bound=4.0),
            made_up(quick(), norms=(1.0, 1.0)), made_up(quick("binary_connect", "layer")),
            made_up(quick("binary_connect", cell="gru")),
            made_up(quick("binary_connect", dataset="digits"))]
    table = tables.table_1(runs)
    assert (
        len(table) == 2 * 2 * 4
    )  # two unnormalized LSTMs of text, epochs 0 and 2 (the best), four gates
    assert set(table["epoch"]) == {0, 2}
    binary = table[(table["quantizer"] == "binary_connect") & (table["gate"] == "f")].iloc[0]
    assert (binary["before"], binary["after"], binary["bound"]) == (1.0, 8.0, 4.0)
    assert (binary["lambda_1_before"], binary["lambda_1_after"], binary["lambda_2_before"]) == (
        1.5, 2.5, 0.25)
    wide = tables.table_1_wide(table)
    shown = wide.xs("BinaryConnect (BC)", level="quantization").iloc[0]
    assert (shown["‖W_hf‖"], shown["lower bound"], shown["λ₁"]) == (
        "1.00 → 8.00", "4.00", "1.50 → 2.50")
    assert (
        wide.xs("full precision", level="quantization").iloc[0]["lower bound"] == tables.NOT_AT_HAND
    )
    tables.save(table, tmp_path, "table_1", wide, tables.TABLE_1_NOTES)
    assert r"\lambda_1" in (tmp_path / "table_1.tex").read_text(encoding="utf-8")


def test_table_1_of_a_diverged_run_has_its_first_epoch_only():
    assert set(tables.table_1([made_up(quick("binary_connect"), diverged=True)])["epoch"]) == {0}


def test_gradients_are_the_growth_by_hand():
    record = made_up(quick("binary_connect", steps=5))
    moment = record["traces"]["gradient_norms"]["initial"]
    moment["steps"] = [1, 3, 5]
    moment["last_step"] = [[16.0, 4.0, 1.0], [81.0, 1.0, 1.0], [256.0, 1.0, 1.0]]
    first = tables.gradients([record]).set_index("moment").loc["initial"]
    assert first["rate"] == pytest.approx(
        3
    )  # the middle one, the fourth root of 81: four steps back from 5 to 1
    assert first["growth"] == pytest.approx(81)
    assert (first["proposition"], first["ratio"], first["lambda_1"]) == ("2.1", 0.5, 2.5)
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


def test_gradients_from_one_end_of_the_numbers_to_the_other_are_drawn(tmp_path):
    record = made_up(quick("binary_connect", steps=100))
    lines = record["traces"]["gradient_norms"]["initial"]["last_step"]
    lines[0][:] = [1e283, 1.0, 1e-300]
    figure = figures.gradient_norms({("binary_connect", "none"): record})
    figure.savefig(tmp_path / "figure.png")  # the ticks are made here
    assert figure.axes[0].get_ylim() == figures.DRAWN
    lines[0][:] = [1e3, 1.0, 1e-3]
    assert figures.gradient_norms({("binary_connect", "none"): record}).axes[0].get_ylim()[1] < 1e10


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


def test_run_time_is_an_epochs_and_a_ratio():
    runs = [made_up(quick("binary_connect", n, epochs=2, seed=seed), seconds=s)
            for n, seed, s in (("none", 0, 4.0), ("none", 1, 8.0), ("layer", 0, 12.0))]
    times = tables.run_time([*runs, made_up(quick("bwn", epochs=2), seconds=99.0)])
    assert times["seconds an epoch"].iloc[0].tolist() == [3.0, 6.0]
    assert times["times no normalization"].iloc[0].tolist() == [1.0, 2.0]
    assert len(times) == 1


def test_the_statistics_experiment_is_one_row_for_each_gain_and_noise():
    runs = [
        made_up(quick(*row, dataset="digits", seed=seed, **panel.settings),
                20.0 + seed + 50 * ("separate" in row[1]) + 10 * panel.settings["initial_gain"])
        for panel in STATISTICS_EXPERIMENT
        for row in panel.rows
        for seed in (0, 1)
    ]
    usual = [made_up(quick("binary_connect", "layer", dataset="digits"), 99.0),
             made_up(quick("bwn", "batch_shared", dataset="digits"), 99.0)]
    table = tables.statistics_experiment(
        [*runs, *usual, made_up(quick("binary_connect", "batch_shared"))])
    assert table.shape == (4, 2)
    shown = {key[1:]: row.str.partition(" ")[0].tolist()
             for key, row in table[["batch (shared)", "batch (separate)"]].iterrows()}
    assert shown == {("U(0, 1)", "0"): ["20.5", "70.5"], ("U(0, 1)", "0.1"): ["20.5", "70.5"],
                     ("0.1", "0"): ["21.5", "71.5"], ("0.1", "0.1"): ["21.5", "71.5"]}
    partial = tables.statistics_experiment(runs[:2] + runs[-2:])
    assert (partial == tables.NOT_RUN).sum(axis=None) == 2


def test_statistics_of_several_settings_stay_apart():
    runs = [made_up(quick("binary_connect", "batch_shared", dataset="digits", epochs=e), 10.0 * e)
            for e in (1, 2)]
    assert tables.statistics_experiment(runs)["batch (shared)"].tolist() == ["10.0", "20.0"]


def test_grus_stand_beside_their_lstms():
    runs = [made_up(quick("binary_connect", cell="gru"), 3.0, growing={"best": 1.3}),
            made_up(quick("binary_connect"), 4.0, rate=1.2), made_up(quick("bwn", cell="gru"), 5.0),
            made_up(quick("twn"), 6.0)]
    table = tables.beside_lstm(runs).reset_index()
    assert table["cell"].tolist() == ["GRU", "LSTM", "GRU"]
    assert table["test BPC"].tolist() == [3.0, 4.0, 5.0]
    assert table["gradient, a step"].tolist() == pytest.approx([1.3, 1.2, 1.0])
    assert table["KB"][0] < table["KB"][1]
    assert not table["setting"].str.contains("GRU").any()


@pytest.mark.parametrize(
    "name", ["table_1", "gradients", "by_epoch", "statistics_experiment", "beside_lstm", "run_time"]
)
def test_no_records_is_an_empty_table(name):
    assert getattr(tables, name)([]).empty


# figures


def everything(dataset="python_help", **more):
    task = ExperimentConfig(dataset=dataset).task
    rows = {(row, panel.variant) for panels in ARTEFACTS.values() for panel in panels
            for row in panel.rows if panel.task == task and not panel.settings}
    sizes = {"": {}, "small": {}, "large": {"hidden_size": 128},
             "deep": {"hidden_size": 128, "num_layers": 2}}
    return [made_up(quick(q, n, dataset=dataset, **sizes[variant] | more), moments=["best"])
            for (q, n), variant in sorted(rows)]


@pytest.fixture(scope="module")
def texts():
    return [*everything(steps=5), *everything("python_help_words", steps=5)]


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if name.startswith("figure")])
def test_every_figure_is_made_from_records(name, texts):
    figure = figures.figure(texts, name)
    panels = ARTEFACTS[name]
    rows = [row for panel in panels for row in panel.rows]
    assert len(figure.axes) == len(rows)
    title = figure.get_suptitle()
    assert title.startswith(figures.NAMES[name])
    assert title.count("reduced") == title.count("in place of") == len(panels)
    if panels[0].task == "word_lm":
        assert f"d = {128 if panels[0].variant == 'large' else 48}" in title
    titles = [axis.get_title() for axis in figure.axes]
    for quantizer, normalizer in rows:
        assert any(text.startswith(figures.model_name(quantizer, normalizer)) for text in titles)


def test_a_figure_is_saved_for_screen_and_print(texts, tmp_path):
    figures.save(figures.figure(texts, "figure_04"), tmp_path, "figure_04")
    assert (tmp_path / "figure_04.png").stat().st_size > 10_000
    assert (tmp_path / "figure_04.pdf").read_bytes().startswith(b"%PDF")


def test_figure_4_tells_characters_and_words_apart(texts):
    titles = {axis.get_title() for axis in figures.figure(texts, "figure_04").axes}
    assert titles == {"BWN, characters", "LAB, characters", "BWN, words", "LAB, words"}


def test_every_figure_of_the_paper_has_a_name_and_a_caption():
    assert (set(figures.NAMES) == set(figures.CAPTIONS)
            == {name for name in ARTEFACTS if name.startswith("figure")})
    assert set(figures.NAMES) <= set(profile_page.FIGURES)


def test_gradient_lines_show_the_norms_in_thousandths():
    figure = figures.figure([made_up(quick("binary_connect", steps=5), rate=2.0)], "figure_06")
    assert [axis.get_title() for axis in figure.axes] == [
        f"BC, {when}" for when in figures.MOMENTS.values()]
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_ydata())]
    assert len(lines) == 6  # three samples, two losses
    assert sorted(line.get_ydata()[-1] for line in lines) == pytest.approx([1, 1, 2, 2, 3, 3])
    assert max(line.get_ydata()[0] for line in lines) == pytest.approx(3 * 2**4)
    assert figure.axes[0].get_yscale() == "log"


def test_a_figure_prefers_the_papers_text_and_scale(texts):
    words = [r for r in texts if r["config"]["task"] == "word_lm"]
    small = [r for r in texts if r["config"]["task"] == "char_lm"]
    small_paper_text = everything("penn_char", steps=5)
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


def test_a_figure_of_words_takes_the_model_of_its_size():
    runs = [
        made_up(paper("penn_word", "binary_connect", **size)) for size in ({}, {"hidden_size": 650})
    ]
    for name, label in (("figure_02", PENN_300), ("figure_10", PENN_650)):
        assert tables.select(runs, name)[0][1] == label
    assert not tables.makeable(runs, "figure_05")
    assert tables.makeable(runs, "reviewers")
    assert not tables.makeable([], "theory")


def test_figures_take_no_gru():
    assert not any(
        tables.makeable([made_up(quick("bwn", cell="gru"))], name) for name in figures.NAMES)


def test_lambda_by_epoch_is_a_panel_a_model_with_two_lines():
    runs = [made_up(quick("binary_connect", n), lambdas=(1.5, 6.0)) for n in ("none", "layer")]
    figure = figures.lambda_by_epoch(
        [*runs, made_up(quick("binary_connect", seed=1), lambdas=(2.5, 8.0))])
    assert {axis.get_title() for axis in figure.axes} == {"BC", "BC+LN"}
    plain = next(axis for axis in figure.axes if axis.get_title() == "BC")
    heights = {tuple(line.get_ydata()) for line in plain.get_lines()}
    assert {(2.0,) * 3, (7.0,) * 3, (1, 1)} <= heights  # means over seeds, and the line at 1


def test_gains_and_lambda_are_above_each_other():
    runs = [made_up(quick("binary_connect", n), gains=(1.0, 2.0, 3.0))
            for n in ("none", "weight", "layer")]
    figure = figures.gains_and_lambda(runs)
    assert len(figure.axes) == 2 * 2  # what has no gains has no column
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["g$_*$", "λ$_1$"]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [1.0, 2.0, 3.0]


def test_growth_and_lambda_is_a_point_a_network_and_moment():
    runs = [
        made_up(quick("binary_connect", n), rate=1.3, lambdas=(1.0, 4.0)) for n in ("none", "layer")
    ]
    figure = figures.growth_and_lambda(runs)
    points = figure.axes[0].collections[0].get_offsets()
    assert len(points) == 6
    assert np.allclose(points, [4.0, 1.3])
    assert {"none", "layer", "at initialization"} <= {
        text.get_text() for text in figure.legends[0].get_texts()}


def test_learning_curves_of_three_tasks_have_their_units():
    sets = ("python_help", "python_help_words", "digits")
    runs = [made_up(quick(q, dataset=name), 50.0) for name in sets
            for q in ("full_precision", "binary_connect")]
    figure = figures.learning_curves(runs)
    assert sorted(axis.get_ylabel() for axis in figure.axes) == [
        "validation BPC", "validation PPL", "validation accuracy (%)"]
    for axis in figure.axes:
        assert sum(len(line.get_ydata()) == 2 for line in axis.get_lines()) == 2


# the page


def page_of(found, folder, profile="quick", failures=None):
    for record in found:
        place = folder / profile / "runs" / record["run_id"]
        place.mkdir(parents=True)
        records.save(record, place / "record.json")
    (folder / profile).mkdir(exist_ok=True)
    (folder / profile / "plan.json").write_text(json.dumps({"failures": failures or {}}))
    return profile_page.page(profile, folder)


def test_the_page_shows_the_scorecard_and_what_failed(tmp_path):
    rows = [("full_precision", "none", 2.5), ("binary_connect", "none", 4.5),
            ("binary_connect", "layer", 2.6)]
    found = [made_up(quick(q, n), test) for q, n, test in rows]
    page = page_of(found, tmp_path, failures={"some-run": "<b>no space</b>"})
    assert "&lt;b&gt;no space&lt;/b&gt;" in page
    assert "Reduced scale" in page
    assert "Without normalization, BinaryConnect fails to train." in page
    assert "4.50 BPC, full precision 2.50 BPC" in page
    card = pd.read_csv(tmp_path / "quick" / "scorecard.csv").set_index("claim")["verdict"]
    assert (card["bc_fails"], card["bc_trains"], card["bc_close"]) == (
        "holds", "holds", "not tested at this scale")
    for word, count in card.value_counts().items():
        plural = {"holds": "hold", "does not hold": "do not hold"}.get(word, f"are {word}")
        assert f"{count} {plural}" in page


def test_the_page_shows_tables_and_figures_that_were_made(tmp_path):
    for name in ("tables/table_3.html", "tables/gru.html", "figures/figure_09.png",
                 "figures/statistics.png"):
        (tmp_path / "quick" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "quick" / name).write_text(f"content of {name}")
    page = page_of(
        [made_up(quick(), 2.0), made_up(quick("bwn", "layer", dataset="digits"), diverged=True)],
        tmp_path)
    assert profile_page.TABLES["table_3"] in page
    assert "content of tables/gru.html" in page
    assert profile_page.TABLES["table_2"] not in page
    assert "figure_09.png" in page
    assert "figure_08.png" not in page
    assert "N/A (diverged)" in page


def test_the_page_of_nothing(tmp_path):
    page = page_of([], tmp_path)
    assert "Nothing yet" in page
    assert not (tmp_path / "quick" / "scorecard.csv").exists()


def seeds_of(normalizer, values, quantizer="binary_connect"):
    return [
        made_up(quick(quantizer, normalizer, seed=seed), value) for seed, value in enumerate(values)
    ]


def test_paired_tests_are_those_of_scipy_with_holms_correction():
    values = {"none": [6.7, 6.5, 6.9, 6.6], "layer": [2.9, 2.8, 3.0, 2.7],
              "batch_shared": [2.8, 2.9, 2.9, 2.65]}
    records_ = [record for name, tests in values.items() for record in seeds_of(name, tests)]
    found = tables.paired_tests(tables.frame(records_)).set_index(["a", "b"])
    assert list(found.index) == [("none", "layer"), ("none", "batch_shared"),
                                 ("layer", "batch_shared")]
    for (a, b), row in found.iterrows():
        expected = scipy.stats.ttest_rel(values[a], values[b])
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert row["difference"] == pytest.approx(np.mean(values[a]) - np.mean(values[b]))
        interval = expected.confidence_interval(0.95)
        assert row["half_width"] == pytest.approx((interval.high - interval.low) / 2)
        assert (row["seeds"], row["remark"]) == (4, "")
    smallest, middle, largest = np.sort(found["p"])
    assert np.sort(found["p_holm"]) == pytest.approx(
        [3 * smallest, max(3 * smallest, 2 * middle), max(2 * middle, largest)])
    assert (found.loc[("layer", "batch_shared"), "p_holm"] > 0.05
            > found.loc[("none", "layer"), "p_holm"])


def test_holms_correction_never_falls_and_ends_at_one():
    noisy = [record for k, name in enumerate(("none", "weight", "layer"))
             for record in seeds_of(name, [2 + 0.1 * ((3 * s + k) % 5) for s in range(5)])]
    found = tables.paired_tests(tables.frame(noisy)).sort_values("p")
    assert found["p_holm"].is_monotonic_increasing
    assert (found["p_holm"] >= found["p"]).all()
    assert found["p_holm"].max() == 1.0


def test_pairs_with_too_few_seeds_say_so():
    few = seeds_of("none", [6.7, 6.5]) + seeds_of("layer", [2.9, 2.8, 3.0])
    diverged = made_up(quick("binary_connect", "none", seed=2), diverged=True)
    for records_ in (few, [*few, diverged]):
        (row,) = tables.paired_tests(tables.frame(records_)).to_dict("records")
        assert row["remark"] == "too few seeds: 2, 3 are needed"
        assert np.isnan(row["p"])
        assert np.isnan(row["p_holm"])
        assert row["difference"] == pytest.approx(3.75)
    same = seeds_of("none", [3.0, 4.0, 5.0]) + seeds_of("layer", [2.0, 3.0, 4.0])
    (row,) = tables.paired_tests(tables.frame(same)).to_dict("records")
    assert row["remark"] == "the seeds do not differ"
    other = seeds_of("none", [1.0, 2.0, 3.5]) + seeds_of("layer", [2.0, 3.0, 4.0], quantizer="bwn")
    assert tables.paired_tests(tables.frame(other)).empty
    assert tables.paired_tests(tables.frame([])).empty
