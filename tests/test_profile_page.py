"""The page of a profile."""

import json

import pandas as pd
from made_up import made_up, quick

from qlstm.report import profile_page
from qlstm.study import records


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
