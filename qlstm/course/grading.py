"""Grading: students' notebooks are run with the lessons' checks, and all that they are or do ends
in rows of a table."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any

import nbformat

from qlstm.course.exercises import NotYet
from qlstm.course.handouts import copy_materials, lessons, tagged
from qlstm.errors import LineError, first_line
from qlstm.report.kernel import surroundings

STARTING, STOPPING = 120, 10
"""Seconds that a kernel may take to begin, and to end a cell that it is told to end."""

LIMITS = """
def limit():
    import os, resource
    memory = max(4 * 2**30, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
limit()
"""
"""Run before a notebook: its memory ends before the machine's does, its files at 1 GiB."""


class GradingError(LineError):
    """A notebook that cannot be graded; one line that says why."""


@dataclass
class _Cell:
    """A cell of code, whatever the version of the notebook."""

    source: str
    id: str | None
    exercise: str | None
    widget: bool


def grade(submission: Path, timeout: float = 300) -> dict[str, str]:
    """Run a student's notebook with the lesson's checks, whatever the student's say.

    It runs the student's code, as this user and with this user's rights.

    Args:
        submission: The student's notebook. Its file name begins with that of the lesson:
            ``01_quantizers-ada.ipynb``.
        timeout: The seconds that a cell may take.

    Returns:
        For each exercise ``"right"``, or why not: what its check or the student's cell raised, or
        what ended the notebook before.

    Raises:
        GradingError: There is no lesson of that name, or the file is no notebook.
        OSError: It cannot be read.
    """
    source = next((path for path in lessons() if submission.stem.startswith(path.stem)), None)
    if source is None:
        names = ", ".join(path.stem for path in lessons())
        raise GradingError(f"its name begins with none of {names}")
    checks = [cell for cell in nbformat.read(source, as_version=4).cells if tagged(cell, "check")]
    cells = [cell for cell in _cells(submission) if not cell.widget]
    found = {}
    for check in checks:
        index = _index(cells, check)
        found[check.metadata["exercise"]] = index
        if index is not None:
            cells[index].source = check.source
    outcomes, ended = _run([cell.source for cell in cells], timeout)
    missing = {None: "the check's cell is missing"}
    return {exercise: (missing | outcomes).get(index, f"not reached: {ended}")
            for exercise, index in found.items()}


def _cells(path: Path) -> list[_Cell]:
    """The cells of code of a notebook of any version and encoding, of which no more is read than
    what is run."""
    if path.exists() and not path.is_file():
        raise GradingError("a folder, pipe or device, not a notebook")
    try:
        content = json.loads(path.read_bytes())
        if "worksheets" in content:  # versions 2 and 3
            cells = [cell for sheet in content["worksheets"] for cell in sheet["cells"]]
        else:
            cells = content["cells"]
        return [_cell(cell) for cell in cells if cell["cell_type"] == "code"]
    except OSError:
        raise
    except (ValueError, RecursionError) as error:
        raise GradingError(f"not a notebook: no JSON ({first_line(error)})") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise GradingError("not a notebook: JSON of another kind") from error


def _cell(cell: dict[str, Any]) -> _Cell:
    metadata = cell.get("metadata") or {}
    source = cell["input"] if "input" in cell else cell["source"]
    return _Cell("".join(source), cell.get("id"), metadata.get("exercise"),
                 "widget" in (metadata.get("tags") or ()))


def _index(cells: list[_Cell], check: nbformat.NotebookNode) -> int | None:
    """Where a lesson's ``check`` is among a student's cells: the last with its words, else with its
    id, else with its exercise. Ids can be lost, and a copy of the cell can hold an answer."""
    for same in (lambda cell: cell.source.strip() == check.source.strip(),
                 lambda cell: cell.id == check.id,
                 lambda cell: cell.exercise == check.metadata["exercise"]):
        if places := [i for i, cell in enumerate(cells) if same(cell)]:
            return places[-1]
    return None


def _run(sources: list[str], timeout: float) -> tuple[dict[int, str], str]:
    """What becomes of the cells with these ``sources`` in a kernel of this Python: the outcomes by
    their positions, as far as it comes, and what ended it.

    Only replies are asked for: what cells write reaches nobody, however much it is."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import KernelManager

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        place = Path(folder) / "lesson"
        copy_materials(place)
        manager = KernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
        manager.start_kernel(cwd=str(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=surroundings(f"{folder}/settings"))
        client = manager.blocking_client()
        client.start_channels(iopub=False, stdin=False)
        try:
            if _reply(manager, client, LIMITS, STARTING) is None:
                raise GradingError("the kernel did not start")
            outcomes = {}
            for i, source in enumerate(sources):
                reply = _reply(manager, client, source, timeout)
                if reply is None:
                    return outcomes, (
                        f"the code cell {i + 1} " + (f"took longer than {timeout:g} s"
                        if manager.is_alive() else "ended the kernel"))
                outcomes[i] = reply
            return outcomes, ""
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def _reply(manager, client, source: str, timeout: float) -> str | None:
    """What becomes of a cell: "right" or its error, None if it does not end. After the ``timeout``
    it is interrupted."""
    number = client.execute(source, allow_stdin=False, stop_on_error=False)
    end, interrupted = monotonic() + timeout, False
    while manager.is_alive():
        try:
            message = client.get_shell_msg(timeout=min(1, timeout))
        except Empty:
            if monotonic() < end:
                continue
            if interrupted:
                return None
            manager.interrupt_kernel()
            end, interrupted = monotonic() + STOPPING, True
            continue
        if message["parent_header"].get("msg_id") == number:
            return (f"took longer than {timeout:g} s" if interrupted
                    else _outcome(message["content"]))
    return None


def _outcome(content: dict[str, Any]) -> str:
    if content["status"] == "ok":
        return "right"
    message = " ".join(content.get("evalue", content["status"]).split())[:300]
    name = content.get("ename")
    return message if name in (None, NotYet.__name__) else f"{name}: {message}"


def grades(notebooks: list[Path]) -> int:
    """Print the grades of ``notebooks`` as a table in CSV, each as soon as it is known: one row for
    each exercise, or one that says why a notebook could not be graded.

    Returns the exit status, 1 if there is such a one.
    """
    table, failed = csv.writer(sys.stdout, lineterminator="\n"), 0
    same_names = len({path.name for path in notebooks}) < len(notebooks)
    table.writerow(["notebook", "exercise", "points", "outcome"])
    for path in notebooks:
        name = os.fsencode(path if same_names else path.name).decode(errors="backslashreplace")
        try:
            outcomes = grade(path)
        except Exception as error:  # one notebook is not to keep the others from their grades
            outcomes, failed = {"": str(LineError(first_line(error)))}, 1
            print(f"error: {LineError(name)}: {outcomes['']}", file=sys.stderr)
        table.writerows((name, exercise, int(outcome == "right"), outcome)
                        for exercise, outcome in outcomes.items())
        sys.stdout.flush()
    return failed
