"""The files that grading writes: points of each exercise, of each submission and of each student,
and a page for each submission. Nothing that comes from students is taken as a formula or as HTML.
"""

import csv
import os
import re
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from qlstm.course.exercises import EXERCISES
from qlstm.course.exercises.answers import HINTS
from qlstm.data.storage import lessons
from qlstm.errors import LineError

COLUMNS = ("submission", "exercise", "points", "outcome", "message", "seconds")
"""Of ``points.csv`` and of what is printed."""
_MOODLE = re.compile(r"(?:^|/)([^/_]+)_(\d+)_assignsubmission_[a-z]+_")
_COPY = re.compile(r"\(\d+\)|^copy of|-checkpoint$|[-_]?copy\d*$", re.I)
_STATES = {"right": "✓ right", "wrong": "✗ not yet", "crashed": "✗ error", "not reached": "–",
           "not answered": "– not answered", "not graded": "–"}
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; vertical-align: top; padding: .5rem; border-bottom: 1px solid #ccc }}
td:nth-child(-n+3) {{ white-space: nowrap }}
</style></head><body>
<h1>{title}</h1>
<p>{points} of {possible} points</p>
<table><thead><tr><th>exercise</th><th></th><th>points</th><th></th></tr></thead>
<tbody>
{rows}
</tbody></table>
</body></html>
"""


def cell(value: Any) -> Any:
    """What a table says, so that no spreadsheet takes it for a formula.

    Args:
        value: A text or a number.
    """
    if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return value


def labels(paths: list[Path]) -> list[str]:
    """What submissions are called in tables, each otherwise: by their file names where these
    differ, else by their paths below the folder that has them all; what is not printable is
    escaped.

    Args:
        paths: The submissions.
    """
    places = [Path(os.path.abspath(path)) for path in paths]
    top = os.path.commonpath([place.parent for place in places]) if places else ""
    same_names = len({place.name for place in places}) < len(places)
    found: list[str] = []
    for place in places:
        label = name = _printable(os.path.relpath(place, top) if same_names else place.name)
        copy = 1
        while label in found:  # names that differ in what is escaped, a file given twice
            copy += 1
            label = f"{name} ({copy})"
        found.append(label)
    return found


def student(path: Path, given: Path) -> tuple[str, str]:
    """Who has handed in a submission: a name and the number that Moodle gives a participant.

    Args:
        path: The submission. Moodle's folders and file names have both; of others the name is what
            is left without the lesson's, else that of the folder.
        given: The folder in which it was found, or the submission itself.
    """
    if found := _MOODLE.search(os.path.abspath(path).replace(os.sep, "/")):
        return _printable(found[1]), found[2]
    stem = path.stem
    for lesson in lessons():
        stem = stem.replace(lesson.stem, "")
    own = _COPY.sub("", stem.strip()).strip(" -_.()")
    folders = path.relative_to(given).parts[:-1] if path != given else (
        Path(os.path.abspath(path)).parent.name,)
    return _printable(own or (folders[0] if folders else path.stem)), ""


def _printable(name):
    return str(LineError(os.fsencode(name).decode(errors="backslashreplace")))


def _html(text):
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text))


class Tables:
    """The tables of one grading, in a folder that is new or empty.

    Args:
        folder: The folder.

    Raises:
        FileExistsError: There is something in it.
        OSError: It cannot be made.
    """

    def __init__(self, folder: Path):
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(17, "there are files in it", str(folder))
        (folder / "feedback").mkdir(parents=True)
        self.folder = folder
        self._points = (folder / "points.csv").open("w", newline="", encoding="utf-8")
        self._rows: dict[str, list[tuple]] = {}
        self._lessons: dict[str, str] = {}
        self._students: dict[str, tuple[str, str]] = {}
        self._write_point(COLUMNS)

    def add(self, label: str, row: tuple):
        """Add a row to ``points.csv``, at once.

        Args:
            label: The submission, which the others of its rows have too.
            row: What stands in the columns after that.
        """
        self._rows.setdefault(label, []).append(row)
        self._write_point((label, *row))

    def _write_point(self, row):
        csv.writer(self._points, lineterminator="\n").writerow(map(cell, row))
        self._points.flush()

    def finish(self, label: str, lesson: Path | None, who: tuple[str, str]):
        """Write the page of a submission, and the tables of all so far.

        Args:
            label: The submission, all of whose rows are there.
            lesson: Its lesson; None where it is of none.
            who: Whose it is, as :func:`student` says.
        """
        self._lessons[label], self._students[label] = lesson.stem if lesson else "", who
        name = re.sub(r"[^\w.@ -]+", "_", Path(label).with_suffix("").as_posix()).strip(". ")[-100:]
        taken = Counter(path.stem for path in (self.folder / "feedback").iterdir())
        copy = 1
        while taken[page := name + (f"-{copy}" if copy > 1 else "")]:
            copy += 1
        (self.folder / "feedback" / f"{page}.html").write_text(
            self._page(label), encoding="utf-8", errors="backslashreplace")
        self._matrix()
        self._gradebook()

    def close(self):
        """End the tables."""
        self._points.close()

    def _page(self, label):
        rows = []
        for exercise, points, outcome, message, _ in sorted(self._rows[label]):
            hint = ""
            if outcome in ("wrong", "crashed", "not answered"):
                hint = f"<br>Hint: {_html(HINTS[EXERCISES[exercise].__name__][0])}"
            elif outcome == "not reached":
                hint = "<br>Mend that cell, run all cells, and hand in again."
            rows.append(f"<tr><td>{escape(exercise)}</td><td>{_STATES[outcome]}</td>"
                        f"<td>{points}</td><td>{_html(message)}{hint}</td></tr>")
        return _PAGE.format(title=escape(label), rows="\n".join(rows), points=self._total(label),
                            possible=sum(bool(row[0]) for row in self._rows[label]))

    def _total(self, label):
        return sum(row[1] for row in self._rows[label])

    def _matrix(self):
        columns = sorted({row[0] for rows in self._rows.values() for row in rows if row[0]})
        lines = []
        for label, rows in self._rows.items():
            points = {row[0]: row[1] for row in rows}
            lines.append([label, *(points.get(name, "") for name in columns), self._total(label)])
        self._write("matrix.csv", ["submission", *columns, "total"], lines)

    def _gradebook(self):
        names = sorted(set(filter(None, self._lessons.values())))
        best: dict[tuple[str, str], dict[str, int]] = {}
        for label, lesson in self._lessons.items():
            points = best.setdefault(self._students[label], {})
            if lesson:
                points[lesson] = max(points.get(lesson, 0), self._total(label))
        lines = []
        for (name, participant), points in best.items():
            who = [f"Participant {participant}", name, "", ""] if participant else [
                "", "", name, name if "@" in name else ""]
            lines.append([*who, *(points.get(lesson, "") for lesson in names)])
        self._write("gradebook.csv",
                    ["Identifier", "Full name", "ID number", "Email address", *names], lines)

    def _write(self, name, head, lines):
        with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [map(cell, line) for line in (head, *lines)])
