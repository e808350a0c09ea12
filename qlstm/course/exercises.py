"""The checks of the lessons' exercises: what is right, and for the usual mistakes what to look at
again.

``check("1.2", steps=26)`` prints one line if the answer is right, and raises :class:`NotYet` with
one line if not. An exercise is a function here, named by its lesson and number, with the answers as
arguments; it returns what a right answer shows.

``name`` is that of an exercise; ``answer`` is the student's, ``expected`` the right one;
``arguments`` are passed to the student's function.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qlstm import quantizers
from qlstm.errors import ConfigError, unknown
from qlstm.recurrence.cell import lstm_step

EXERCISES: dict[str, Callable[..., str]] = {}
"""The checks by the number of their exercise, lesson first."""


class NotYet(Exception):
    """An answer that is missing or wrong; the message says what to do, and a notebook shows nothing
    else."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def check(name: str, **answers: Any):
    """Check the ``answers`` to an exercise, by their names. Raises ``NotYet``; ``ConfigError`` for
    an unknown exercise.

    >>> check("1.2", steps=26)
    Exercise 1.2: right. Small gradients add up in the latent weight; the code alone would have
    forgotten each of them.
    >>> check("1.2", steps=...)
    Traceback (most recent call last):
        ...
    qlstm.course.exercises.NotYet: Exercise 1.2: `steps` is still `...`. Put your answer in the cell
    above, run it, then this one.
    """
    if name not in EXERCISES:
        raise ConfigError(unknown("exercise", name, EXERCISES))
    function = EXERCISES[name]
    for key in inspect.signature(function).parameters:
        if answers.get(key, ...) is ...:
            raise NotYet(
                f"Exercise {name}: `{key}` is still `...`. Put your answer in the cell above, run it, then this one."
            )
    try:
        shown = function(**answers)
    except NotYet as hint:
        raise NotYet(f"Exercise {name}: not yet. {hint}") from None
    print(f"Exercise {name}: right. {shown}")


def exercise(name: str):
    """Enter a check in the table :data:`EXERCISES`."""

    def enter(function):
        EXERCISES[name] = function
        return function

    return enter


# What answers are compared with


def number(name: str, answer: Any, expected: float, wrong: dict[float, str] | None = None, *,
           within: float = 0.01):
    """A number, to a relative ``within``; ``wrong``: what the usual wrong numbers come from."""
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"`{name}` should be one number; it is {_kind(answer)}.") from None

    def near(other):
        return math.isclose(value, other, rel_tol=within, abs_tol=1e-12)

    if near(expected):
        return
    shown = f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}"
    for other, hint in (wrong or {}).items():
        if near(other):
            raise NotYet(f"`{name}` = {shown}: {hint}")
    where = "too large" if value > expected else "too small"
    raise NotYet(f"`{name}` = {shown} is {where}.")


def choice(name: str, answer: Any, expected: Any, wrong: dict[Any, str]):
    """One of several words (or True, False); ``wrong``: the other ones, and why not."""
    if isinstance(answer, bool | np.bool_):
        answer = bool(answer)
    if not isinstance(answer, str | bool | tuple) or answer not in (expected, *wrong):
        possible = ", ".join(sorted(repr(word) for word in (expected, *wrong)))
        raise NotYet(f"`{name}` should be one of {possible}; it is {_kind(answer)}.")
    if answer != expected:
        raise NotYet(f"`{name}` = {answer!r}: {wrong[answer]}")


def same(name: str, answer: Any, expected: Tensor, wrong: dict[str, Tensor] | None = None):
    """A tensor; ``wrong``: by the hint, what the usual mistakes give."""
    if not isinstance(answer, Tensor):
        raise NotYet(
            f"`{name}` should be a tensor of shape {tuple(expected.shape)}; it is {_kind(answer)}.")
    if answer.shape != expected.shape:
        raise NotYet(
            f"`{name}` has shape {tuple(answer.shape)}; it should have {tuple(expected.shape)}.")
    answer = answer.detach().to(expected.dtype)
    if torch.allclose(answer, expected, atol=1e-5, rtol=1e-4):
        return
    for hint, other in (wrong or {}).items():
        if other.shape == answer.shape and torch.allclose(
                answer, other.to(answer.dtype), atol=1e-5, rtol=1e-4):
            raise NotYet(f"`{name}`: {hint}")
    difference = (answer - expected).abs().max().item()
    raise NotYet(f"`{name}` has the right shape, but its values differ by up to {difference:.3g}.")


