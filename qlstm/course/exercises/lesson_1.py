"""Lesson 1: quantizers."""

import math

from qlstm import quantizers
from qlstm.course.exercises.answers import call, hints, number, random, same


@hints(
    "Put alpha = mean |w| into the parabola, and divide by the sum of w^2: only two averages of w"
    " are left. Or draw a million weights and compute the error.",
    "The parabola at its minimum is 1 - (E|w|)^2 / E[w^2]. Which E|w| and E[w^2] has each of the "
    "two distributions?",
    "Uniform on [-a, a]: E|w| = a/2 and E[w^2] = a^2/3. Standard normal: E|w| = sqrt(2/pi) and "
    "E[w^2] = 1. Put them in.")
def exercise_1_1(uniform, normal):
    r"""The relative error of BWN in the limit of a large matrix.

    Args:
        uniform: The error for weights that are uniform on $[-a, a]$, a number.
        normal: The error for normally distributed weights, a number.
    """
    kept = "that is the share that is kept; the error is the share that is lost."
    squared = "the error is squared: no root here."
    # 1 - (E|w|)^2 / E[w^2], with E|w| = a/2 and E[w^2] = a^2/3
    number("uniform", uniform, 0.25, {0.75: kept, 0.5: squared,
           25: "as a share, between 0 and 1, please."}, within=0.02)
    # with E|w| = sqrt(2/pi) and E[w^2] = 1
    lost = 1 - 2 / math.pi
    number("normal", normal, lost, {1 - lost: kept, lost**0.5: squared,
           100 * lost: "as a share, between 0 and 1, please."}, within=0.02)
    return ("The error is 1 - (E|w|)^2 / E[w^2]: the more alike the magnitudes are, the less the "
            "sign loses.")


@hints(
    "The code is the sign of the latent weight. How much does one step change the weight?",
    "Each step takes 0.002 * 1 off. The code changes in the first step after which w is below 0.",
    "0.051 / 0.002 is not a whole number: after that many steps, rounded down, w is still "
    "positive.")
def exercise_1_2(steps):
    """When gradient descent changes the code of a latent weight.

    Args:
        steps: The step at which a weight of 0.051 with gradient 1 and learning rate 0.002 changes
            its sign.
    """
    early = "w = 0.051 - 25 * 0.002 = 0.001 is still positive."
    wrong = {25: early, 25.5: "steps come whole.", 1: "one step moves w by 0.002 only.",
             27: "that is one step too many: w is below 0 already after 26."}
    number("steps", steps, 26, wrong, within=1e-6)
    return ("Small gradients add up in the latent weight; the code alone would have forgotten each "
            "of them.")


@hints(
    "Three steps: the threshold, the codes -1, 0 and +1, the scale.",
    "The threshold is 0.7 times the mean magnitude of all weights; codes are 0 where the "
    "magnitude is not above it, else the sign.",
    "The scale is the mean of `weight.abs()` over the places whose code is not 0: index with a "
    "condition, `weight.abs()[...]`. Return scale times codes.")
def exercise_1_3(ternary):
    """TWN, written from its definition.

    Args:
        ternary: A function that takes a matrix and returns the dense matrix that TWN makes of it.
    """
    for seed, shape in enumerate([(6, 6), (3, 8)]):
        weight = random(*shape, seed=seed)
        codes, magnitude = quantizers.ter_connect(weight).dense(), weight.abs()
        wrong = {
            "these are the codes alone (TC); multiply by the scale.": codes,
            "the scale is the mean magnitude of the weights that are kept, not of all.":
                codes * magnitude.mean(),
            "the scale is a mean too: divide by the number of kept weights, not of all.":
                codes * (magnitude * codes.abs()).mean(),
            "small weights should become 0: the threshold is 0.7 mean |w|; is yours the mean of "
            "|w|, not of w?": quantizers.bwn(weight).dense(),
            "kept weights should all have the same magnitude, the scale.": codes.abs() * weight,
            "the threshold is 0.7 times the mean magnitude, not the mean magnitude itself.":
                _ternary(weight, magnitude.mean()),
            "the threshold is 0.7 times the mean magnitude, not 0.7.": _ternary(weight, 0.7)}
        same("ternary(weight)", call("ternary", ternary, weight), quantizers.twn(weight).dense(),
             wrong)
    return "Three values, one float: this is `quantizers.twn`."


def _ternary(weight, threshold):
    kept = weight.abs() > threshold
    return weight.abs()[kept].mean() * weight.sign() * kept


@hints(
    "Two things are stored: the codes, and what they are multiplied by.",
    "10,000 codes of 2 bits: how many bytes are that, at 8 bits a byte? One float of 32 bits "
    "comes on top.")
def exercise_1_4(size):
    r"""The size of a matrix that TWN has quantized.

    Args:
        size: The bytes that a $100 \times 100$ matrix takes, with codes of 2 bits and one float.
    """
    wrong = {2500: "those are the codes; TWN also stores a scale.",
             10_004: "that is a whole byte a code; four ternary codes fit in one.",
             1254: "that is one bit a code; three values need two.",
             40_000: "that is the matrix in full precision.",
             2900: "TWN has one scale for the whole matrix, not one a row.",
             20_000: "bits are not bytes, and the scale is missing.",
             20_004: "bits are not bytes: eight to one.",
             20_032: "that is in bits; eight to a byte."}
    number("size", size, 2504, wrong, within=1e-6)
    return "A sixteenth of the 40,000 bytes of full precision."
