"""The rule by which a result of ours is called the paper's or not.

1. Compared are results at the paper's own scale only (its data set and every setting of its
   appendix). All others are marked ``reduced``.
2. A row *fails* if a seed diverged, or if its mean is worse than that of full precision without
   normalization, on the same data and in the same size, by more than :data:`FAILS` (a factor; for
   accuracy :data:`FAILS_POINTS` points). Paper and reproduction are judged each by its own
   baseline. A row that fails in the paper has the verdict ``fails too`` or ``does not fail`` (``no
   baseline`` where ours is not run yet), whatever the numbers: what a failed training ends at is
   chance. One that fails only here: ``fails``.
3. Otherwise the difference of our mean over seeds from the printed number is judged. The margin is
   :data:`TOLERANCE`, which stands for the paper's own single seed and rounding. The interval is
   our 95 % t-interval over seeds. If all of it lies within the margin, the verdict is ``agrees``.
   If all of it lies beyond, the verdict is ``worse`` or ``better``. If it crosses the margin, the
   verdict is ``too uncertain``: more seeds have to tell.
4. One seed has no interval and cannot speak for the others. Rule 3 then says only ``within the
   margin, one seed`` or ``outside the margin, one seed``. To the words of rule 2 ``, one seed`` is
   added.
5. A short training can mistake slow for failed, and a baseline that has hardly begun for an equal.
   So where a claim is judged (:mod:`qlstm.report.judges`), rule 2 decides only if its answer would
   stand were training to go on as long again at the pace of its last quarter: a row that fails must
   not come within rule 2's margin of where full precision is now; one that does not fail must not
   be left behind by a full precision that goes on as well. Otherwise the row is ``open``. The rule
   is the same for a claim that a network fails and for one that it trains. At the paper's scale
   training is as long as the paper's, and rule 2 decides alone.

The rules were written before the first run was looked at. Rule 5 was added on 2026-11-26, after
reduced runs of some hundred updates had shown that normalized networks may need more of them, and
before the runs of today's profiles were looked at. Rules 3 and 4 were changed on 2026-11-26,
before any row at the paper's scale was looked at. Until then the margin was the half-width of our
interval where that exceeded the tolerance. So noise earned agreement: of two seeds 0.1 BPC apart
the half-width is 0.6, and a mean 0.6 from the printed number agreed. Now noise leaves a row
uncertain.
"""

import math

FAILS = 1.2
"""Times the baseline's BPC or perplexity."""
FAILS_POINTS = 10.0
"""Points of accuracy below the baseline's."""
TOLERANCE = {"bpc": 0.03, "ppl": 0.02, "accuracy": 0.5}
"""BPC: absolute; perplexity: relative; accuracy: points."""
MISSED = {"outside the margin, one seed", "worse", "better", "too uncertain"}
"""The verdicts of rule 3 that ask for a diagnosis (:mod:`qlstm.report.diagnoses`)."""
NO_NUMBER, NOT_RUN, REDUCED, NO_BASELINE = "no number", "not run", "reduced", "no baseline"


def fails(metric: str, value: float | None, baseline: float | None) -> bool | None:
    """Whether a network failed to train (rule 2).

    Args:
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        value: its test metric, None or NaN: diverged.
        baseline: that of full precision without normalization; None or NaN: not known.

    Returns:
        None where there is no baseline to judge by.

    Example:
        >>> fails("bpc", 4.24, 1.72), fails("ppl", 91.9, 91.5), fails("accuracy", 60.0, 98.0)
        (True, False, True)
    """
    if value is None or math.isnan(value):
        return True
    if baseline is None or math.isnan(baseline):
        return None
    return value < baseline - FAILS_POINTS if metric == "accuracy" else value > FAILS * baseline


