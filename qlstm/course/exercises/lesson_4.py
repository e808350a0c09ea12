"""Lesson 4: normalization."""

import torch

from qlstm.course.exercises.answers import NotYet, call, choice, number, random, same


def exercise_4_1(layer, batch):
    """The axes of a tensor (T, N, 4, d) over which normalizers take their means.

    Args:
        layer: The axis of layer normalization in training, 0 to 3.
        batch: The axis of batch normalization.
    """
    for name, value in (("layer", layer), ("batch", batch)):
        if isinstance(value, bool) or value not in (0, 1, 2, 3):
            raise NotYet(f"`{name}`: write the axis as a number: 0 time, 1 samples, 2 gates, "
                         "3 units.")
    if layer != 3:
        raise NotYet("`layer`: it looks at one sample of one step and compares its units.")
    if batch != 1:
        raise NotYet("`batch`: it looks at one unit of one step. Time is no part of it: even "
                     "'shared' only means that all steps update the same running statistics.")
    return "Layer normalization needs no other sample, so training and test are the same."


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
             "the rows were only multiplied by g: divide by their norms.": rescaled}
    same("weight_norm(weight, gain)", call("weight_norm", weight_norm, weight, gain),
         rescaled / norms, wrong)
    weight[0] = 0
    if not torch.isfinite(call("weight_norm", weight_norm, weight, gain)).all():
        raise NotYet("a row of zeros gives NaN (a ternary row can be all zero): add a small number "
                     "to the norm.")
    return "`qlstm.normalizers.WeightNorm`; the added number is its eps."


def exercise_4_3(layer, separate):
    """The size of the normalizers of a layer with 512 hidden units.

    Args:
        layer: KB (1024 bytes) of layer normalization.
        separate: KB of batch normalization with separate statistics for 100 steps.
    """
    d, steps = 512, 100
    floats = 8 * 2 * d  # gain and shift of eight products
    wrong = {8: "those are thousands of floats; a float has 4 bytes.",
             16: "gain and shift: 2d for each of 8 products.",
             4: "that is one product; a layer has eight."}
    number("layer", layer, 4 * floats / 1024, wrong)
    wrong = {3200: "those are the statistics; add gain and shift.",
             1600 + 32: "a mean and a variance: two numbers for each unit and step.",
             64: "each step has its own."}
    number("separate", separate, 4 * (floats + 16 * d * steps) / 1024, wrong, within=1e-3)
    return "The one-bit matrices have 140 KB: separate statistics outweigh them twenty times."


def exercise_4_4(negated):
    """What layer normalization makes of a matrix times -1.

    Args:
        negated: ``"unchanged"``, ``"negated"`` or ``"another"``: what becomes of the result.
    """
    wrong = {"unchanged": "the mean and the product change sign, the standard deviation does not.",
             "another": "write (y - mu) / sigma for -y: mu becomes -mu, sigma stays."}
    choice("negated", negated, "negated", wrong)
    return "Invariance holds for s > 0 only; sign and direction still matter."
