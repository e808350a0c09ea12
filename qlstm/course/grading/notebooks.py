"""What is read of a submission, a notebook of any version and encoding, and which lesson it is."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm.course.exercises import EXERCISES
from qlstm.data.storage import lessons
from qlstm.errors import LineError, first_line

LARGEST = 2**24
"""Bytes of a notebook."""
_CHECK = re.compile(r"""^[^#\n]*\bcheck\(\s*(?:name\s*=\s*)?["']+(\d+\.\d+)["']""", re.M)
_WIDGET = re.compile(r"^[^#\n]*\b(?:widgets\.\w|demos\.explore\b)", re.M)


class GradingError(LineError):
    """A notebook that cannot be graded; one line that says why."""


@dataclass(frozen=True)
class Cell:
    """A cell of code, whatever the version of the notebook."""

    source: str
    widget: bool
    """Whether it has the tag ``widget``, or makes one."""
    number: int
    """Its place among the notebook's cells of code, from 1."""

    @property
    def checks(self) -> list[str]:
        """The exercises whose check it calls."""
        return _CHECK.findall(self.source)


@dataclass(frozen=True)
class Notebook:
    """A submission as it is graded."""

    lesson: Path
    """The lesson's own notebook."""
    cells: list[Cell]
    """Those of code, without widgets."""

    @property
    def exercises(self) -> list[str]:
        """The exercises of the lesson."""
        return [name for name in EXERCISES if name.split(".")[0] == number(self.lesson)]

    def checked(self) -> dict[str, int]:
        """The last cell in which each exercise is checked, for those that are."""
        return {name: index for index, cell in enumerate(self.cells) for name in cell.checks
                if name in self.exercises}


def number(lesson: Path) -> str:
    """The number of a lesson, which those of its exercises begin with.

    Args:
        lesson: Its notebook.
    """
    return str(int(lesson.stem[:2]))


def read(path: Path) -> Notebook:
    """Read a submission.

    Args:
        path: The notebook. Which lesson it is the beginning of its name says, else its checks.

    Raises:
        GradingError: It is no notebook, or of no lesson.
        OSError: It cannot be read.
    """
    cells = _cells(path)
    names = {lesson.stem: lesson for lesson in lessons()}
    for stem, lesson in names.items():
        if path.stem.startswith(stem):
            return Notebook(lesson, cells)
    called = Counter(name.split(".")[0] for cell in cells for name in set(cell.checks))
    for lesson in sorted(names.values(), key=lambda lesson: -called[number(lesson)]):
        if called[number(lesson)]:
            return Notebook(lesson, cells)
    raise GradingError(f"its name begins with none of {', '.join(names)}, and it checks none of "
                       "their exercises")


def _cells(path: Path) -> list[Cell]:
    """The cells of code, of which no more is read than what is run; widgets are not."""
    if path.exists() and not path.is_file():
        raise GradingError("a folder without notebooks" if path.is_dir() else
                           "a pipe or device, not a notebook")
    if (size := path.stat().st_size) > LARGEST:
        raise GradingError(f"{size // 2**20} MiB are too large for a notebook")
    try:
        content = json.loads(path.read_bytes())
        if "worksheets" in content:  # versions 2 and 3
            cells = [cell for sheet in content["worksheets"] for cell in sheet["cells"]]
        else:
            cells = content["cells"]
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        found = [_cell(cell, number) for number, cell in enumerate(code, start=1)]
    except OSError:
        raise
    except (ValueError, RecursionError) as error:
        raise GradingError(f"not a notebook: no JSON ({first_line(error)})") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise GradingError("not a notebook: JSON of another kind") from error
    return [cell for cell in found if cell.checks or not cell.widget]


def _cell(cell: dict[str, Any], number: int) -> Cell:
    metadata = cell.get("metadata") or {}
    source = "".join(cell["input"] if "input" in cell else cell["source"])
    tagged = "widget" in (metadata.get("tags") or ())
    return Cell(source, tagged or bool(_WIDGET.search(source)), number)