def call(name: str, function: Any, *arguments: Any) -> Any:
    """What a student's function returns; an error in it is told in one line."""
    if not callable(function):
        raise NotYet(f"`{name}` should be a function; it is {_kind(function)}.")
    shapes = ", ".join(str(tuple(a.shape)) if isinstance(a, Tensor) else repr(a) for a in arguments)
    try:
        result = function(*arguments)
    except Exception as error:
        line = (str(error).splitlines() or [""])[0]
        raise NotYet(
            f"`{name}` raised {type(error).__name__}: {line} (called with {shapes}).") from None
    if result is None or result is ...:
        nothing = "None" if result is None else "`...`"
        raise NotYet(f"`{name}` returns {nothing}: it should end with `return` and your result.")
    return result


def _kind(answer: Any) -> str:
    return {type(None): "None", type(...): "still `...`"}.get(
        type(answer), f"of type {type(answer).__name__}")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Lesson 1: quantizers


@exercise("1.1")
def _(uniform, normal):
    kept = "that is the share that is kept; the error is the share that is lost."
    number("uniform", uniform, 0.25, {0.75: kept, 0.5: "the error is squared: no root here."},
           within=0.02)
    lost = 1 - 2 / math.pi
    number("normal", normal, lost,
           {1 - lost: kept, lost**0.5: "the error is squared: no root here."}, within=0.02)
    return "The error is 1 - (E|w|)^2 / E[w^2]: the more alike the magnitudes are, the less the sign loses."


@exercise("1.2")
def _(steps):
    early = "w = 0.051 - 25 * 0.002 = 0.001 is still positive."
    number("steps", steps, 26,
           {25: early, 25.5: "steps come whole.", 1: "one step moves w by 0.002 only."},
           within=1e-6)
    return "Small gradients add up in the latent weight; the code alone would have forgotten each of them."


@exercise("1.3")
def _(ternary):
    for seed, shape in enumerate([(6, 6), (3, 8)]):
        weight = _random(*shape, seed=seed)
        expected = quantizers.twn(weight).dense()
        codes, magnitude = quantizers.ter_connect(weight).dense(), weight.abs()
        wrong = {
            "these are the codes alone (TC); multiply by the scale.": codes,
            "the scale is the mean magnitude of the weights that are kept, not of all.": codes
            * magnitude.mean(),
            "small weights should become 0: a threshold of 0.7 mean |w| comes first.": quantizers.bwn(
                weight
            ).dense(),
            "kept weights should all have the same magnitude, the scale.": codes.abs() * weight,
        }
        same("ternary(weight)", call("ternary", ternary, weight), expected, wrong)
    return "Three values, one float: this is `quantizers.twn`."


@exercise("1.4")
def _(size):
    wrong = {2500: "those are the codes; TWN also stores a scale.",
             10_004: "that is a whole byte a code; four ternary codes fit in one.",
             1254: "that is one bit a code; three values need two.",
             40_000: "that is the matrix in full precision.",
             20_004: "bits are not bytes: eight to one.",
             20_032: "that is in bits; eight to a byte."}
    number("size", size, 2504, wrong, within=1e-6)
    return "A sixteenth of the 40,000 bytes of full precision."


# Lesson 2: the LSTM


@exercise("2.1")
def _(parameters):
    d, n = 512, 50
    wrong = {4 * d * (n + d) + 8 * d: "that is nn.LSTM's, with two biases; this study has one.",
             4 * d * (n + d): "those are the matrices; add the bias.",
             d * (n + d) + d: "that is one gate; there are four."}
    number("parameters", parameters, 4 * d * (n + d) + 4 * d, wrong, within=1e-6)
    return "All but 2,048 of them stand in the eight matrices: those are worth quantizing."


