"""``python -m qlstm course``: hand-outs and solutions from the lessons, and grading.

A lesson of ``notebooks/learn`` is complete; tags of its cells say what they are: ``exercise`` a
question, ``stub`` the cell that a student fills in, ``solution``, ``check`` (calls
:func:`qlstm.course.exercises.check`), ``widget`` (a control; the cell after it shows the same
without one). A hand-out is the lesson without solutions and outputs, the solution version the
lesson without stubs.
"""

import argparse
import copy
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from qlstm.data.storage import MATERIALS, ROOT, files, lessons, write_atomically
from qlstm.study.records import reports

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


def main(arguments: list[str]) -> int:
    """Write the hand-outs, or print the grades of notebooks as a table in CSV.

    Args:
        arguments: The words of the command line: ``write [FOLDER]`` or ``grade NOTEBOOK ...``.

    Returns:
        The exit status: 1 if a notebook could not be graded.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm course", description="Hand-outs of the lessons, and grades.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="the lessons as hand-outs, and with solutions").add_argument(
        "folder", type=Path, nargs="?", default=reports() / "course")
    commands.add_parser("grade", help="run students' notebooks").add_argument(
        "notebooks", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    if options.command == "grade":
        from qlstm.course.grading import grades

        return grades(options.notebooks)
    if not lessons():
        print(f"error: there are no lessons in {LEARN}; start it in the folder of the repository",
              file=sys.stderr)
        return 2
    try:
        kept = write(options.folder)
    except OSError as error:
        print(f"error: cannot write the hand-outs: {error}", file=sys.stderr)
        return 1
    if kept:
        print(f"kept, as worked in: {', '.join(path.name for path in kept)} "
              "(remove one to have it anew)")
    print(f"hand-outs: {options.folder / 'exercises'}   "
          f"with solutions: {options.folder / 'solutions'}")
    return 0
