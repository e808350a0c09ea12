"""What the reviewers asked: run time, statistics, GRUs, and paired tests over seeds."""

import numpy as np
import pytest
import scipy
from made_up import ENVIRONMENT, made_up, quick

from qlstm.report import reviewers, tables
from qlstm.study.grid import STATISTICS_EXPERIMENT


def test_run_time_is_an_epochs_and_a_ratio():
    runs = [made_up(quick("binary_connect", n, epochs=2, seed=seed), seconds=s)
            for n, seed, s in (("none", 0, 4.0), ("none", 1, 8.0), ("layer", 0, 12.0))]
    left_out = [made_up(quick("bwn", epochs=2), seconds=99.0),
                made_up(quick("binary_connect", epochs=2, seed=2), seconds=99.0, diverged=True)]
    times = tables.run_time([*runs, *left_out])
    assert times["seconds an epoch"].tolist() == [3.0, 6.0]
    assert times["times none"].tolist() == [1.0, 2.0]
    assert [key[2:] for key in times.index] == [
        ("BinaryConnect (BC)", "none"), ("BinaryConnect (BC)", "layer")]


def test_run_time_of_two_devices_is_not_mixed():
    runs = [made_up(quick("binary_connect", n, epochs=2, seed=seed), seconds=s)
            | {"environment": ENVIRONMENT | {"device": device}}
            for device, n, seed, s in (("abacus", "none", 0, 40.0), ("abacus", "layer", 0, 60.0),
                                       ("slide rule", "layer", 1, 6.0))]
    times = tables.run_time(runs)
    assert [(key[1], key[3]) for key in times.index] == [
        ("abacus", "none"), ("abacus", "layer"), ("slide rule", "layer")]
    assert times["seconds an epoch"].tolist() == [20.0, 30.0, 3.0]
    assert times["times none"].tolist() == pytest.approx([1.0, 1.5, np.nan], nan_ok=True)


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
    growth = [rate**99 for rate in (1.3, 1.2, 1.0)]  # over 100 steps
    assert table["gradient"].tolist() == pytest.approx(growth)
    assert table["KB"][0] < table["KB"][1]
    assert not table["setting"].str.contains("GRU").any()


@pytest.mark.parametrize(
    "name", ["table_1", "gradients", "by_epoch", "statistics_experiment", "beside_lstm", "run_time"]
)
def test_no_records_is_an_empty_table(name):
    assert getattr(tables, name)([]).empty


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


def test_what_is_shown_of_seeds_and_tests_has_no_wide_interval_and_no_untested_pair():
    runs = tables.frame([*seeds_of("none", [100.0, 9000.0, 200.0]),
                         *seeds_of("layer", [2.9, 2.8, 3.0]), *seeds_of("weight", [2.5])])
    shown = reviewers.several_seeds(runs).set_index("normalization")["test"].to_dict()
    assert shown == {"none": "100.00 to 9000.00", "layer": "2.90 ± 0.25"}
    pairs = reviewers.pairs(tables.paired_tests(runs))
    assert pairs[["a", "b"]].to_numpy().tolist() == [["none", "layer"]]
    assert pairs["quantization"].tolist() == ["BinaryConnect (BC)"]
