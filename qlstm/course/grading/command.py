"""``python -m qlstm course grade``: the grades of many submissions, each written as soon as it is
known."""

import contextlib
import csv
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from qlstm.course.grading import Limits, grade
from qlstm.course.grading.notebooks import read
from qlstm.course.grading.tables import COLUMNS, Tables, cell, labels, student
from qlstm.data.storage import pages
from qlstm.errors import LineError, first_line
from qlstm.study.records import reports


def grades(submissions: list[Path], out: Path | None = None, limits: Limits = Limits()) -> int:  # noqa: B008
    """Grade submissions into a folder, and print ``points.csv`` as it grows.

    Args:
        submissions: Notebooks, and folders of notebooks.
        out: The folder, new or empty; by default a new one in ``reports/grades``.
        limits: What a submission may take.

    Returns:
        The exit status: 1 if one could not be graded, 2 if the folder cannot be written.
    """
    paths = {path: given for given in submissions for path in _notebooks(given)}
    folder = out or reports() / "grades" / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    try:
        tables = Tables(folder)
    except OSError as error:
        print(f"error: cannot write the grades: {error}", file=sys.stderr)
        return 2
    with contextlib.closing(tables):
        failed = _graded(paths, tables, limits)
    print(f"grades: {folder}", file=sys.stderr)
    return failed


def _graded(paths, tables, limits):
    """Whether one could not be graded."""
    printed, failed, told = csv.writer(sys.stdout, lineterminator="\n"), 0, False

    def add(label, *row):
        tables.add(label, row)
        printed.writerow(map(cell, (label, *row)))
        sys.stdout.flush()

    printed.writerow(COLUMNS)
    for (path, given), label in zip(paths.items(), labels([*paths]), strict=True):
        lesson = None
        try:
            lesson = read(path).lesson
            for found in grade(path, limits, report=None if told else _protections):
                told = True
                add(label, found.exercise, int(found.outcome.state == "right"),
                    found.outcome.state, found.outcome.message, round(found.seconds, 1))
        except Exception as error:  # one submission is not to keep the others from their grades
            message, failed = str(LineError(first_line(error))), 1
            print(f"error: {label}: {message}", file=sys.stderr)
            add(label, "", 0, "not graded", message, 0)
        tables.finish(label, lesson, student(path, given))
    return failed


def _notebooks(given: Path) -> list[Path]:
    """The notebooks of a folder, without the pages that have no exercises; else what was given."""
    if not given.is_dir():
        return [given]
    without = {page.name for page in pages()}
    found = [path for path in sorted(given.rglob("*.ipynb"))
             if path.is_file() and path.name not in without
             and not any(part.startswith(".") for part in path.relative_to(given).parts)]
    return found or [given]


def _protections(found: dict[str, Any]):
    """Say which protections this system gives."""
    names = {
        "separate": "processes that see no other ones, all of which end, and no network",
        "read_only": "all files but a submission's own read-only",
        "confined": f"hardly any other file readable (Landlock {found.get('version')})"}
    given = [text for name, text in names.items() if found.get(name)]
    lacking = [text for name, text in names.items() if not found.get(name)]
    print("protections of this system: " + ("; ".join(given) or "time and size alone")
          + (f". Not here: {'; '.join(lacking)}" if lacking else "") + ".", file=sys.stderr)
