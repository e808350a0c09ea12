"""The course: hand-outs and solutions from the lessons, and grading.

A lesson of ``notebooks/learn`` is complete; tags of its cells say what they are: ``exercise`` a
question, ``stub`` the cell that a student fills in, ``solution``, ``check`` (calls
:func:`qlstm.course.exercises.check`), ``widget`` (a control; the cell after it shows the same
without one). A hand-out is the lesson without solutions and outputs, the solution version the
lesson without stubs.

A ``lesson`` is the path of its notebook, ``timeout`` is in seconds, ``arguments`` are those of the
command line.
"""

import argparse
import copy
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
import pandas as pd

from qlstm.course.exercises import NotYet
from qlstm.data.storage import ROOT
from qlstm.study.records import reports

LEARN = ROOT / "notebooks" / "learn"
FOLDERS = ["models", "records"]
"""What the lessons read, beside them."""


def lessons() -> list[Path]:
    """The lessons, in their order."""
    return sorted(LEARN.glob("[0-9]*.ipynb"))


def tagged(cell, tag: str) -> bool:
    """Whether a cell has that tag."""
    return tag in cell.metadata.get("tags", [])


def handout(lesson):
    """A copy of the notebook without solutions and without outputs."""
    result = _without(lesson, "solution")
    for cell in result.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return result


def solution(lesson):
    """A copy of the notebook with solutions, all of them visible, in place of the stubs."""
    result = _without(lesson, "stub")
    for cell in result.cells:
        cell.metadata.pop("jupyter", None)
    return result


def _without(lesson, tag):
    result = copy.deepcopy(lesson)
    result.cells = [cell for cell in result.cells if not tagged(cell, tag)]
    return result


def write(folder: Path) -> list[Path]:
    """Both versions of all lessons: ``folder/exercises`` and ``folder/solutions``, each with what
    the lessons read.

    Nothing that a student has saved there is touched: neither a file with a name of its own nor a
    hand-out that was worked in. Returns the hand-outs that stayed because they are not as they
    would be written now.
    """
    kept = []
    for name, version in (("exercises", handout), ("solutions", solution)):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for path in lessons():
            text = nbformat.writes(version(nbformat.read(path, as_version=4))) + "\n"
            copy_of = target / path.name
            if (version is handout and copy_of.exists()
                and copy_of.read_text(encoding="utf-8") != text):
                kept.append(copy_of)
            else:
                copy_of.write_text(text, encoding="utf-8")
        for part in FOLDERS:
            shutil.copytree(LEARN / part, target / part, dirs_exist_ok=True)
    return kept


def grade(submission: Path, timeout: int = 300) -> dict[str, str]:
    """Run a student's notebook and say of each exercise "right", or what its check or the cell
    raised.

    The lesson is the one whose file name the submission's begins with
    (``01_quantizers-ada.ipynb``). The check cells are taken from it, whatever the student's say.
    Runs the student's code: as this user, with this user's rights. Raises ``FileNotFoundError``: no
    such lesson or file.
    """
    from nbclient import NotebookClient

    source = next((path for path in lessons() if submission.stem.startswith(path.stem)), None)
    if source is None:
        names = ", ".join(path.stem for path in lessons())
        raise FileNotFoundError(f"{submission}: its name begins with none of {names}")
    notebook = nbformat.read(submission, as_version=4)
    checks = {
        cell.id: cell for cell in nbformat.read(source, as_version=4).cells if tagged(cell, "check")
    }
    found = {cell.id: cell for cell in notebook.cells if cell.id in checks}
    for key, cell in found.items():
        cell.source = checks[key].source
    notebook.cells = [cell for cell in notebook.cells if not tagged(cell, "widget")]
    with tempfile.TemporaryDirectory() as folder:
        for part in FOLDERS:
            shutil.copytree(LEARN / part, Path(folder) / part)
        client = NotebookClient(
            notebook, timeout=timeout, allow_errors=True, resources={"metadata": {"path": folder}})
        client.execute()
    return {cell.metadata["exercise"]: _outcome(found.get(key)) for key, cell in checks.items()}


def _outcome(cell) -> str:
    if cell is None:
        return "the check's cell is missing"
    error = next((output for output in cell.outputs if output.output_type == "error"), None)
    if error is None:
        return "right"
    message = " ".join(error.evalue.split())
    return message if error.ename == NotYet.__name__ else f"{error.ename}: {message}"


def main(arguments: list[str] | None = None) -> int:
    """``python -m qlstm course write [FOLDER]`` or ``... grade NOTEBOOK ...`` (a table in CSV on
    the standard output)."""
    parser = argparse.ArgumentParser(
        prog="python -m qlstm course", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write").add_argument(
        "folder", type=Path, nargs="?", default=reports() / "course")
    commands.add_parser("grade").add_argument("notebooks", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    if options.command == "write":
        if kept := write(options.folder):
            print(
                f"kept, as worked in: {', '.join(path.name for path in kept)} (remove one to have it anew)"
            )
        print(
            f"hand-outs: {options.folder / 'exercises'}   with solutions: {options.folder / 'solutions'}"
        )
        return 0
    rows, failed = [], 0
    for path in options.notebooks:
        try:
            rows += [
                {"notebook": path.name, "exercise": name, "points": int(outcome == "right"),
                 "outcome": outcome}
                for name, outcome in grade(path).items()
            ]
        except (OSError, nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
    pd.DataFrame(rows, columns=["notebook", "exercise", "points", "outcome"]).to_csv(
        sys.stdout, index=False)
    return failed
