"""How an answer is compared with the right one, and with what the usual mistakes give.

Here ``name`` is the variable of the lesson that holds the answer, for the message; ``answer`` is
what the student has put there, of any type; ``expected`` is the right answer.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NotYet(Exception):
    """An answer that is missing or wrong; the message says what to look at again, and a notebook
    shows nothing else."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def number(name: str, answer: Any, expected: float, wrong: dict[float, str] | None = None, *,
           within: float = 0.01):
    """Compare a number.

    Args:
        name, answer, expected: As in the module's legend.
        wrong: The numbers that usual mistakes lead to, each with the hint that it gets.
        within: The largest relative difference from ``expected`` that still counts as equal.

    Raises:
        NotYet: The answer is no number, or another one.
    """
    try:
        value = float(answer)
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"`{name}` should be one number; it is {kind(answer)}.") from None

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


def choice(name: str, answer: Any, expected: str | bool, wrong: dict[Any, str]):
    """Compare one of several words, or ``True`` and ``False``.

    Args:
        name, answer, expected: As in the module's legend.
        wrong: All other words that may be chosen, each with the hint why it is wrong.

    Raises:
        NotYet: The answer is another word, or none of those that may be chosen.
    """
    if isinstance(answer, bool | np.bool_):
        answer = bool(answer)
    if not isinstance(answer, str | bool | tuple) or answer not in (expected, *wrong):
        possible = ", ".join(sorted(repr(word) for word in (expected, *wrong)))
        raise NotYet(f"`{name}` should be one of {possible}; it is {kind(answer)}.")
    if answer != expected:
        raise NotYet(f"`{name}` = {answer!r}: {wrong[answer]}")


def same(name: str, answer: Any, expected: Tensor, wrong: dict[str, Tensor] | None = None):
    """Compare a tensor, shape first.

    Args:
        name, answer, expected: As in the module's legend.
        wrong: The tensors that usual mistakes lead to, by the hint that each gets.

    Raises:
        NotYet: The answer is no tensor, has another shape, or has other values.
    """
    shape = tuple(expected.shape)
    if not isinstance(answer, Tensor):
        raise NotYet(f"`{name}` should be a tensor of shape {shape}; it is {kind(answer)}.")
    if answer.shape != shape:
        raise NotYet(f"`{name}` has shape {tuple(answer.shape)}; it should have {shape}.")
    answer = answer.detach().to(expected.dtype)

    def near(other):
        return other.shape == answer.shape and torch.allclose(
            answer, other.to(answer.dtype), atol=1e-5, rtol=1e-4)

    if near(expected):
        return
    for hint, other in (wrong or {}).items():
        if near(other):
            raise NotYet(f"`{name}`: {hint}")
    difference = (answer - expected).abs().max().item()
    raise NotYet(f"`{name}` has the right shape, but its values differ by up to {difference:.3g}.")


def call(name: str, function: Any, *arguments: Any) -> Any:
    """Call a function that a student has written, and return what it returns.

    Args:
        name: The name of the function in the lesson.
        function: What the student has put there, a function or not.
        *arguments: What it is called with.

    Raises:
        NotYet: It is no function, it raised an error (told in one line), or it returned nothing.
    """
    if not callable(function):
        raise NotYet(f"`{name}` should be a function; it is {kind(function)}.")
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


def kind(answer: Any) -> str:
    """What an answer of a wrong type is called in a message."""
    return {type(None): "None", type(...): "still `...`"}.get(
        type(answer), f"of type {type(answer).__name__}")


def random(*shape: int, seed: int = 0) -> Tensor:
    """A tensor of normally distributed numbers, the same ones at each call.

    Args:
        *shape: Its shape.
        seed: Another seed gives other numbers.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
