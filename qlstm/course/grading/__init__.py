"""Grading: each submission runs in a process of its own, which says what the student's variables
hold; the checks run here, where no student comes to."""

import contextlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from qlstm.course.exercises import EXERCISES, Outcome, judge
from qlstm.course.grading.notebooks import GradingError, read
from qlstm.course.grading.process import Ended, Limits, Process

__all__ = ["Grade", "GradingError", "Limits", "grade"]


@dataclass(frozen=True)
class Grade:
    """What became of one exercise of a submission."""

    exercise: str
    outcome: Outcome
    seconds: float
    """Since the submission was begun."""


def grade(
    submission: Path, limits: Limits = Limits(),  # noqa: B008
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Iterator[Grade]:
    """Run a student's notebook and judge its answers, each as soon as it is known.

    Where the notebook calls an exercise's check for the last time, its answers are taken; where it
    never does, at the end. The notebook's own checks count for nothing.

    Args:
        submission: The notebook.
        limits: What it may take.
        report: Given the protections that its process has, by name.

    Raises:
        GradingError: It is no notebook, or of no lesson, or no process for it begins.
        OSError: It cannot be read.
    """
    begin, notebook = monotonic(), read(submission)
    places, left = notebook.checked(), list(notebook.exercises)
    ended, error = "", None
    with _folder() as folder:
        try:
            with Process(folder, limits) as process:
                if report:
                    report(process.protections)
                for index, cell in enumerate([*notebook.cells, None]):
                    if cell:
                        error = process.run(cell.source) or error
                    due = [name for name in left if places.get(name) == (index if cell else None)]
                    for name in due:
                        source = cell.source if cell else ""
                        outcome = _judged(process, name, source, error)
                        left.remove(name)
                        yield Grade(name, outcome, monotonic() - begin)
                    if process.reason:
                        raise Ended(process.reason)
        except Ended as told:
            ended = f"code cell {index + 1} {told}"
    for name in left:
        yield Grade(name, Outcome("not reached", ended), monotonic() - begin)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder, whatever a submission leaves in it."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="submission-")))
    try:
        yield folder
    finally:
        with contextlib.suppress(Exception):
            shutil.rmtree(folder, onerror=_open_up)


def _open_up(function, path, _):
    with contextlib.suppress(OSError):
        os.chmod(os.path.dirname(path), 0o700)
        os.chmod(path, 0o700)
        function(path)


def _judged(process, name, source, error):
    names = list(inspect.signature(EXERCISES[name]).parameters)
    answers = process.answers(name, names, source)
    if missing := [f"`{key}`" for key in names if key not in answers]:
        return Outcome("not answered", f"There is no {' and no '.join(missing)}"
                       + (f"; a cell before raised {error}." if error else "."))
    return judge(name, answers)
