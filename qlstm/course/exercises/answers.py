"""How an answer is compared with the right one, and with what the usual mistakes give.

Here ``name`` is the variable of the lesson that holds the answer, for the message; ``answer`` is
what the student has put there, of any type; ``expected`` is the right answer.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qlstm.course.crashes import raised
from qlstm.errors import brief

HINTS: dict[str, tuple[str, ...]] = {}
"""The hints of each exercise, by the name of its function."""


class NotYet(Exception):
    """An answer that is wrong; the message says what to look at again."""

    state = "wrong"


class NotAnswered(NotYet):
    """An answer that is missing."""

    state = "not answered"


class Crashed(NotYet):
    """A student's function that did not end with a result."""

    state = "crashed"


class ToldError(Exception):
    """An error of a student's function of which no more is known than its message, which goes on
    after the function's name: it was raised in another process."""


def hints(*steps: str) -> Callable:
    """Give the function of an exercise its hints.

    Args:
        *steps: The hints in the order in which they are asked for, the last one nearly the
            solution.
    """
    def keep(function):
        HINTS[function.__name__] = steps
        return function

    return keep


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
    value = _number(name, answer)

    def near(other):
        return math.isclose(value, other, rel_tol=within, abs_tol=1e-12)

    if near(expected):
        return
    shown = f"{value:.6g}" if abs(value) < 1e6 else f"{value:,.0f}" if abs(value) < 1e15 else "huge"
    for other, hint in (wrong or {}).items():
        if near(other):
            raise NotYet(f"`{name}` = {shown}: {hint}")
    if near(-expected):
        raise NotYet(f"`{name}` = {shown} has the wrong sign.")
    raise NotYet(f"`{name}` = {shown} is too {'large' if value > expected else 'small'}.")


def _number(name: str, answer: Any) -> float:
    problem = NotYet(f"`{name}` should be one number; it is {kind(answer)}.")
    if isinstance(answer, bool | np.bool_ | str | bytes):
        raise problem
    try:
        value = float(answer)
    except OverflowError:
        raise NotYet(f"`{name}` is huge; it should be a number that can be checked.") from None
    except Exception:
        raise problem from None
    if not math.isfinite(value):
        raise NotYet(f"`{name}` should be one number; it is {value}.")
    return value


def axis(name: str, answer: Any, expected: int, axes: int, hint: str):
    """Compare the number of an axis; it may also be counted from the end, by a negative number.

    Args:
        name, answer, expected: As in the module's legend.
        axes: How many there are.
        hint: For another axis, and for several.

    Raises:
        NotYet: The answer is no axis, or another one, or several.
    """
    if isinstance(answer, tuple | list) and len(answer) > 1:
        raise NotYet(f"`{name}` should be one axis, not {len(answer)}: {hint}")
    value = _number(name, answer)
    if value not in range(-axes, axes):
        raise NotYet(f"`{name}`: write the axis as a number from 0 to {axes - 1}.")
    if value % axes != expected:
        raise NotYet(f"`{name}` = {value:.0f}: {hint}")


def choice(name: str, answer: Any, expected: str | bool, wrong: dict[Any, str]):
    """Compare one of several words, or ``True`` and ``False``. Capitals, and spaces around a word,
    do not matter.

    Args:
        name, answer, expected: As in the module's legend.
        wrong: All other words that may be chosen, each with the hint why it is wrong.

    Raises:
        NotYet: The answer is another word, or none of those that may be chosen.
    """
    if isinstance(answer, str):
        answer = answer.strip().casefold()
    elif isinstance(answer, np.bool_) or (
            isinstance(answer, Tensor) and answer.dtype == torch.bool and answer.numel() == 1):
        answer = bool(answer)
    if not isinstance(answer, type(expected)) or answer not in (expected, *wrong):
        possible = ", ".join(sorted(repr(word) for word in (expected, *wrong)))
        given = brief(answer) if isinstance(answer, str | int | float) else kind(answer)
        raise NotYet(f"`{name}` should be one of {possible}; it is {given}.")
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
    if answer.is_complex():
        raise NotYet(f"`{name}` should be real; it is complex.")
    answer = answer.detach().to_dense().to("cpu", expected.dtype)

    def near(other):
        return other.shape == answer.shape and torch.allclose(
            answer, other.to(answer.dtype), atol=1e-5, rtol=1e-4)

    if near(expected):
        return
    for hint, other in (wrong or {}).items():
        if near(other):
            raise NotYet(f"`{name}`: {hint}")
    if not answer.isfinite().all():
        raise NotYet(f"`{name}` has the right shape, but not all of its values are finite numbers.")
    if near(-expected):
        raise NotYet(f"`{name}` has the right magnitudes with the wrong sign.")
    if expected.numel() > 1 and (near(answer[(0,) * answer.ndim].expand(shape))):
        raise NotYet(f"`{name}` has the right shape, but all of its values are the same.")
    difference = (answer - expected).abs().max().item()
    raise NotYet(f"`{name}` has the right shape, but its values differ by up to {difference:.3g}.")


def call(name: str, function: Any, *arguments: Any) -> Any:
    """Call a function that a student has written with copies of arguments, and return what it
    returns.

    Args:
        name: The name of the function in the lesson.
        function: What the student has put there, a function or not.
        *arguments: What it is called with: tensors, lists or numbers.

    Raises:
        NotYet: It is no function, or returned nothing.
        NotAnswered: It returned ``...``.
        Crashed: It raised an error; the message has the error in one line, and the student's line.
    """
    if not callable(function):
        raise NotYet(f"`{name}` should be a function; it is {kind(function)}.")
    try:
        result = function(*map(_copy, arguments))
    except BaseException as error:  # sys.exit() too, and the Stop button
        told = str(error) if isinstance(error, ToldError) else raised(error, function)
        given = ", ".join(_shape(argument) for argument in arguments)
        raise Crashed(f"`{name}` {told}; it was called with {given}.") from None
    if result is ...:
        raise NotAnswered(f"`{name}` still returns `...`.")
    if result is None:
        raise NotYet(
            f"`{name}` returns None: it should end with `return` and your result.")
    return result


def _copy(argument):
    return argument.clone() if isinstance(argument, Tensor) else (
        list(argument) if isinstance(argument, list) else argument)


def _shape(argument):
    return f"shape {tuple(argument.shape)}" if isinstance(argument, Tensor) else brief(argument)


def kind(answer: Any) -> str:
    """What an answer of a wrong type is called in a message."""
    if answer is None:
        return "None"
    if isinstance(answer, str):
        return f"text, {brief(answer)}"
    if isinstance(answer, bool | np.bool_):
        return f"{bool(answer)}"
    if isinstance(answer, list | tuple | dict | set):
        return f"a {type(answer).__name__} of {len(answer)}"
    if isinstance(answer, Tensor | np.ndarray):
        what = "a tensor" if isinstance(answer, Tensor) else "a numpy array"
        return f"{what} of shape {tuple(answer.shape)}"
    if isinstance(answer, int | float | complex):
        return f"a number, {brief(answer)}"
    if isinstance(answer, type):
        return f"the type {answer.__name__}"
    return "a function" if callable(answer) else f"of type {type(answer).__name__}"


def random(*shape: int, seed: int = 0) -> Tensor:
    """A tensor of normally distributed numbers, the same ones at each call.

    Args:
        *shape: Its shape.
        seed: Another seed gives other numbers.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
