"""The checks of the lessons' exercises: ``check("1.2", steps=26)`` prints one line if the answer is
right, and raises :class:`NotYet` with one line if not.

Exercise 1.2 is the function ``exercise_1_2`` of the module ``lesson_1``. Its arguments are the
student's answers, by the names that they have in the lesson; it returns what a right answer shows,
and raises :class:`NotYet` with a hint where an answer is wrong. To add an exercise, write such a
function: it is found by its name.
"""

import inspect
from collections.abc import Callable
from typing import Any

from qlstm.course.exercises import lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6
from qlstm.course.exercises.answers import NotYet
from qlstm.errors import ConfigError, unknown

_PREFIX = "exercise_"
EXERCISES: dict[str, Callable[..., str]] = {
    name.removeprefix(_PREFIX).replace("_", "."): function
    for lesson in (lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6)
    for name, function in vars(lesson).items() if name.startswith(_PREFIX)}
"""The check of each exercise, by its number: ``"1.2"`` is the second exercise of lesson 1."""


def check(name: str, **answers: Any):
    """Check a student's answers to an exercise, and print what is to be learned from a right one.

    Args:
        name: The number of the exercise, ``"1.2"`` for the second exercise of lesson 1.
        **answers: The student's answers (numbers, words, tensors or functions) under the names
            that the exercise gives them. An answer that is still ``...`` counts as missing.

    Raises:
        NotYet: An answer is missing or wrong; the message says what to look at again.
        ConfigError: There is no exercise of that number.

    Example:
        >>> check("1.4", size=2504)
        Exercise 1.4: right. A sixteenth of the 40,000 bytes of full precision.
        >>> check("1.4", size=9999)
        Traceback (most recent call last):
            ...
        qlstm.course.exercises.answers.NotYet: Exercise 1.4: not yet. `size` = 9999 is too large.
    """
    if name not in EXERCISES:
        raise ConfigError(unknown("exercise", name, EXERCISES))
    function = EXERCISES[name]
    for key in inspect.signature(function).parameters:
        if answers.get(key, ...) is ...:
            raise NotYet(f"Exercise {name}: `{key}` is still `...`. Put your answer in the cell "
                         "above, run it, then this one.")
    try:
        shown = function(**answers)
    except NotYet as hint:
        raise NotYet(f"Exercise {name}: not yet. {hint}") from None
    print(f"Exercise {name}: right. {shown}")
