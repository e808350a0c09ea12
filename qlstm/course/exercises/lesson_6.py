"""Lesson 6: read a paper critically."""

import numpy as np

from qlstm.course.exercises.answers import call, choice, hints, number


@hints(
    'The formula stands under "Intervals": a quantile times s, divided by the root of n.',
    "s is `np.std(values, ddof=1)`; the quantile is `scipy.stats.t.ppf(0.975, ...)` with n - 1 "
    "degrees of freedom.",
    "n is `len(values)`: the check uses another number of seeds, too.")
def exercise_6_1(half_width):
    """The confidence interval of a mean over seeds.

    Args:
        half_width: A function that takes the results of some seeds, a list of numbers, and returns
            half the width of the 95 % t-interval of their mean.
    """
    for values, t, normal_95, same_freedom in [
            ([2.1, 2.4, 2.2, 2.5, 2.3], 2.7764451, 2.1318468, (2.0150484, 2.5705818)),
            ([1.3, 1.9, 1.4], 4.3026527, 2.9199856, (2.3533634, 3.1824463))]:
        _half_width(values, call("half_width", half_width, values), t, normal_95, same_freedom)
    return "`qlstm.report.tables.over_seeds` does the same."


def _half_width(values, answer, t, one_sided, of_n):
    """Compare with the interval; ``t`` is the quantile of 0.975, ``one_sided`` that of 0.95, and
    ``of_n`` are both with n degrees of freedom."""
    n, std = len(values), np.std(values, ddof=1)
    error = std / n**0.5
    freedom = "n values have n - 1 degrees of freedom."
    wrong = {
        1.959964 * error: f"1.96 is the normal quantile; with {n} seeds take Student's t with "
                          f"{n - 1} degrees of freedom.",
        t * std: "the mean of n values is less uncertain than one of them: divide by the root of "
                 "n.",
        t * np.std(values) / n**0.5:
            "the standard deviation of a sample divides by n - 1 (ddof=1).",
        error: "that is the standard error; multiply by the t quantile.",
        t * error / n**0.5: "divide by the root of n, not by n.",
        t * std**2 / n: "the standard deviation is the root of the variance.",
        **{other * error: freedom for other in of_n},
        one_sided * error: "a two-sided 95 % interval leaves 2.5 % on each side: the quantile of "
                           "0.975.",
        2.7764451 * error: "the quantile depends on the number of values: n - 1 degrees of "
                           "freedom.",
        2 * t * error: "that is the whole width; half of it is asked."}
    number("half_width(values)", answer, t * error, wrong, within=1e-4)


@hints(
    "Add up bytes of three parts: codes, bias, normalizer; then divide by 1024.",
    "Codes: 4d (n + d) weights at one bit, eight to a byte. Bias and normalizer: 4d + 16d floats "
    "of 4 bytes.")
def exercise_6_2(kb):
    """The size that the paper prints for BinaryConnect with layer normalization on War and Peace.

    Args:
        kb: It in KB (1024 bytes), for 512 hidden units and 87 symbols.
    """
    d, n = 512, 87
    codes, bias, norm = 4 * d * (n + d) / 8, 4 * 4 * d, 4 * 16 * d  # bytes
    wrong = {190: "that is rounded; give it unrounded.",
             codes / 1024: "those are the codes; bias and normalizer are floats beside them.",
             (codes + bias) / 1024:
                 "layer normalization has a gain and a shift for each of eight products.",
             (codes + norm) / 1024: "the bias of 4d floats is missing.",
             (codes + bias + norm) / 1000: "the paper's KB has 1024 bytes.",
             (codes + bias + norm / 2) / 1024:
                 "gain and shift: two vectors of d for each of eight products."}
    number("kb", kb, (codes + bias + norm) / 1024, wrong, within=1e-3)
    return "The paper prints 190, rounded half up. 100 of its 103 sizes come out like that."


@hints(
    "Look at the table of means and half widths: BC+LN against full, and against full+LN.",
    "Lower is better. Is BC+LN below the other one, or within its interval?")
def exercise_6_3(against_plain, against_normalized):
    """Whether a one-bit LSTM with layer normalization is as good as full precision.

    Args:
        against_plain: ``True`` or ``False``: compared with unnormalized full precision.
        against_normalized: The same, compared with full precision with layer normalization.
    """
    choice("against_plain", against_plain, True,
           {False: "compare the two intervals again: lower is better."})
    choice("against_normalized", against_normalized, False,
           {True: "the normalized full-precision rows are lower, and the intervals are far apart."})
    return "The same runs support both headlines. Ask of every comparison: against which baseline?"


@hints(
    "Take each pair once, and none of a seed with itself: five seeds have ten pairs.",
    "The share is the number of pairs with `abs(a - b) > 0.02`, divided by the number of all "
    "pairs.",
    "Two loops: `for i, a in enumerate(values) for b in values[:i]` goes through each pair once. "
    "The number of pairs depends on `values`.")
def exercise_6_4(share):
    """How often two seeds of one model differ by more than the paper's gap between two models.

    Args:
        share: A function that takes the results of the seeds, a list of numbers, and returns the
            share of the pairs that differ by more than 0.02, between 0 and 1.
    """
    for values in ([2.312, 2.301, 2.345, 2.318, 2.35], [1.75, 1.9, 1.745, 1.76],
                   [1.5, 1.5, 1.8, 2.1, 1.81, 1.49]):
        _share(values, call("share", share, values))
    return ("The same model, other seeds: a gap of 0.02 between two single runs says little about "
            "two models.")


def _share(values, answer):
    n, array = len(values), np.asarray(values)
    differences = (array[:, None] - array)[np.tril_indices(n, -1)]  # later minus earlier
    gaps = np.abs(differences)
    exact = float((gaps > 0.02).mean())
    wrong = {100 * exact: "as a share between 0 and 1, please.",
             (n - 1) / n * exact: "leave out the pairs of a seed with itself.",
             len(gaps) * exact: "as a share of all pairs, please.",
             2 * len(gaps) * exact: "as a share of all pairs, please.",
             float((gaps > 0.2).mean()): "the gap in question is 0.02 BPC.",
             1 - exact: "that is the share of the pairs that differ by less.",
             float((differences > 0.02).mean()): "a difference may be negative: take `abs(a - b)`.",
             float((differences < -0.02).mean()):
                 "a difference may be negative: take `abs(a - b)`.",
             len(gaps) * exact / 10: f"{n} seeds do not have ten pairs."}
    number("share(values)", answer, exact, wrong, within=1e-3)
