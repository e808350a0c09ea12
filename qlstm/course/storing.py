"""The outputs of lessons, as they are stored with them: what a reader without a kernel sees."""

import sys
from pathlib import Path

import nbformat

from qlstm.data.storage import write_atomically
from qlstm.errors import first_line, needs
from qlstm.report import page


def store(path: Path) -> int:
    """Run a lesson from its first cell to its last, and write it with its outputs; without controls
    and times, which mean nothing without a kernel.

    Args:
        path: The notebook. If a cell fails, it stays as it was, and the error is told in a line.

    Returns:
        The exit status, 1 if a cell failed.
    """
    needs("reproduce", "nbclient")
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    from qlstm.report.kernel import Kernel

    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # there is no common class
        print(f"error: {path}: no notebook: {first_line(error)}", file=sys.stderr)
        return 1
    client = NotebookClient(
        notebook, timeout=None, kernel_manager_class=Kernel, coalesce_streams=True,
        record_timing=False, resources={"metadata": {"path": str(path.resolve().parent)}})
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"error: {path.name}: {error.ename}: {first_line(error.evalue)}", file=sys.stderr)
        return 1
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}}
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.execution_count = number
        for output in cell.outputs:
            output.get("data", {}).pop(page.WIDGET, None)
            if "execution_count" in output:
                output.execution_count = number
    write_atomically(path, (nbformat.writes(notebook) + "\n").encode())
    return 0
