"""Tables 1 to 5: the paper's rows and numbers, ours beside them, and their files."""

import dataclasses
import math

import pandas as pd
import pytest
from made_up import made_up, paper, quick

from qlstm import ExperimentConfig
from qlstm.report import tables
from qlstm.study.grid import BINARY_ROWS, DEEP_ROWS, STATISTICS_EXPERIMENT, TABLE_ROWS, grid


def row_of(table, label, quantizer, normalizer="none"):
    (found,) = table.query(
        "label == @label and quantizer == @quantizer and normalizer == @normalizer").itertuples()
    return found


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
        line.startswith("War and Peace (reduced: 10 epochs)") for line in tables.notes(table))


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
    gru = [made_up(paper("penn_char", q, n, cell="gru")) for q, n in BINARY_ROWS]
    gru += [made_up(paper("penn_word", q, n, cell="gru")) for q, n in BINARY_ROWS]
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


# what is shown


def words(**tests):
    """Full precision (100) and BinaryConnect on words, at reduced scale, some seeds each; None:
    diverged."""
    runs = [made_up(quick(dataset="python_help_words"), 100.0)]
    for normalizer, seeds in tests.items():
        config = quick("binary_connect", normalizer, dataset="python_help_words")
        runs += [made_up(dataclasses.replace(config, seed=seed), test or 2.0, diverged=test is None)
                 for seed, test in enumerate(seeds)]
    return runs


def test_what_is_shown_was_run_one_setting_at_a_time():
    shown = tables.shown([*words(none=[90.0], layer=[101.25]),
                          made_up(quick("ter_connect", dataset="python_help_words",
                                        hidden_size=128), 120.0)], "table_3")
    assert shown.title == "Table 3: words, one layer (Python's help text (words))"
    small, large = shown.sections
    assert (small.title, small.scale) == (
        "Python's help text (words), d = 300", "3 epochs, first 40,000")
    assert list(small.cells) == ["quantization", "normalization", "our PPL", "KB"]
    assert small.cells["our PPL"].tolist() == ["100.0", "90.0", "101.2"]
    assert len(large.cells) == 1
    assert tables.empty_share(shown.sections) == 0
    assert len(shown.folded) == 4  # the paper's two settings too
    assert tables.empty_share(shown.folded) > 0.3


def test_a_failed_row_shows_the_range_of_its_seeds_and_no_interval():
    runs = words(none=[210.0, 7302.4], weight=[None], layer=[130.0, None], batch_shared=[300.0])
    (section,) = tables.of_results(tables.results(runs, "table_3"))
    ours = dict(zip(section.cells["normalization"][1:], section.cells["our PPL"][1:], strict=True))
    assert ours == {"none": "fails (210 to 7302)", "weight": "diverges",
                    "layer": "fails (130, 1 of 2 diverge)", "batch (shared)": "fails (300)"}
    assert section.failed == [1, 2, 3, 4]
    (section,) = tables.of_results(tables.results(words(none=[90.0, 91.0]), "table_3"))
    assert section.cells["our PPL"].tolist() == ["100.0", "90.5 ± 6.4"]


def test_the_papers_number_and_the_verdict_stand_where_the_scale_is_the_papers():
    runs = [made_up(paper("penn_word"), 86.0), made_up(paper("penn_word", "binary_connect"), 135.0)]
    (section,) = tables.of_results(tables.results(runs, "table_3"))
    assert list(section.cells) == [
        "quantization", "normalization", "paper's PPL", "our PPL", "verdict", "seeds", "KB"]
    assert section.cells.iloc[1].tolist() == [
        "BinaryConnect (BC)", "none", "8247", "fails (135)", "fails too, one seed", "1 d", "93"]
    assert section.scale == ""


def test_a_row_says_how_many_seeds_were_trained_on_which_device():
    runs = [made_up(paper("penn_word", seed=seed), 86.0) for seed in range(3)]
    runs[1]["environment"] = runs[1]["environment"] | {"device": "GPU"}
    (row, *_) = tables.results(runs, "table_3").to_dict("records")
    assert (row["seeds"], row["devices"]) == (3, "2 d, 1 GPU")