@exercise("2.2")
def _(step):
    n, d = 3, 5
    gates, c = _random(n, 4, d), _random(n, d, seed=1)
    i, f, a, o = gates.unbind(1)
    result = call("step", step, gates, c)
    if not isinstance(result, tuple) or len(result) != 2:
        raise NotYet(f"`step` should return h and c, `return h, c`; it returns {_kind(result)}.")
    h_new, c_new = lstm_step(gates, c, lambda x, t: x, 0)
    s, t = torch.sigmoid, torch.tanh
    wrong = {
        "the input gate multiplies the candidate, the forget gate the old cell state; yours are swapped.": s(
            f
        )
        * t(a)
        + s(i) * c,
        "the candidate goes through tanh, not through the sigmoid.": s(i) * s(a) + s(f) * c,
        "the candidate needs its tanh.": s(i) * a + s(f) * c,
        "the last two gates are a, then o.": s(i) * t(o) + s(f) * c,
        "the old cell state is missing: that is what the forget gate is for.": s(i) * t(a),
    }
    same("c", result[1], c_new, wrong)
    wrong = {"the cell state passes a tanh before the output gate.": s(o) * c_new,
             "use the new cell state, not the old one.": s(o) * t(c),
             "the output gate is missing.": t(c_new)}
    same("h", result[0], h_new, wrong)
    return "These three lines are `qlstm.recurrence.cell.lstm_step`."


@exercise("2.3")
def _(steps):
    exact = math.log(0.5) / math.log(0.9)
    wrong = {exact: "that is the exact time; the first whole step after it is asked.",
             6: "0.9^6 = 0.53 is still more than half.", 5: "0.9^5 = 0.59 is still more than half."}
    number("steps", steps, 7, wrong, within=1e-6)
    return "With 0.99 it takes 69 steps: long memory needs a forget gate close to 1."


@exercise("2.4")
def _(product, w_x):
    wrong = {"that is row 7; symbol 7 selects a column.": w_x[7] if w_x.shape[0] > 7 else w_x,
             "counting starts at 0: symbol 7 is index 7.": w_x[:, 6]}
    same("product", product, w_x[:, 7], wrong)
    return "No multiplication at all: `QuantLSTM` looks the column up (`F.embedding`)."


# Lesson 3: why the gradient explodes


@exercise("3.1")
def _(bwn, ter_connect):
    norm = "look at its spectral norm in lesson 1, not at its number of bits."
    choice("bwn", bwn, "vanishes",
           {"explodes": norm, "stays": "its spectral norm is about that of full precision."})
    choice("ter_connect", ter_connect, "explodes", {"vanishes": norm, "stays": norm})
    return "What counts is the spectral norm: BWN's scale keeps it near 1, TC's is of the order of the root of d."


@exercise("3.2")
def _(binary, ternary):
    root = 512**0.5
    number(
        "binary",
        binary,
        root,
        {512: "the bound is the root of d.",
         2 * root: "that is about what a random sign matrix has; the bound holds for every one."},
    )
    number(
        "ternary",
        ternary,
        0.6 * root,
        {0.4 * root: "s is the share of zeros; the factor is 1 - s.", 0.6**0.5
         * root: "that is true too, and sharper; the paper's bound has 1 - s without the root.",
         root: "the zeros lower the bound."},
    )
    return "No training gets below these: the codes alone force them."


@exercise("3.3")
def _(lambda_1, lambda_2):
    wrong = {36: "each norm has a factor: the steepest slope of its nonlinearity.",
             9: "the candidate's tanh has slope 1, not 1/4.",
             18: "the forget gate's term has gamma_1 as a factor.",
             18.5: "that is lambda_2: the output gate belongs to lambda_1."}
    number("lambda_1", lambda_1, 20, wrong, within=1e-6)
    number("lambda_2", lambda_2, 18.5, {20: "that is lambda_1: leave the output gate out."},
           within=1e-6)
    return "Over half of it is the candidate's: its tanh is the steepest."


@exercise("3.4")
def _(signs):
    for seed in range(2):
        weight = _random(16, 16, seed=seed)
        expected = quantizers.sign(weight) / 4
        wrong = {
            "the norm of a row of signs is the root of d, not d.": quantizers.sign(weight) / 16,
            "divide the signs by the root of d.": quantizers.sign(weight),
            "the values should be +1 and -1 over the root of d; yours depend on |w|.": quantizers.bwn(
                weight
            ).dense(),
        }
        same("signs(weight)", call("signs", signs, weight), expected, wrong)
    return "Each row has norm 1: weight normalization with all gains at 1, which cannot train."


