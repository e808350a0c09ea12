"""Lesson 6: read a paper critically."""

import numpy as np

from qlstm.course.exercises.answers import call, choice, number


def exercise_6_1(half_width):
    """The confidence interval of a mean over seeds.

    Args:
        half_width: A function that takes the results of some seeds, a list of numbers, and returns
            half the width of the 95 % t-interval of their mean.
    """
    values = [2.1, 2.4, 2.2, 2.5, 2.3]
    n, t = len(values), 2.7764451  # the quantile of 0.975 with 4 degrees of freedom
    std = np.std(values, ddof=1)
    error = std / n**0.5
    freedom = "n values have n - 1 degrees of freedom."
    wrong = {
        1.959964 * error: "1.96 is the normal quantile; with 5 seeds take Student's t with 4 "
                          "degrees of freedom.",
        t * std: "the mean of n values is less uncertain than one of them: divide by the root of "
                 "n.",
        t * np.std(values) / n**0.5:
            "the standard deviation of a sample divides by n - 1 (ddof=1).",
        error: "that is the standard error; multiply by the t quantile.",
        2.0150484 * error: freedom,
        2.5705818 * error: freedom,
        2.1318468 * error: "a two-sided 95 % interval leaves 2.5 % on each side: the quantile of "
                           "0.975.",
        2 * t * error: "that is the whole width; half of it is asked."}
    number("half_width(values)", call("half_width", half_width, values), t * error, wrong,
           within=1e-4)
    return "`qlstm.report.tables.over_seeds` does the same."


def exercise_6_2(kb):
    """The size that the paper prints for BinaryConnect with layer normalization on War and Peace.

    Args:
        kb: It in KB (1024 bytes), for 512 hidden units and 87 symbols.
    """
    d, n = 512, 87
    codes, bias, norm = 4 * d * (n + d) / 8, 4 * 4 * d, 4 * 16 * d  # bytes
    wrong = {codes / 1024: "those are the codes; bias and normalizer are floats beside them.",
             (codes + bias) / 1024:
                 "layer normalization has a gain and a shift for each of eight products.",
             (codes + norm) / 1024: "the bias of 4d floats is missing.",
             (codes + bias + norm) / 1000: "the paper's KB has 1024 bytes.",
             (codes + bias + norm / 2) / 1024:
                 "gain and shift: two vectors of d for each of eight products."}
    number("kb", kb, (codes + bias + norm) / 1024, wrong, within=1e-3)
    return "The paper prints 190, rounded half up. 100 of its 103 sizes come out like that."


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


def exercise_6_4(share, values):
    """How often two seeds of one model differ by more than the paper's gap between two models.

    Args:
        share: The answer, between 0 and 1.
        values: The results of the seeds, a sequence of numbers.
    """
    values = np.asarray(values, dtype=float)
    gaps = np.abs(values[:, None] - values)[np.triu_indices(len(values), 1)]
    exact = float((gaps > 0.02).mean())
    wrong = {100 * exact: "as a share between 0 and 1, please.",
             (len(values) - 1) / len(values) * exact:
                 "leave out the pairs of a seed with itself.",
             len(gaps) * exact: "as a share of all pairs, please.",
             float((gaps > 0.2).mean()): "the gap in question is 0.02 BPC."}
    number("share", share, exact, wrong, within=1e-3)
    return ("The same model, other seeds: a gap of 0.02 between two single runs says little about "
            "two models.")
