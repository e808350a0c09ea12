"""What is varied where a row misses the paper."""

import math

import pytest
from made_up import made_up, paper, quick

from qlstm.report import diagnoses, sections, tables
from qlstm.study.config import ExperimentConfig
from qlstm.study.grid import grid


def run(*given, **more):
    record = made_up(*given, **more)
    record["data"]["sizes"]["test"] = 64 * 1000
    return record


def table_of(records):
    return diagnoses.diagnoses(records, tables.results(records, "table_3"))


def varied(**settings):
    return ExperimentConfig(profile="paper", dataset="penn_word", **settings)


def test_a_row_that_misses_the_paper_is_shown_as_it_is_and_with_one_thing_varied():
    runs = [run(paper("penn_word"), 86.0), run(varied(biases=2), 88.0),
            run(varied(biases=2, seed=1), 90.0),
            run(varied(quantizer="binary_connect", normalizer="layer"), 89.8)]
    found = table_of(runs)
    assert set(found["quantizer"]) == {"full_precision"}  # the other is within the margin
    assert found["varied"].tolist() == [
        "", diagnoses.DIVIDED, "two biases, as torch.nn.LSTM has", "a rate that never falls",
        "all 120 epochs"]
    assert found["ours"].tolist()[:3] == [86.0, pytest.approx(86.0**0.999), 89.0]
    assert math.isnan(found["ours"][3])
    assert found["seeds"].tolist() == [1, 1, 2, 0, 0]
    assert diagnoses.readable(found)["from the paper's"].tolist()[::2] == ["-6.0 %", "-2.7 %", "·"]


def test_what_is_within_the_margin_fails_or_is_reduced_asks_for_no_diagnosis():
    runs = [run(paper("penn_word"), 91.0),
            run(varied(quantizer="binary_connect"), 5000.0),
            run(quick(dataset="penn_word"), 300.0)]
    assert table_of(runs).empty
    assert len(diagnoses.readable(table_of(runs))) == 0
    assert not any("varied" in s.title for s in tables.shown(runs, "table_3").sections)


def test_seeds_are_pooled_and_a_text_without_experiments_has_the_division_alone():
    tests = [1.60, 1.61, 1.62]
    runs = [run(paper("war_and_peace", seed=seed), test) for seed, test in enumerate(tests)]
    found = diagnoses.diagnoses(runs, tables.results(runs, "table_2"))
    assert found["varied"].tolist() == ["", diagnoses.DIVIDED]
    assert found["ours"].tolist() == pytest.approx([1.61, 1.61 * 0.999])
    assert diagnoses.readable(found)["from the paper's"].iloc[0] == "-0.11"


def test_an_experiment_that_diverged_is_not_one_that_was_not_run():
    found = table_of([run(paper("penn_word"), 86.0), run(varied(biases=2), diverged=True)])
    shown = diagnoses.readable(found)
    assert shown["our PPL"].tolist()[2:] == ["diverged", "·", "·"]
    assert shown["from the paper's"].tolist()[2:] == ["·", "·", "·"]


def test_the_table_shows_them_and_the_release_divides_by_one_symbol_more():
    runs = [run(paper("penn_word"), 86.0)]
    shown = tables.shown(runs, "table_3")
    assert shown.sections[-1].title.endswith("rows that miss the paper, one thing varied")
    assert shown.title == "Table 3: words, one layer (Penn Treebank (words))"
    assert "two biases" in sections.markdown(shown.sections)
    # 64 streams of 3 symbols: two are predicted, and divided by three
    assert diagnoses.divided("bpc", 3.0, 64 * 3 + 5) == pytest.approx(2.0)
    assert diagnoses.divided("ppl", math.e, 64 * 3) == pytest.approx(math.exp(2 / 3))


def test_the_experiments_differ_from_a_row_of_the_table_in_one_setting():
    rows = {(c.quantizer, c.normalizer): c.as_dict() for c in grid("paper", only=["table_3"])
            if c.hidden_size == 300}
    for config in grid("paper", only=["diagnoses"]):
        own = rows[config.quantizer, config.normalizer]
        assert sum(own[name] != value for name, value in config.as_dict().items()) == 1