# Lesson 4: normalization


@exercise("4.1")
def _(layer, batch):
    axes = "write the axis as a number: 0 time, 1 samples, 2 gates, 3 units."
    for name, value in (("layer", layer), ("batch", batch)):
        if isinstance(value, bool) or value not in (0, 1, 2, 3):
            raise NotYet(f"`{name}`: {axes}")
    if layer != 3:
        raise NotYet("`layer`: it looks at one sample of one step and compares its units.")
    if batch != 1:
        raise NotYet(
            "`batch`: it looks at one unit of one step. Time is no part of it: even 'shared' only means that "
            "all steps update the same running statistics."
        )
    return "Layer normalization needs no other sample, so training and test are the same."


@exercise("4.2")
def _(weight_norm):
    weight, gain = _random(5, 7), _random(5, seed=1).abs() + 0.5
    norms = weight.norm(dim=1, keepdim=True)
    wrong = {"the gain is missing: row j should have norm g_j.": weight / norms,
             "one norm for the whole matrix is not enough: each row has its own.": gain[:, None]
             * weight / weight.norm(),
             "divide by the norm, not by its square.": gain[:, None] * weight / norms**2,
             "the rows were only multiplied by g: divide by their norms.": gain[:, None] * weight}
    same("weight_norm(weight, gain)", call("weight_norm", weight_norm, weight, gain),
         gain[:, None] * weight / norms, wrong)
    weight[0] = 0
    zero = call("weight_norm", weight_norm, weight, gain)
    if not torch.isfinite(zero).all():
        raise NotYet(
            "a row of zeros gives NaN (a ternary row can be all zero): add a small number to the norm."
        )
    return "`qlstm.normalizers.WeightNorm`; the added number is its eps."


@exercise("4.3")
def _(layer, separate):
    d, steps = 512, 100
    floats = {"layer": 16 * d, "batch_separate": 16 * d + 16 * d * steps}
    kb = {name: 4 * count / 1024 for name, count in floats.items()}
    wrong = {8: "those are thousands of floats; a float has 4 bytes.",
             16: "gain and shift: 2d for each of 8 products.",
             4: "that is one product; a layer has eight."}
    number("layer", layer, kb["layer"], wrong)
    wrong = {3200: "those are the statistics; add gain and shift.",
             1600 + 32: "a mean and a variance: two numbers for each unit and step.",
             64: "each step has its own."}
    number("separate", separate, kb["batch_separate"], wrong, within=1e-3)
    return "The one-bit matrices have 140 KB: separate statistics outweigh them twenty times."


@exercise("4.4")
def _(negated):
    wrong = {"unchanged": "the mean and the product change sign, the standard deviation does not.",
             "another": "write (y - mu) / sigma for -y: mu becomes -mu, sigma stays."}
    choice("negated", negated, "negated", wrong)
    return "Invariance holds for s > 0 only; sign and direction still matter."


# Lesson 5: train one


@exercise("5.1")
def _(code_bytes):
    d, n = 128, 87
    bits = 4 * d * (n + d)
    wrong = {bits: "those are bits; eight to a byte.", 4 * bits: "that is full precision.",
             d * (n + d) / 8: "that is one gate; there are four.",
             4 * d * d / 8: "W_x has weights too: n + d columns."}
    number("code_bytes", code_bytes, bits / 8, wrong, within=1e-6)
    return "The file has exactly that many bytes in `rnn.codes_l0`."


@exercise("5.2")
def _(bpc):
    logits, targets = (3 * _random(6, 4, 9),
                       torch.randint(9, (6, 4), generator=torch.Generator().manual_seed(1)))
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    result = call("bpc", bpc, logits, targets)
    exact = nats.item() / math.log(2)
    wrong = {nats.item(): "that is in nats; divide by ln 2 for bits.",
             nats.item() * math.log(2): "divide by ln 2.",
             24 * exact: "that is the sum; take the mean over characters.",
             math.exp(nats.item()): "that is the perplexity.", 2**exact: "that is the perplexity."}
    number("bpc(logits, targets)", result, exact, wrong, within=1e-4)
    return "`qlstm.study.training.metric` does the same."


