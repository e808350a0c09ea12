"""Grading: each submission runs in a process of its own, which says what the student's variables
hold; the checks run here, where no student comes to."""

import contextlib
import inspect
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from qlstm.course.exercises import EXERCISES, Outcome, judge
from qlstm.course.grading.notebooks import GradingError, read
from qlstm.course.grading.process import Ended, Limits, Process
from qlstm.errors import LineError

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
    ended, error, number = "", None, 0
    with _folder() as folder:
        try:
            with Process(folder, limits) as process:
                if report:
                    report(process.protections)
                for index, cell in enumerate([*notebook.cells, None]):
                    if cell:
                        number = cell.number
                        error = _cause(process.run(cell.source), cell) or error
                    due = [name for name in left if places.get(name) == (index if cell else None)]
                    for name in due:
                        source = cell.source if cell else ""
                        outcome = _judged(process, name, source, error)
                        left.remove(name)
                        yield Grade(name, outcome, monotonic() - begin)
                    if process.reason:
                        raise Ended(process.reason)
        except Ended as told:
            ended = f"code cell {number} {told}"
    for name in left:
        yield Grade(name, Outcome("not reached", ended), monotonic() - begin)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder, whatever a submission leaves in it."""
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="submission-")))
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder):
    """Remove a folder of any depth and permissions; what links in it lead to stays as it is."""
    if os.name == "posix":  # neither follows links, neither recurses
        for command in (["chmod", "-R", "u+rwX", "--"], ["rm", "-rf", "--"]):
            subprocess.run([*command, str(folder)], stderr=subprocess.DEVNULL, check=False)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _cause(error, cell):
    """An error that says why an answer is missing: not the check's own, that it is missing."""
    return None if error and cell.checks and error.startswith("NameError") else error


def _judged(process, name, source, error):
    names = list(inspect.signature(EXERCISES[name]).parameters)
    answers = process.answers(name, names, source)
    if missing := [f"`{key}`" for key in names if key not in answers]:
        return Outcome("not answered", f"There is no {' and no '.join(missing)}"
                       + (f"; a cell before raised {LineError(error)}." if error else "."))
    return judge(name, answers)
