"""Lesson 4: normalization."""

import torch

from qlstm.course.exercises.answers import NotYet, axis, call, choice, hints, number, random, same


@hints(
    '"Over an axis" means: along that axis numbers are added up. Which numbers are compared with '
    'each other?',
    "Layer normalization takes one sample of one step; batch normalization takes one unit of one "
    "step. What is left to average over?",
    "Layer: the mean is over the units. Batch: the mean is over the samples. Each gate and each "
    "step has its own.")
def exercise_4_1(layer, batch):
    """The axes of a tensor (T, N, 4, d) over which normalizers take their means.

    Args:
        layer: The axis of layer normalization in training, 0 to 3.
        batch: The axis of batch normalization.
    """
    axis("layer", layer, 3, 4, "it looks at one sample of one step and compares its units, those "
         "of each gate apart.")
    axis("batch", batch, 1, 4, "it looks at one unit of one step. Time is no part of it: even "
         "'shared' only means that all steps update the same running statistics.")
    return "Layer normalization needs no other sample, so training and test are the same."


@hints(
    "Divide each row by its own norm, then multiply it by its gain.",
    "`weight.norm(dim=1, keepdim=True)` has the norms of the rows, of shape (d, 1), which "
    "broadcasts; `gain[:, None]` has that shape too.",
    "A row of zeros has norm 0, and 0/0 is NaN: add a small number such as 1e-8 to the norms.")
def exercise_4_2(weight_norm):
    """Weight normalization.

    Args:
        weight_norm: A function that takes a matrix (d, n) and gains (d,), and returns the matrix
            whose row j has the norm that gain j says.
    """
    weight, gain = random(5, 7), random(5, seed=1).abs() + 0.5
    norms, rescaled = weight.norm(dim=1, keepdim=True), gain[:, None] * weight
    wrong = {"the gain is missing: row j should have norm g_j.": weight / norms,
             "one norm for the whole matrix is not enough: each row has its own.":
                 rescaled / weight.norm(),
             "divide by the norm, not by its square.": rescaled / norms**2,
             "a row is what `dim=1` adds up over; yours divides columns by their norms.":
                 rescaled / weight.norm(dim=0),
             "the norm is the root of the sum of squares, not the sum of magnitudes.":
                 rescaled / weight.abs().sum(1, keepdim=True),
             "the rows were only multiplied by g: divide by their norms.": rescaled}
    same("weight_norm(weight, gain)", call("weight_norm", weight_norm, weight, gain),
         rescaled / norms, wrong)
    weight[0] = 0
    if not torch.isfinite(call("weight_norm", weight_norm, weight, gain)).all():
        raise NotYet("a row of zeros gives NaN (a ternary row can be all zero): add a small number "
                     "to the norm.")
    return "`qlstm.normalizers.WeightNorm`; the added number is its eps."


@hints(
    "Count floats first: for one product, then times eight; then times 4 bytes, divided by 1024.",
    "Gain and shift are 2d floats a product, in both normalizers. Separate statistics are 2d more"
    " a product, for each step.",
    "8 * 2 * 512 floats are 32 KB. The statistics of one step take just as much; there are 100 "
    "steps, and gain and shift come on top.")
def exercise_4_3(layer_kb, separate_kb):
    """The size of the normalizers of a layer with 512 hidden units.

    Args:
        layer_kb: KB (1024 bytes) of layer normalization.
        separate_kb: KB of batch normalization with separate statistics for 100 steps.
    """
    d, steps = 512, 100
    floats = 8 * 2 * d  # gain and shift of eight products
    wrong = {8: "those are thousands of floats; a float has 4 bytes.",
             16: "gain and shift: 2d for each of 8 products.",
             4: "that is one product; a layer has eight.",
             32_768: "those are bytes; 1024 to a KB.", 32.768: "a KB has 1024 bytes here."}
    number("layer_kb", layer_kb, 4 * floats / 1024, wrong)
    wrong = {3200: "those are the statistics; add gain and shift.",
             1600 + 32: "a mean and a variance: two numbers for each unit and step.",
             64: "each step has its own.",
             808: "those are thousands of floats; a float has 4 bytes.",
             404: "that is one product; a layer has eight."}
    number("separate_kb", separate_kb, 4 * (floats + 16 * d * steps) / 1024, wrong,
           within=1e-3)
    return ("With 87 symbols the one-bit matrices have 150 KB: separate statistics are more than "
            "twenty times as large.")


@hints(
    "Try it with `F.layer_norm` on a few numbers and on their negatives.",
    "Write (y - mu) / sigma for -y: what becomes of mu, what of sigma?")
def exercise_4_4(minus_one):
    """What layer normalization makes of a matrix times -1.

    Args:
        minus_one: ``"unchanged"``, ``"negated"`` or ``"another"``: what becomes of the result.
    """
    wrong = {"unchanged": "the mean and the product change sign, the standard deviation does not.",
             "another": "write (y - mu) / sigma for -y: mu becomes -mu, sigma stays."}
    choice("minus_one", minus_one, "negated", wrong)
    return "Invariance holds for s > 0 only; sign and direction still matter."
