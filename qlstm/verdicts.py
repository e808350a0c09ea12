"""The rule by which a result of ours is called the paper's or not; written before the first run was looked at.

1. Compared are results at the paper's own scale only (its data set and every setting of its appendix). All others
   are marked ``reduced``.
2. A row *fails* if a seed diverged, or if its mean is worse than that of full precision without normalization, on the
   same data and in the same size, by more than :data:`FAILS` (a factor; for accuracy :data:`FAILS_POINTS` points). Paper
   and reproduction are judged each by its own baseline. A row that fails in the paper has the verdict ``fails too`` or
   ``does not fail`` (``no baseline`` where ours is not run yet), whatever the numbers: what a failed training ends at is
   chance. One that fails only here: ``fails``.
3. Otherwise the verdict is ``agrees`` if our mean over seeds is within the margin of the printed number, else ``better``
   or ``worse``. The margin is the half-width of our 95 % t-interval (two seeds or more), but at least
   :data:`TOLERANCE`, which stands for the paper's own single seed and rounding.
4. With one seed ``(one seed)`` is added: it cannot speak for the others.
"""

import math

FAILS = 1.2
"""Times the baseline's BPC or perplexity."""
FAILS_POINTS = 10.0
"""Points of accuracy below the baseline's."""
TOLERANCE = {"bpc": 0.03, "ppl": 0.02, "accuracy": 0.5}
"""BPC: absolute; perplexity: relative; accuracy: points."""
NO_NUMBER, NOT_RUN, REDUCED, NO_BASELINE = "no number", "not run", "reduced", "no baseline"


def fails(metric: str, value: float | None, baseline: float | None) -> bool | None:
    """Rule 2 for a value of a ``metric``; ``value`` None or NaN: diverged. None where there is no baseline to judge by.

    >>> fails("bpc", 4.24, 1.72), fails("ppl", 91.9, 91.5), fails("accuracy", 60.0, 98.0)
    (True, False, True)
    """
    if value is None or math.isnan(value):
        return True
    if baseline is None or math.isnan(baseline):
        return None
    return value < baseline - FAILS_POINTS if metric == "accuracy" else value > FAILS * baseline


def verdict(metric: str, paper: float | None, ours: float | None, *, paper_baseline: float | None,
            our_baseline: float | None, half_width: float = math.nan, seeds: int = 1, diverged: int = 0) -> str:  # fmt: skip
    """The verdict on one row's ``metric`` at the paper's scale (rules 2 to 4).

    ``paper``: the printed number, None where it is not at hand; ``ours``: our mean; the baselines: full precision
    without normalization. ``half_width``: of the 95 % t-interval, NaN for one seed; ``diverged``: how many of the ``seeds``.

    >>> verdict("bpc", 1.74, 1.75, paper_baseline=1.72, our_baseline=1.73, half_width=0.01, seeds=3)
    'agrees'
    """
    if paper is None or math.isnan(paper):
        return NO_NUMBER
    alone = " (one seed)" if seeds == 1 else ""
    failed = fails(metric, None if diverged else ours, our_baseline)
    if fails(metric, paper, paper_baseline):
        if failed is None:
            return NO_BASELINE
        return ("fails too" if failed else "does not fail") + alone
    if failed:
        return "fails" + alone
    tolerance = TOLERANCE[metric] * (paper if metric == "ppl" else 1)
    margin = max(tolerance, 0.0 if math.isnan(half_width) else half_width)
    difference = (paper - ours) if metric == "accuracy" else (ours - paper)
    if abs(difference) <= margin + 1e-9:
        return "agrees" + alone
    return ("worse" if difference > 0 else "better") + alone
