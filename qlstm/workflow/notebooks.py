"""Execute a notebook with parameters, headlessly: the one place that calls papermill."""

import argparse
import json
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from qlstm.data.storage import writable, write_atomically
from qlstm.errors import ConfigError, MissingError, first_line, needs, unknown
from qlstm.workflow.pool import how_ended

# Two of the three seconds that papermill takes to import: jsonschema's check of international
# addresses, of which notebooks have none. It does without where there is no such module.
sys.modules.setdefault("rfc3987_syntax", None)


PATIENCE = 600
"""Seconds for a kernel to start, or to say what a cell has shown: a machine may be slow, and
whether the kernel is alive is seen at once."""


class NotebookError(RuntimeError):
    """A notebook is none, a cell of it raised, or its kernel died; the message names the notebook,
    the cell and the error in one line."""


class KernelError(NotebookError):
    """The kernel of a notebook died, or never answered.

    Args:
        name: The name of the notebook.
        why: What is known of the reason.
        status: How its process ended, as in :mod:`qlstm.workflow.pool`; None if it did not.
    """

    def __init__(self, name: str, why: str, status: int | None):
        super().__init__(f"{name}: {why if status is None else f'its kernel {how_ended(status)}'}")
        self.exit_status = 128 - status if status is not None and status < 0 else 1


def check_packages():
    """Raises ``MissingError`` where notebooks cannot be executed and made pages."""
    needs("reproduce", "papermill", "nbconvert", "latex2mathml", "tabulate")


def execute(notebook: Path, output: Path, parameters: dict[str, Any] | None = None):
    """Run a notebook, and write it with its outputs, and as an HTML page beside.

    Args:
        notebook: The path of the notebook. It runs in its folder.
        output: The path that the executed notebook gets; if a cell fails, up to that cell.
        parameters: Values for names that the notebook's cell of tag ``parameters`` sets.

    Raises:
        ConfigError: A parameter is unknown (papermill's own command line only warns of it).
        NotebookError: The notebook cannot be read, a cell raised an error or made a figure without
            a picture, or the kernel died.
    """
    check_packages()
    import papermill  # slow to import, so not at the top

    from qlstm.report.kernel import Kernel

    notebook, output, parameters = Path(notebook), Path(output), parameters or {}
    content = _read(notebook)
    known = papermill.inspect_notebook(content)
    for name in parameters:
        if name not in known:
            raise ConfigError(f"{notebook.name}: {unknown('parameter', name, known)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    writable(output)
    Kernel.ended = None
    try:
        executed = papermill.execute_notebook(
            _as_it_is(notebook), _as_it_is(output), parameters, cwd=str(notebook.parent),
            kernel_name="python3", language="python", kernel_manager_class=Kernel,
            start_timeout=PATIENCE, iopub_timeout=PATIENCE, progress_bar=False,
            coalesce_streams=True)
    except papermill.PapermillExecutionError as error:
        message = " ".join(str(error.evalue).split())
        raise NotebookError(
            f"{notebook.name}, cell {error.cell_index}: {error.ename}: {message}") from None
    except (RuntimeError, TimeoutError) as error:  # the kernel died, or does not answer
        raise KernelError(notebook.name, first_line(error), Kernel.ended) from error
    _check_pictures(notebook.name, executed)
    to_html(output)


def _as_it_is(path: Path) -> str:
    """A path in papermill's words, which puts parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _read(notebook: Path):
    """A notebook's node, for the kernel that there is, whichever it names."""
    from papermill.iorw import load_notebook_node

    try:
        content = load_notebook_node(str(notebook))
    except OSError:
        raise
    except Exception as error:  # there is no common class
        raise NotebookError(f"{notebook}: no notebook that can be read: "
                            f"{type(error).__name__}: {first_line(error)}") from error
    content.metadata.kernelspec = {
        "name": "python3", "display_name": "Python 3", "language": "python"}
    return content


def _check_pictures(name: str, executed):
    """A figure that is shown as words alone is an error: a notebook that chose a backend of
    Matplotlib's would make pages without pictures, in silence."""
    for index, cell in enumerate(executed.cells):
        for shown in (output.get("data", {}) for output in cell.get("outputs", [])):
            if (re.match("<Figure size .* with [1-9]", shown.get("text/plain", ""))
                    and not any(kind.startswith("image/") for kind in shown)):
                raise NotebookError(f"{name}, cell {index}: a figure has no picture, as the "
                                    "notebook chose another backend of Matplotlib than inline")


def to_html(notebook: Path, page: Path | None = None, *, code: bool = True):
    """Write an executed notebook as a page that loads nothing from a network, as a whole.

    Args:
        notebook: its path.
        page: the path of the page, to which the notebook's links are relative; None: beside it.
        code: whether the page shows the code.
    """
    from qlstm.report.page import html  # not needed to train, as its packages are not

    page = page or notebook.with_suffix(".html")
    write_atomically(page, html(notebook, code).encode())


def report_notebook(artefact: str) -> tuple[str, dict[str, Any]]:
    """The notebook that makes a table, a figure or another report, and the parameters that choose
    it there; that of the profile comes on top.

    Args:
        artefact: The name of the report, which its executed copy keeps.

    Returns:
        The path below ``notebooks`` without suffix, and the parameters.

    >>> report_notebook("figure_07")
    ('report/figure', {'artefact': 'figure_07'})
    >>> report_notebook("theory")
    ('report/theory', {})
    """
    kind, _, number = artefact.partition("_")
    if kind in ("figure", "table") and number:
        return f"report/{kind}", {"artefact": artefact}
    return f"report/{artefact}", {}


def main(arguments: list[str]) -> int:
    """Execute a notebook.

    Args:
        arguments: The words of the command line: the notebook's path, that of its output, then
            ``name=value`` for each parameter, the value in JSON or as plain text.

    Returns:
        The exit status: 1 if the notebook failed, with one line on stderr; 128 and the signal's
        number if its kernel was killed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm notebook", description="Run a notebook, and write it with outputs.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "parameters", nargs="*", metavar="name=value", help="values in JSON, or plain text")
    options = parser.parse_args(arguments)
    try:
        execute(options.notebook, options.output, dict(map(_parse, options.parameters)))
    except Exception as error:
        why = str(error)
        if not isinstance(error, ConfigError | MissingError | NotebookError | OSError):
            traceback.print_exc()
            why = f"{options.notebook.name}: {type(error).__name__}: {first_line(error)}"
        print(f"error: {why}", file=sys.stderr)
        return getattr(error, "exit_status", 1)
    return 0


def _parse(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