@exercise("5.3")
def _(cold, hot):
    wrong = {"as it is": "that is temperature 1.",
             "uniform": "dividing by a small number enlarges differences.",
             "most likely": "dividing by a large number makes the logits alike."}
    choice("cold", cold, "most likely", {key: wrong[key] for key in ("as it is", "uniform")})
    choice("hot", hot, "uniform", {key: wrong[key] for key in ("as it is", "most likely")})
    return "The temperature changes how a model is sampled, not how good it is."


@exercise("5.4")
def _(share, decoder_bytes, file_bytes):
    exact = decoder_bytes / file_bytes
    number(
        "share",
        share,
        exact,
        {100 * exact: "as a share between 0 and 1, please.", 1 - exact: "that is all the rest.",
         file_bytes / decoder_bytes: "the other way round."},
    )
    return "What stays in full precision decides the size, once the matrices are packed."


# Lesson 6: read a paper critically


@exercise("6.1")
def _(half_width):
    values = [2.1, 2.4, 2.2, 2.5, 2.3]
    std = np.std(values, ddof=1)
    n, t = len(values), 2.7764451
    wrong = {
        1.959964
        * std
        / n
        ** 0.5: "1.96 is the normal quantile; with 5 seeds take Student's t with 4 degrees of freedom.",
        t
        * std: "the mean of n values is less uncertain than one of them: divide by the root of n.",
        t
        * np.std(values)
        / n**0.5: "the standard deviation of a sample divides by n - 1 (ddof=1).",
        std / n**0.5: "that is the standard error; multiply by the t quantile.",
        2.0150484 * std / n**0.5: "n values have n - 1 degrees of freedom.",
        2.5705818 * std / n**0.5: "n values have n - 1 degrees of freedom.",
        2.1318468
        * std
        / n**0.5: "a two-sided 95 % interval leaves 2.5 % on each side: the quantile of 0.975.",
        2 * t * std / n**0.5: "that is the whole width; half of it is asked.",
    }
    number("half_width(values)", call("half_width", half_width, values), t * std / n**0.5, wrong,
           within=1e-4)
    return "`qlstm.report.tables.over_seeds` does the same."


@exercise("6.2")
def _(kb):
    d, n = 512, 87
    codes, bias, norm = 4 * d * (n + d) / 8, 16 * d, 64 * d
    wrong = {codes / 1024: "those are the codes; bias and normalizer are floats beside them.",
             (codes + bias)
             / 1024: "layer normalization has a gain and a shift for each of eight products.",
             (codes + norm) / 1024: "the bias of 4d floats is missing.",
             (codes + bias + norm) / 1000: "the paper's KB has 1024 bytes.",
             (codes + bias + norm / 2)
             / 1024: "gain and shift: two vectors of d for each of eight products."}
    number("kb", kb, (codes + bias + norm) / 1024, wrong, within=1e-3)
    return "The paper prints 190, rounded half up. 100 of its 103 sizes come out like that."


@exercise("6.3")
def _(against_plain, against_normalized):
    choice("against_plain", against_plain, True,
           {False: "compare the two intervals again: lower is better."})
    choice("against_normalized", against_normalized, False,
           {True: "the normalized full-precision rows are lower, and the intervals are far apart."})
    return "The same runs support both headlines. Ask of every comparison: against which baseline?"


@exercise("6.4")
def _(share, values):
    values = np.asarray(values, dtype=float)
    gaps = np.abs(values[:, None] - values)[np.triu_indices(len(values), 1)]
    exact = float((gaps > 0.02).mean())
    ordered = (len(values) - 1) / len(values) * exact
    number(
        "share",
        share,
        exact,
        {100 * exact: "as a share between 0 and 1, please.",
         ordered: "leave out the pairs of a seed with itself.",
         len(gaps) * exact: "as a share of all pairs, please.",
         float((gaps > 0.2).mean()): "the gap in question is 0.02 BPC."},
        within=1e-3,
    )
    return "The same model, other seeds: a gap of 0.02 between two single runs says little about two models."
