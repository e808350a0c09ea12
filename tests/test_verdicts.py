"""The rule for verdicts."""

import math

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlstm.report import verdicts


@pytest.mark.parametrize(
    ("metric", "value", "baseline", "answer"),
    [("bpc", 2.4, 2.0, False), ("bpc", 2.401, 2.0, True), ("ppl", 120.0, 100.0, False),
     ("ppl", 120.1, 100.0, True), ("accuracy", 88.0, 98.0, False), ("accuracy", 87.9, 98.0, True),
     ("accuracy", 99.0, 50.0, False), ("bpc", None, 2.0, True), ("bpc", math.nan, 2.0, True),
     ("bpc", math.nan, None, True), ("bpc", 9.0, None, None), ("bpc", 9.0, math.nan, None)],
)
def test_what_fails(metric, value, baseline, answer):
    assert verdicts.fails(metric, value, baseline) is answer


@pytest.mark.parametrize(
    ("metric", "paper", "ours", "half_width", "answer"),
    [
        ("bpc", 1.74, 1.77, 0.0, "agrees"),
        ("bpc", 1.74, 1.7701, 0.0, "worse"),
        ("bpc", 1.74, 1.71, 0.0, "agrees"),
        ("bpc", 1.74, 1.7099, 0.0, "better"),
        ("bpc", 1.74, 1.75, 0.02, "agrees"),  # the interval ends at the margin
        ("bpc", 1.74, 1.75, 0.0201, "too uncertain"),
        ("bpc", 1.74, 1.73, 0.0201, "too uncertain"),
        ("bpc", 1.74, 1.74, 0.0301, "too uncertain"),  # equal means, and yet
        ("bpc", 1.74, 1.77, 0.001, "too uncertain"),
        ("bpc", 1.74, 1.80, 0.03, "too uncertain"),  # it begins at the margin
        ("bpc", 1.74, 1.80, 0.0299, "worse"),
        ("bpc", 1.74, 1.68, 0.0299, "better"),
        ("bpc", 1.74, 1.84, 0.635, "too uncertain"),  # two seeds 0.1 apart
        ("ppl", 100.0, 102.0, 0.0, "agrees"),
        ("ppl", 100.0, 102.01, 0.0, "worse"),
        ("ppl", 100.0, 97.99, 0.0, "better"),
        ("ppl", 50.0, 51.01, 0.0, "worse"),  # relative to the printed number
        ("ppl", 50.0, 50.5, 0.5, "agrees"),
        ("ppl", 91.5, 91.5, 5.0, "too uncertain"),
        ("accuracy", 98.0, 98.5, 0.0, "agrees"),
        ("accuracy", 98.0, 98.51, 0.0, "better"),
        ("accuracy", 98.0, 97.49, 0.0, "worse"),
        ("accuracy", 98.0, 98.8, 0.29, "better"),
        ("accuracy", 98.0, 97.2, 0.29, "worse"),
        ("accuracy", 98.0, 96.5, 1.5, "too uncertain"),
        ("bpc", 1.74, 1.74, math.nan, "too uncertain"),  # seeds without an interval
    ],
)
def test_the_margin(metric, paper, ours, half_width, answer):
    base = {"paper_baseline": paper, "our_baseline": ours}
    found = verdicts.verdict(metric, paper, ours, **base, half_width=half_width, seeds=3)
    assert found == answer


@pytest.mark.parametrize(
    ("metric", "paper", "ours", "side"),
    [("bpc", 1.74, 1.77, "within"), ("bpc", 1.74, 1.7701, "outside"), ("bpc", 1.74, 1.71, "within"),
     ("bpc", 1.74, 1.7099, "outside"), ("ppl", 50.0, 51.0, "within"),
     ("ppl", 50.0, 51.01, "outside"), ("accuracy", 98.0, 98.5, "within"),
     ("accuracy", 98.0, 97.49, "outside")],
)
@pytest.mark.parametrize("half_width", [0.0, 5.0, math.nan])
def test_one_seed_neither_agrees_nor_is_worse(metric, paper, ours, side, half_width):
    base = {"paper_baseline": paper, "our_baseline": ours}
    found = verdicts.verdict(metric, paper, ours, **base, half_width=half_width)
    assert found == f"{side} the margin, one seed"


JUDGED = {"agrees", "too uncertain", "worse", "better"}
printed = st.sampled_from([("bpc", 1.74), ("ppl", 91.5), ("accuracy", 98.0)])
shifts = st.floats(-3, 3)
widths = st.floats(0, 3) | st.just(math.nan)
examples = hypothesis.settings(deadline=None, derandomize=True, database=None)


