"""Hand-outs, solutions and a copy to work in, made from the lessons.

A lesson of ``notebooks/learn`` is complete; tags of its cells say what they are: ``exercise`` a
question, ``stub`` the cell that a student fills in, ``solution``, ``check`` (calls
:func:`qlstm.course.exercises.check`), ``widget`` (a control, :func:`qlstm.course.demos.explore`),
``quiz``, ``colab`` (installs the package there), ``answer`` (shows what follows from an answer). A
hand-out is the lesson without solutions, and with the outputs that do not depend on an answer; the
solution version is the lesson without stubs.
"""

import copy
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat import NotebookNode

from qlstm.data.storage import MATERIALS, ROOT, files, lessons, pages, write_atomically
from qlstm.errors import LineError
from qlstm.report.page import WIDGET

LEARN = ROOT / "notebooks" / "learn"
WRITTEN = ".written.json"
"""In a folder of hand-outs: for each file the digest of what was written."""
PACKAGE = ["qlstm", "pyproject.toml", "README.md", "LICENSE"]
"""What the wheel is made of."""


class HandoutError(LineError):
    """Hand-outs that cannot be made; one line that says why."""


def tagged(cell: NotebookNode, tag: str) -> bool:
    """Whether ``cell``, of a notebook, has the ``tag`` among its tags."""
    return tag in cell.metadata.get("tags", [])


def handout(lesson: NotebookNode) -> NotebookNode:
    """A copy of the notebook ``lesson`` without solutions; what a student should see stays, as the
    output of all cells but stubs, checks and what follows from an answer."""
    result = _without(lesson, "solution")
    for cell in result.cells:
        if any(tagged(cell, tag) for tag in ("stub", "check", "answer")):
            cell.outputs = []
    return result


def solution(lesson: NotebookNode) -> NotebookNode:
    """A copy of the notebook ``lesson`` with solutions, all of them visible, in place of the
    stubs."""
    result = _without(lesson, "stub")
    for cell in result.cells:
        cell.metadata.pop("jupyter", None)
    return result


def _without(lesson, tag):
    """A copy without the cells of the ``tag``, and without what means nothing before it is run:
    numbers of cells, and widgets."""
    result = copy.deepcopy(lesson)
    result.cells = [cell for cell in result.cells if not tagged(cell, tag)]
    result.metadata.pop("widgets", None)
    for cell in [cell for cell in result.cells if cell.cell_type == "code"]:
        cell.execution_count = None
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
            if "execution_count" in output:
                output.execution_count = None
        cell.outputs = [output for output in cell.outputs if output.get("data", True)]
    return result


def write(folder: Path) -> list[Path]:
    """Write the lessons for a class: ``exercises`` (always as the lessons are now), the same as
    ``exercises.zip``, and ``solutions``. Each has what the lessons read, and the hand-outs the
    package as a wheel, for students who have no copy of the repository.

    Args:
        folder: Where to.

    Returns:
        What somebody had worked on in ``exercises``, where it is now: in the folder ``work``.

    Raises:
        HandoutError: The wheel cannot be made.
    """
    moved = _rescue(folder)
    contents = _contents(handout) | wheel()
    _write(folder / "exercises", contents)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(zipfile.ZipInfo(f"exercises/{name}"), content, zipfile.ZIP_DEFLATED)
    write_atomically(folder / "exercises.zip", packed.getvalue())
    _write(folder / "solutions", _contents(solution))
    return moved


def work(folder: Path) -> tuple[list[Path], list[Path]]:
    """Write the lessons to work in, as hand-outs: ``work``, of which what is the student's stays.

    Args:
        folder: Where to, that of :func:`write`.

    Returns:
        The notebooks that stay because they were worked in, and what was moved there from
        ``exercises``, where one worked before there was ``work``.
    """
    moved = _rescue(folder)
    contents, written = _contents(handout), _written(folder / "work")
    kept = [folder / "work" / name for name, content in contents.items()
            if (folder / "work" / name).is_file() and name.endswith(".ipynb")
            and _digest((folder / "work" / name).read_bytes()) not in
            (written.get(name), _digest(content))]
    _write(folder / "work", {name: content for name, content in contents.items()
                             if folder / "work" / name not in kept})
    return kept, moved


def wheel() -> dict[str, bytes]:
    """The package as a wheel: its name and content."""
    with TemporaryDirectory() as folder:
        source = Path(folder) / "source"  # setuptools leaves its own files where it builds
        source.mkdir()
        for name in PACKAGE:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name,
                                ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(ROOT / name, source / name)
        done = subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index",
             "--no-build-isolation", "-w", folder, source], capture_output=True, text=True,
            env=os.environ | {"SOURCE_DATE_EPOCH": "315532800"})  # the same bytes each time
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["pip failed"]
            raise HandoutError(f"cannot make the package's wheel: {lines[-1]}")
        return {path.name: path.read_bytes() for path in Path(folder).glob("*.whl")}


def _contents(version: Callable[[NotebookNode], NotebookNode]) -> dict[str, bytes]:
    """What belongs in a folder: the content of each file by its path there."""
    notebooks = {path.name: version(nbformat.read(path, as_version=4))
                 for path in [*lessons(), *pages()]}
    materials = {path.relative_to(LEARN).as_posix(): path.read_bytes()
                 for path in files(LEARN, *MATERIALS)}
    return {name: f"{nbformat.writes(notebook)}\n".encode()
            for name, notebook in sorted(notebooks.items())} | materials


def _write(folder: Path, contents: dict[str, bytes]):
    """Write files and note what was written; what was written before and belongs there no more goes
    if nobody has changed it."""
    written = _written(folder)
    for name in {*written} - {*contents}:
        if (folder / name).is_file() and _digest((folder / name).read_bytes()) == written[name]:
            (folder / name).unlink()
        del written[name]
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)
        written[name] = _digest(content)
    write_atomically(folder / WRITTEN, json.dumps(written, indent=1).encode())


def _written(folder: Path) -> dict[str, str]:
    """The digest of each file that was written there; none for what an older version wrote."""
    try:
        return dict(json.loads((folder / WRITTEN).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _digest(content: bytes) -> str:
    """Of what somebody can have worked on: of a notebook the text of its cells, not their outputs
    and what editors note about them."""
    try:
        cells = json.loads(content)["cells"]
        words = [[cell["cell_type"], "".join(cell["source"])] for cell in cells]
        content = json.dumps(words).encode()
    except (ValueError, TypeError, KeyError):
        pass
    return hashlib.sha256(content).hexdigest()


def _rescue(folder: Path) -> list[Path]:
    """Move what is not as :func:`write` wrote it out of the hand-outs into the copy to work in,
    where it takes nothing's place. What lessons read all of, as models, goes beside the others."""
    source, target, moved = folder / "exercises", folder / "work", []
    written, own = _written(source), _written(target)
    now = {name: _digest(content) for name, content in _contents(handout).items()}
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if (not path.is_file() or name == WRITTEN
                or _digest(path.read_bytes()) in (written.get(name), now.get(name))):
            continue
        material = any(path.relative_to(source).match(pattern) for pattern in MATERIALS)
        place, number = target / ("former" if material else "") / name, 2
        while place.exists() and _digest(place.read_bytes()) != own.get(name):
            place = place.with_name(f"{path.stem}-{number}{path.suffix}")
            number += 1
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)
        moved.append(place)
    return moved


def copy_materials(target: Path):
    """Copy what the lessons read into the folder ``target``."""
    for path in files(LEARN, *MATERIALS):
        copy = target / path.relative_to(LEARN)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
