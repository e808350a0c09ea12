import dataclasses
import json
import math

import pandas as pd
import pytest

from qlstm import ExperimentConfig, figures, records, report, tables
from qlstm.experiments import ARTEFACTS, TABLE_ROWS


def made_up(config, test=2.0, sha256="a" * 64, diverged=False):
    """A record as `run` would write it, with numbers that only a test may invent."""
    steps, lines = config.steps, 1 if config.normalizer.startswith("batch") else 3
    line = {"training": [[0.001] * steps] * lines, "last_step": [[0.002] * steps] * lines}
    epochs = [{"epoch": e, "valid_bpc": test + 1 / (e + 1), "alpha": [[0.1, 0.2, 0.3, 0.4]] if config.quantizer in ("bwn", "lab") else None,
               "gains": None if config.normalizer == "none" else {"g": [[1.0, 1.1, 1.2, 1.3]]}} for e in range(3)]  # fmt: skip
    record = {"schema": records.SCHEMA, "run_id": config.run_id, "config": config.as_dict(),
              "data": {"sha256": sha256, "reduced": False}, "metric": "bpc", "test_metric": None if diverged else test,
              "valid_metric": None if diverged else test, "best_epoch": None if diverged else 2, "diverged": diverged,
              "size_kb": 12.5, "seconds": 3.0, "epochs": epochs, "code": "c",
              "traces": {"gradient_norms": {"initial": line, "best": line}}, "environment": {"torch": "t"}}  # fmt: skip
    return record | {"checksum": records.checksum(record)}


def quick(quantizer, normalizer, **more):
    return ExperimentConfig(quantizer=quantizer, normalizer=normalizer, **more)


def test_an_empty_table_still_shows_the_papers_rows_and_names_the_misprints():
    table = tables.table_2([])
    assert len(table) == 3 * len(TABLE_ROWS)
    assert table["bpc"].isna().all()
    wide = tables.wide(table)
    assert wide.loc[("1", "BinaryConnect (BC)", "weight"), ("War and Peace", "paper BPC")] == "1.74"
    assert wide.loc[("1", "BinaryConnect (BC)", "–"), ("Text8", "paper BPC")] == "N/A"
    assert wide.loc[("1", "BWN", "layer"), ("Text8", "paper BPC")] == tables.NOT_AT_HAND
    misprints = [line for line in tables.notes(table) if line.startswith("Misprint")]
    assert len(misprints) == 2
    assert all(words in " ".join(misprints) for words in ("3521 printed, 3925", "15303 printed, 29443"))


def test_mean_and_interval_over_seeds():
    paper = ExperimentConfig(profile="paper", dataset="penn_char", quantizer="twn", normalizer="layer")
    runs = [made_up(dataclasses.replace(paper, seed=seed), test) for seed, test in enumerate([1.5, 1.6, 1.55])]
    runs.append(made_up(dataclasses.replace(paper, seed=3), diverged=True))
    table = (
        tables.table_2(runs).query("label == 'Penn Treebank' and quantizer == 'twn' and normalizer == 'layer'").iloc[0]
    )
    assert table["bpc"] == pytest.approx(1.55)
    assert table["half_width"] == pytest.approx(4.302653 * 0.05 / math.sqrt(3), rel=1e-6)  # t(0.975, 2) s / sqrt(n)
    assert (table["seeds"], table["diverged"]) == (4, 1)
    shown = tables.wide(tables.table_2(runs)).loc[("2", "TWN", "layer"), ("Penn Treebank", "our BPC")]
    assert shown == "1.55 ± 0.12 (1 of 4 diverged)"


def test_a_reduced_number_never_stands_in_a_row_of_the_paper():
    paper = ExperimentConfig(profile="paper", dataset="war_and_peace")
    reduced = [dataclasses.replace(paper, epochs=10), dataclasses.replace(paper, profile="quick", hidden_size=128)]
    table = tables.table_2([made_up(config) for config in reduced])
    assert table[table["paper_scale"]]["bpc"].isna().all()
    labels = [label for label in table["label"].unique() if "reduced" in label]
    assert labels == ["War and Peace (reduced: 10 epochs)", "War and Peace (reduced: d = 128)"]
    assert table.loc[table["label"] == labels[0], "paper_bpc"].isna().all()
    headings = [heading for heading in tables.wide(table).columns.get_level_values(0).unique() if "reduced" in heading]
    assert headings == ["War and Peace, reduced [1]", "War and Peace, reduced [2]"]
    assert any(line.startswith("[1] War and Peace (reduced: 10 epochs)") for line in tables.notes(table))