def margin_of(metric, paper):
    return verdicts.TOLERANCE[metric] * (paper if metric == "ppl" else 1)


def judged_at(metric, paper, shift, width, seeds=3):
    """The verdict ``shift`` margins from the printed number, with a half-width of ``width``."""
    margin = margin_of(metric, paper)
    ours = paper + shift * margin
    return verdicts.verdict(metric, paper, ours, paper_baseline=paper, our_baseline=paper,
                            half_width=width * margin, seeds=seeds)


@examples
@given(printed, shifts, widths)
def test_agreement_takes_the_whole_interval(number, shift, width):
    found, margin = judged_at(*number, shift, width), margin_of(*number)
    assert found in JUDGED
    if found == "agrees":
        assert (abs(shift) + width) * margin <= margin + 1e-8
    elif found in ("worse", "better"):
        assert (abs(shift) - width) * margin >= margin - 1e-8
        assert (found == "worse") == ((shift < 0) == (number[0] == "accuracy"))


@examples
@given(printed, shifts, st.floats(0, 3), st.floats(0, 3))
def test_noise_only_ever_makes_a_row_uncertain(number, shift, width, more):
    before, after = judged_at(*number, shift, width), judged_at(*number, shift, width + more)
    assert after in (before, "too uncertain")


@examples
@given(printed, shifts, widths)
def test_one_seed_is_within_where_its_mean_alone_would_agree(number, shift, width):
    within = judged_at(*number, shift, 0.0) == "agrees"
    side = "within" if within else "outside"
    assert judged_at(*number, shift, width, seeds=1) == f"{side} the margin, one seed"


@pytest.mark.parametrize("number", [("bpc", 1.74), ("ppl", 91.5), ("accuracy", 98.0)])
def test_each_verdict_occurs(number):
    found = {judged_at(*number, shift, width) for shift in (-2, 0, 2) for width in (0.5, 1.5)}
    assert found == JUDGED


@pytest.mark.parametrize(
    ("paper", "ours", "more", "answer"),
    [
        (4.24, 5.0, {}, "fails too"),
        (4.24, 1.9, {}, "does not fail"),
        (1.74, 4.0, {}, "fails"),
        (2.0, 2.3, {"our_baseline": 2.2}, "worse"),  # each by its own baseline
        (2.0, 2.3, {"our_baseline": 2.2, "half_width": 0.28}, "too uncertain"),
        (2.3, 2.3, {"our_baseline": 2.2}, "does not fail"),
        (2.0, 2.0, {"our_baseline": 1.6}, "fails"),
        (4.24, 4.24, {}, "fails too"),  # equal numbers of failed trainings do not "agree"
        (1.74, 1.74, {"diverged": 1}, "fails"),
        (4.24, 1.74, {"diverged": 1}, "fails too"),
        (1.74, math.nan, {"diverged": 3}, "fails"),
        (1.74, 1.74, {"diverged": 2, "half_width": math.nan}, "fails"),  # all but one diverged
        (4.24, 1.74, {"diverged": 2, "half_width": math.nan}, "fails too"),
        (1.74, 1.74, {"diverged": 1, "half_width": math.nan, "seeds": 2}, "fails"),
        (4.24, 1.74, {"half_width": 5.0}, "does not fail"),  # rule 2 asks for no interval
        (None, 1.74, {}, "no number"),
        (math.nan, 1.74, {}, "no number"),
        (1.74, 1.75, {"our_baseline": None}, "agrees"),
    ],
)
def test_failing(paper, ours, more, answer):
    settings = {"paper_baseline": 1.72, "our_baseline": 1.73, "half_width": 0.01, "seeds": 3} | more
    assert verdicts.verdict("bpc", paper, ours, **settings) == answer
    sides = {"agrees": "within", "worse": "outside", "too uncertain": "outside"}  # both at 2.3
    told = f"{sides[answer]} the margin" if answer in sides else answer
    alone = answer if answer == "no number" else f"{told}, one seed"
    single = settings | {"seeds": 1, "half_width": math.nan}
    assert verdicts.verdict("bpc", paper, ours, **single) == alone


@pytest.mark.parametrize("baseline", [None, math.nan])
def test_without_a_baseline_of_ours_nothing_is_said_of_a_row_that_fails_in_the_paper(baseline):
    told = verdicts.verdict("bpc", 4.24, 4.5, paper_baseline=1.72, our_baseline=baseline, seeds=3)
    assert "fail" not in told
    assert "agrees" not in told
