"""The parts of a profile's page, from made-up records."""

import json
import re

import pytest
from made_up import made_up, quick

from qlstm.data.storage import ROOT
from qlstm.report import figures, overview, tables
from qlstm.report.scorecard import scorecard
from qlstm.study import records


@pytest.fixture(scope="module")
def found():
    rows = [("full_precision", "none", 2.0), ("binary_connect", "none", 4.0),
            ("binary_connect", "layer", 2.1), ("ter_connect", "weight", 2.2)]
    return [made_up(quick(q, n), test, rate=1.2, curve=[test] * 2) for q, n, test in rows]


def text_of(html):
    """What a reader sees: no tags, no addresses."""
    return re.sub(r"<[^>]*>", " ", html.removeprefix(overview.STYLE))


def test_the_finding_is_the_figure_with_its_sentence_and_loads_nothing(found):
    pictures = overview.pictures(found)
    assert list(pictures) == ["main_result", "main_result_narrow"]
    html = overview.finding(found, pictures)
    assert set(re.findall(r'src(?:set)?="([^,"]*)', html)) == {"data:image/png;base64"}
    assert f"<strong>{figures.main_sentence(found)}</strong>" in html
    assert re.search(r'alt="Test metric by normalization[^"]*fails on characters', html)


def test_a_page_without_the_runs_of_the_figure_is_a_page(tmp_path, monkeypatch):
    assert overview.pictures([]) == {}
    assert "No runs yet: <code>make reproduce</code>" in overview.finding([], {})
    alone = [made_up(quick("bwn"))]
    assert overview.pictures(alone) == {}
    html = overview.finding(alone, {})
    assert f"<strong>{figures.main_sentence(alone)}</strong>" in html
    assert "<img" not in html
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    cells = json.loads((ROOT / "notebooks" / "report" / "overview.ipynb").read_text())["cells"]
    for saved in ([], alone):
        for record in saved:
            path = tmp_path / "quick" / "runs" / record["run_id"] / "record.json"
            path.parent.mkdir(parents=True)
            records.save(record, path)
        names = {}
        for cell in cells:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
        assert len(names["found"]) == len(saved)


def test_claims_are_counted_in_words_and_opened_by_how_they_stand(found):
    html = overview.claims(scorecard(found, "quick"))
    assert html.startswith("<p>Of ")
    first, *others = re.findall(r"<summary>([^<]*: \d+)</summary>", html)
    assert first.startswith("● Hold in every setting")
    assert others[-1].startswith("– Not tested")
    assert "holds in 1 of 1 setting" in html
    assert "Judged where: the gradient of the network" in html
    assert "bc_fails" not in html
    assert "nan" not in text_of(html)


def test_tables_and_figures_that_were_made_are_there(found, tmp_path):
    assert "None made yet" in overview.tables(tmp_path)
    tables.shown(found, "table_2").save(tmp_path / "tables", "table_2")
    assert 'id="table_2"' in overview.tables(tmp_path)
    assert 'id="table_3"' not in overview.tables(tmp_path)
    assert "notebooks/report" not in overview.tables(tmp_path)
    page = tmp_path / "notebooks" / "report" / "table_2.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert 'href="notebooks/report/table_2.html"' in overview.tables(tmp_path)
    figures.save(figures.figure(found, "figure_06"), tmp_path / "figures", "figure_06")
    html = overview.figures(tmp_path)
    assert f'alt="{figures.NAMES["figure_06"]}"' in html
    assert figures.CAPTIONS["figure_06"][:40] in html
    assert overview.links(tmp_path) == ""
    (page.parent / "theory.html").touch()
    assert 'href="notebooks/report/theory.html"' in overview.links(tmp_path)


def test_failed_runs_are_told_in_words_with_their_cause(tmp_path):
    assert overview.failures(tmp_path) == ""
    failed = {"python_help-binary_connect-none-seed0-cell=gru": "ended by signal 9 <&>"}
    (tmp_path / "plan.json").write_text(json.dumps({"failures": failed}))
    told = text_of(overview.failures(tmp_path))
    assert "Python's help text, BinaryConnect (BC), none, seed 0, cell = gru" in (
        told.replace("&#x27;", "'"))
    assert "signal 9 &lt;&amp;&gt;" in told
    (tmp_path / "plan.json").write_text(json.dumps({"failures": {}}))
    assert overview.failures(tmp_path) == ""


def test_runs_are_folded_without_ids_as_text(found, tmp_path):
    record = tmp_path / "runs" / found[0]["run_id"] / "record.json"
    record.parent.mkdir(parents=True)
    record.touch()
    html = overview.runs([*found, made_up(quick("bwn"), diverged=True)], tmp_path)
    assert html.startswith("<details>")
    assert html.count("<a ") == 1
    assert f'href="runs/{found[0]["run_id"]}/record.json"' in html
    assert not re.search(r"python_help|binary_connect|seed0|nan", text_of(html))
    assert "diverged" in html
    assert "torch t" in overview.environments(found)