def test_a_stand_in_is_never_titled_as_the_papers_data():
    digits = [made_up(quick(q, dataset="digits"), 90.0) for q in ("full_precision", "bwn")]
    shown = tables.shown(digits, "table_4")
    assert shown.title == "Table 4: images, read pixel by pixel (handwritten digits, 8 x 8)"
    assert "MNIST" not in shown.title + "".join(s.title + s.scale for s in shown.sections)


@pytest.mark.parametrize("dataset", ["python_help", "python_help_words", "digits"])
def test_few_cells_of_what_is_shown_are_empty(dataset):
    """Measured on records of every row of the small profile quick."""
    runs = [made_up(config, 50.0) for config in grid("quick") if config.dataset == dataset
            and config.cell == "lstm"]
    for artefact in ("table_1", "table_2", "table_3", "table_4", "table_5"):
        sections = tables.shown(runs, artefact).sections
        assert tables.empty_share(sections) < 0.1
        assert all(len(section.cells.columns) <= 6 for section in sections)
        html = tables.html(sections)
        for raw in ("nan", "None", "python_help", "binary_connect", "seed0"):
            assert raw not in html


def test_the_share_of_empty_cells_counts_marks():
    cells = pd.DataFrame({"a": ["1", tables.NOT_RUN], "b": ["x", tables.NOT_AT_HAND]})
    assert tables.empty_share([tables.Section("", "", cells)]) == 0.5
    assert tables.empty_share([]) == 0


def test_the_four_files(tmp_path):
    shown = tables.shown([made_up(quick()), made_up(quick("lab"), 2.6)], "table_2")
    shown.save(tmp_path, "table_2")
    again = pd.read_csv(tmp_path / "table_2.csv")
    assert again["ours"].dropna().tolist() == [2.0, 2.6]
    markdown, latex, html = ((tmp_path / f"table_2.{ending}").read_text(encoding="utf-8")
                             for ending in ("md", "tex", "html"))
    assert "**Python's help text** (reduced: d = 128, 4 epochs, first 240,000)" in markdown
    assert "| LAB" in markdown
    assert markdown.index("<details>") < markdown.index("**War and Peace**")
    assert "\\toprule" in latex
    assert "–" not in latex
    assert html.count('<tr class="fails">') == 2  # shown, and among all rows
    assert html.index("<details>") < html.index("<caption>War and Peace</caption>")


def test_other_tables_are_cut_by_setting_and_have_no_empty_columns():
    index = pd.MultiIndex.from_tuples(
        [("A (reduced: d = 1, text 0a1b2c)", "x"), ("B", "y")], names=["setting", "row"])
    found = tables.of_frame(pd.DataFrame({"p": [1.234, None], "q": [None, 2e7]}, index=index))
    assert [(s.title, s.scale) for s in found] == [("A", "d = 1"), ("B", "")]
    assert [s.cells.iloc[0].tolist() for s in found] == [["x", "1.23"], ["y", "2e+07"]]
    plain = pd.DataFrame({"p": [1.0]}, index=pd.Index(["A"], name="setting"))
    assert [list(s.cells) for s in tables.of_frame(plain)] == [["p"]]


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
    (section,) = tables.spectra(table)
    assert section.cells.iloc[2].tolist() == [
        "BinaryConnect (BC)", "0", "1 → 8", "1.5 → 2.5", "0.25 → 0.5"]
    tables.shown(runs, "table_1").save(tmp_path, "table_1")
    assert r"\lambda_1" in (tmp_path / "table_1.tex").read_text(encoding="utf-8")


def test_table_1_of_a_diverged_run_has_its_first_epoch_only():
    assert set(tables.table_1([made_up(quick("binary_connect"), diverged=True)])["epoch"]) == {0}
