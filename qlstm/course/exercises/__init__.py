"""The checks of the lessons' exercises, with hints: ``check("1.2", steps=26)`` prints whether the
answer is right and how many exercises are solved so far, and never raises for an answer.

Exercise 1.2 is the function ``exercise_1_2`` of the module ``lesson_1``. Its arguments are the
student's answers, by the names that they have in the lesson; it returns what a right answer shows,
and raises an :class:`~qlstm.course.exercises.answers.NotYet` that says what to look at where an
answer is wrong. Its hints stand above it. To add an exercise, write such a function: it is found by
its name.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qlstm.course.exercises import lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6
from qlstm.course.exercises.answers import HINTS, NotYet, kind
from qlstm.errors import ConfigError, LineError, first_line, unknown

_PREFIX = "exercise_"
EXERCISES: dict[str, Callable[..., str]] = {
    name.removeprefix(_PREFIX).replace("_", "."): function
    for lesson in (lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6)
    for name, function in vars(lesson).items() if name.startswith(_PREFIX)}
"""The check of each exercise, by its number: ``"1.2"`` is the second exercise of lesson 1."""

_BEGINNINGS = {"right": "right. ", "not answered": "not answered yet: ", "wrong": "not yet. ",
               "crashed": "", "not reached": "not reached: "}
_solved: set[str] = set()
_asked: Counter[str] = Counter()


@dataclass(frozen=True)
class Outcome:
    """What became of the answers to an exercise; as text one line for the student."""

    state: str
    """``"right"``, ``"not answered"``, ``"wrong"``, ``"crashed"`` for a function that raised; in
    grading also ``"not reached"``."""
    message: str
    """What is to be learned from the right answer, or what to look at again."""

    def __str__(self) -> str:
        return _BEGINNINGS[self.state] + self.message


def judge(name: str, answers: Mapping[str, Any]) -> Outcome:
    """Judge answers to an exercise, whatever they are.

    Args:
        name: The number of the exercise, ``"1.2"`` for the second exercise of lesson 1.
        answers: The student's answers (numbers, words or functions) by the names of their
            variables. An answer that is still ``...`` counts as missing.

    Raises:
        ConfigError: There is no exercise of that number.
    """
    function = _exercise(name)
    names = list(inspect.signature(function).parameters)
    for key in names:
        if key not in answers:
            return Outcome("not answered", f"`{key}` is not among the answers. Call "
                           f'`exercises.check("{name}", {", ".join(f"{n}={n}" for n in names)})`.')
        if answers[key] is ...:
            return Outcome("not answered", f"`{key}` is still `...`. Put your answer in the cell "
                           "above, run it, then this one.")
    try:
        return Outcome("right", function(**{key: answers[key] for key in names}))
    except NotYet as told:
        return Outcome(told.state, str(LineError(str(told))))
    except Exception as error:  # an answer of a type that nobody has thought of
        given = ", ".join(f"`{key}`, {_kind(answers[key])}" for key in names)
        return Outcome("wrong", f"The check cannot read {given} ({type(error).__name__}: "
                       f"{LineError(first_line(error))}).")


def check(name: str, **answers: Any):
    """Check a student's answers to an exercise, and print one line on them and one on how many
    exercises of the lesson are solved so far.

    Args:
        name: The number of the exercise, ``"1.2"`` for the second exercise of lesson 1.
        **answers: The student's answers by the names of their variables, as for :func:`judge`.

    Raises:
        ConfigError: There is no exercise of that number.

    Example:
        >>> check("1.4", size=9999)
        Exercise 1.4: not yet. `size` = 9999 is too large. (hints: exercises.hint("1.4"))
        Lesson 1: 0 of 4 solved.
        >>> check("1.4", size=2504)
        Exercise 1.4: right. A sixteenth of the 40,000 bytes of full precision.
        Lesson 1: 1 of 4 solved (1.4).
    """
    outcome = judge(name, answers)
    helps = outcome.state in ("not answered", "wrong")
    print(f"Exercise {name}: {outcome}" + (f' (hints: exercises.hint("{name}"))' if helps else ""))
    (_solved.add if outcome.state == "right" else _solved.discard)(name)
    lesson = name.split(".")[0]
    of_lesson = [other for other in EXERCISES if other.split(".")[0] == lesson]
    solved = [other for other in of_lesson if other in _solved]
    print(f"Lesson {lesson}: {len(solved)} of {len(of_lesson)} solved"
          + (f" ({', '.join(solved)})." if solved else "."))


def hint(name: str):
    """Print a hint to an exercise: at each call the next one, after the last one the first again.

    Args:
        name: The number of the exercise, as for :func:`check`.

    Raises:
        ConfigError: There is no exercise of that number.
    """
    steps = HINTS[_exercise(name).__name__]
    index = _asked[name] % len(steps)
    _asked[name] += 1
    print(f"Hint {index + 1} of {len(steps)}: {steps[index]}")


def _exercise(name: str) -> Callable[..., str]:
    if not isinstance(name, str) or name not in EXERCISES:
        raise ConfigError(unknown("exercise", name, EXERCISES))
    return EXERCISES[name]


def _kind(answer: Any) -> str:
    try:
        return kind(answer)
    except Exception:  # whose every method raises
        return f"of type {type(answer).__name__}"
