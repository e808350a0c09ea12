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
import tempfile
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode

from qlstm.course.exercises import NotYet
from qlstm.data.storage import ROOT, files, lessons
from qlstm.study.records import reports

LEARN = ROOT / "notebooks" / "learn"
MATERIALS = ["models/*.safetensors", "models/*.json", "records/*.json"]
"""What the lessons read, in folders beside them."""


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
            if (version is handout and written.exists()
                    and written.read_text(encoding="utf-8") != text):
                kept.append(written)
            else:
                written.write_text(text, encoding="utf-8")
        copy_materials(target)
    return kept


def copy_materials(target: Path):
    """Copy what the lessons read into the folder ``target``."""
    for path in files(LEARN, *MATERIALS):
        copy = target / path.relative_to(LEARN)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def grade(submission: Path, timeout: int = 300) -> dict[str, str]:
    """Run a student's notebook with the lesson's checks, whatever the student's say.

    It runs the student's code, as this user and with this user's rights.

    Args:
        submission: The student's notebook. Its file name begins with that of the lesson:
            ``01_quantizers-ada.ipynb``.
        timeout: The seconds that a cell may take.

    Returns:
        For each exercise ``"right"``, or what its check or the student's cell raised.

    Raises:
        FileNotFoundError: There is no such file, or no lesson of that name.
    """
    from nbclient import NotebookClient

    source = next((path for path in lessons() if submission.stem.startswith(path.stem)), None)
    if source is None:
        names = ", ".join(path.stem for path in lessons())
        raise FileNotFoundError(f"{submission}: its name begins with none of {names}")
    notebook = nbformat.read(submission, as_version=4)
    checks = {cell.id: cell for cell in nbformat.read(source, as_version=4).cells
              if tagged(cell, "check")}
    found = {cell.id: cell for cell in notebook.cells if cell.id in checks}
    for key, cell in found.items():
        cell.source = checks[key].source
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, "widget")]
    with tempfile.TemporaryDirectory() as folder:
        copy_materials(Path(folder))
        NotebookClient(notebook, timeout=timeout, allow_errors=True,
                       resources={"metadata": {"path": folder}}).execute()
    return {cell.metadata["exercise"]: _outcome(found.get(key)) for key, cell in checks.items()}


def _outcome(cell) -> str:
    if cell is None:
        return "the check's cell is missing"
    error = next((output for output in cell.outputs if output.output_type == "error"), None)
    if error is None:
        return "right"
    message = " ".join(error.evalue.split())
    return message if error.ename == NotYet.__name__ else f"{error.ename}: {message}"


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
        return _grades(options.notebooks)
    if kept := write(options.folder):
        print(f"kept, as worked in: {', '.join(path.name for path in kept)} "
              "(remove one to have it anew)")
    print(f"hand-outs: {options.folder / 'exercises'}   "
          f"with solutions: {options.folder / 'solutions'}")
    return 0


def _grades(notebooks: list[Path]) -> int:
    rows, failed = [], 0
    for path in notebooks:
        try:
            rows += [(path.name, name, int(outcome == "right"), outcome)
                     for name, outcome in grade(path).items()]
        except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
    pd.DataFrame(rows, columns=["notebook", "exercise", "points", "outcome"]).to_csv(
        sys.stdout, index=False)
    return failed
