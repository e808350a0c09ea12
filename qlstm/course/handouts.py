"""Hand-outs and solutions, made from the lessons.

A lesson of ``notebooks/learn`` is complete; tags of its cells say what they are: ``exercise`` a
question, ``stub`` the cell that a student fills in, ``solution``, ``check`` (calls
:func:`qlstm.course.exercises.check`), ``widget`` (a control, :func:`qlstm.course.demos.explore`),
``quiz``. A hand-out is the lesson without solutions and outputs, the solution version the
lesson without stubs.
"""

import copy
import shutil
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from qlstm.data.storage import MATERIALS, ROOT, files, lessons, write_atomically

LEARN = ROOT / "notebooks" / "learn"


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether ``cell``, of a notebook, has the ``tag`` among its tags."""
    return tag in cell.metadata.get("tags", [])


def handout(lesson: NotebookNode) -> NotebookNode:
    """A copy of the notebook ``lesson`` without solutions and without outputs."""
    result = _without(lesson, "solution")
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return result


def solution(lesson: NotebookNode) -> NotebookNode:
    """A copy of the notebook ``lesson`` with solutions, all of them visible, in place of the
    stubs."""
    result = _without(lesson, "stub")
    for cell in result.cells:
        cell.metadata.pop("jupyter", None)
    return result


def _without(lesson, tag):
    result = copy.deepcopy(lesson)
    result.cells = [cell for cell in result.cells if not tagged(cell, tag)]
    return result


def write(folder: Path) -> list[Path]:
    """Write both versions of all lessons, each with the models and records that the lessons read.

    Nothing that a student has saved there is touched: neither a file with a name of its own nor a
    hand-out that was worked in.

    Args:
        folder: Where to: the hand-outs go to its folder ``exercises``, the others to ``solutions``.

    Returns:
        The hand-outs that stayed because they are not as they would be written now.
    """
    kept = []
    for name, version in (("exercises", handout), ("solutions", solution)):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for path in lessons():
            text = nbformat.writes(version(nbformat.read(path, as_version=4))) + "\n"
            written = target / path.name
            if version is handout and written.is_file() and written.read_bytes() != text.encode():
                kept.append(written)
            else:
                write_atomically(written, text.encode())
        copy_materials(target)
    return kept


def copy_materials(target: Path):
    """Copy what the lessons read into the folder ``target``."""
    for path in files(LEARN, *MATERIALS):
        copy = target / path.relative_to(LEARN)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