def test_records_of_different_texts_are_never_pooled():
    config = quick("bwn", "none")
    table = tables.table_2(
        [made_up(config, 2.0, "a" * 64), made_up(dataclasses.replace(config, seed=1), 4.0, "b" * 64)]
    )
    assert sorted(table.dropna(subset=["bpc"])["bpc"]) == [2.0, 4.0]


def test_a_diverged_run_is_shown_as_not_available():
    table = tables.table_2([made_up(quick("binary_connect", "none"), diverged=True)])
    wide = tables.wide(table)
    assert wide.iloc[:, 0].loc[("1", "BinaryConnect (BC)", "–")] == "N/A"
    assert wide.iloc[:, 0].loc[("1", "BinaryConnect (BC)", "layer")] == tables.NOT_RUN
    assert any("Left to PROFILE=paper" in line and "SBN (batch (separate))" in line for line in tables.notes(table))


def test_a_quantizer_of_ones_own_gets_a_row():
    config = quick("qlstm.quantizers:bwn", "layer")
    shown = tables.wide(tables.table_2([made_up(config, 1.25)]))
    assert "1.25" in shown.iloc[:, 0].tolist()


def test_the_four_files(tmp_path):
    table = tables.table_2([made_up(quick("lab", "none"))])
    tables.save(table, tmp_path, "table_2")
    again = pd.read_csv(tmp_path / "table_2.csv")
    assert again["bpc"].dropna().tolist() == [2.0]
    assert "| LAB" in (tmp_path / "table_2.md").read_text(encoding="utf-8")
    latex = (tmp_path / "table_2.tex").read_text(encoding="utf-8")
    assert "\\toprule" in latex
    assert "–" not in latex
    assert 'class="results"' in (tmp_path / "table_2.html").read_text(encoding="utf-8")


def everything(dataset="python_help", **more):
    rows = {row for spec in ARTEFACTS.values() for row in spec["rows"]}
    return [made_up(quick(q, n, dataset=dataset, **more)) for q, n in sorted(rows)]


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if name.startswith("figure")])
def test_every_figure_is_made_from_records(name, tmp_path):
    figure = figures.figure(everything(steps=5, hidden_size=8), name)
    rows = ARTEFACTS[name]["rows"]
    assert len(figure.axes) == len(rows) * (1 if name in ("figure_04", "figure_05") else 2)
    assert "reduced" in figure.get_suptitle()
    assert "in place of" in figure.get_suptitle()
    figures.save(figure, tmp_path, name)
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_a_figure_prefers_the_papers_text_and_scale():
    small = everything(steps=5)
    small_paper_text = everything("penn_char", steps=5)
    paper = [made_up(ExperimentConfig(profile="paper", dataset="penn_char", quantizer=q)) for q in ("bwn", "lab")]
    assert tables.select(small, "figure_04")[0].startswith("Python's help text")
    assert tables.select(small + small_paper_text, "figure_04")[0].startswith("Penn Treebank (reduced")
    assert tables.select(small + small_paper_text + paper, "figure_04")[0] == "Penn Treebank"
    with pytest.raises(LookupError, match="make reproduce ONLY=figure_04"):
        tables.select([made_up(quick("twn", "none"))], "figure_04")


def test_the_page_says_what_was_found_and_what_failed(tmp_path):
    rows = [("full_precision", "none", 2.5), ("binary_connect", "none", 4.5), ("binary_connect", "layer", 2.6)]
    found = [made_up(quick(q, n), test) for q, n, test in rows]
    for record in found:
        folder = tmp_path / "quick" / "runs" / record["run_id"]
        folder.mkdir(parents=True)
        records.save(record, folder / "record.json")
    (tmp_path / "quick" / "plan.json").write_text(json.dumps({"failures": {"some-run": "<b>no space</b>"}}))
    page = report.page("quick", tmp_path)
    assert "full precision 2.50 BPC; BinaryConnect (BC) 4.50 without normalization, 2.60 with layer." in page
    assert "&lt;b&gt;no space&lt;/b&gt;" in page
    assert "Reduced scale" in page