def verdict(metric: str, paper: float | None, ours: float | None, *, paper_baseline: float | None,
            our_baseline: float | None, half_width: float = math.nan, seeds: int = 1,
            diverged: int = 0) -> str:
    """The verdict on one row at the paper's scale (rules 2 to 4).

    Args:
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        paper: the printed number; None or NaN: not at hand.
        ours: our mean over seeds.
        paper_baseline: the printed number of full precision without normalization.
        our_baseline: ours of full precision without normalization.
        half_width: of our 95 % t-interval, NaN for one seed.
        seeds: how many there are.
        diverged: how many of them diverged.

    Example:
        >>> baselines = {"paper_baseline": 1.72, "our_baseline": 1.73}
        >>> verdict("bpc", 1.74, 1.75, **baselines, half_width=0.01, seeds=3)
        'agrees'
        >>> verdict("bpc", 1.74, 1.75, **baselines, half_width=0.6, seeds=2)
        'too uncertain'
        >>> verdict("bpc", 1.74, 1.80, **baselines, half_width=0.01, seeds=3)
        'worse'
        >>> verdict("bpc", 1.74, 1.75, **baselines)
        'within the margin, one seed'
    """
    if paper is None or math.isnan(paper):
        return NO_NUMBER
    alone = ", one seed" if seeds == 1 else ""
    failed = fails(metric, None if diverged else ours, our_baseline)
    if fails(metric, paper, paper_baseline):
        if failed is None:
            return NO_BASELINE
        return ("fails too" if failed else "does not fail") + alone
    if failed:
        return "fails" + alone
    margin = TOLERANCE[metric] * (paper if metric == "ppl" else 1) + 1e-9  # at the margin is within
    difference = (paper - ours) if metric == "accuracy" else (ours - paper)  # positive: worse
    if seeds == 1:
        return ("within" if abs(difference) <= margin else "outside") + " the margin" + alone
    if abs(difference) + half_width <= margin:
        return "agrees"
    if abs(difference) - half_width > margin:
        return "worse" if difference > 0 else "better"
    return "too uncertain"  # also without an interval: a NaN is neither within nor beyond


def stands(metric: str, row: tuple[float, list[float]], baseline: tuple[float, list[float]]
           ) -> bool | None:
    """Whether a network failed to train (rule 2), if that answer would stand (rule 5).

    Args:
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        row: its test metric (NaN: diverged) and its best validation metric so far, by epoch.
        baseline: the same of full precision without normalization.

    Returns:
        None where a longer training could turn the answer, where there is one epoch alone, or no
        baseline.

    Example:
        >>> full = (2.0, [2.5, 2.1, 2.0, 2.0])
        >>> stands("bpc", (4.0, [4.1, 4.0, 4.0, 4.0]), full), stands("bpc", (2.1, [2.1] * 4), full)
        (True, False)
        >>> stands("bpc", (2.9, [4.0, 3.6, 3.2, 2.9]), full)  # it is still learning
    """
    now = fails(metric, row[0], baseline[0])
    if now is None or math.isnan(row[0]):
        return now
    ahead, base_ahead = later(metric, *row), later(metric, *baseline)
    then = fails(metric, ahead, baseline[0] if now else base_ahead)
    return now if then == now and not math.isnan(ahead) else None


def later(metric: str, test: float, curve: list[float]) -> float:
    """Where a test metric would be after as long a training again, at the pace of the last quarter.

    Args:
        metric: ``bpc``, ``ppl`` or ``accuracy``. The first two are continued by factors, the third
            by points, up to 100.
        test: it at the end of training.
        curve: the best validation metric so far, by epoch.

    Returns:
        NaN for fewer than two epochs.

    Example:
        >>> later("ppl", 100.0, [400.0, 300.0, 200.0, 100.0]), later("accuracy", 50.0, [40, 45])
        (6.25, 60.0)
    """
    if len(curve) < 2:
        return math.nan
    back = max(1, len(curve) // 4)
    before, end, times = curve[-1 - back], curve[-1], len(curve) / back
    if metric == "accuracy":
        return min(100.0, test + (end - before) * times)
    return test * (end / before) ** times
