"""Execute a notebook with parameters, headlessly: the one place that calls papermill."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError, unknown

# Two of the three seconds that papermill takes to import: jsonschema's check of international
# addresses, of which notebooks have none. It does without where there is no such module.
sys.modules.setdefault("rfc3987_syntax", None)


class NotebookError(RuntimeError):
    """A cell of a notebook raised; the message names the notebook, the cell and the error in one
    line."""


def execute(notebook: Path, output: Path, parameters: dict[str, Any] | None = None):
    """Run a notebook, and write it with its outputs, and as an HTML page beside.

    Args:
        notebook: The path of the notebook. It runs in its folder.
        output: The path that the executed notebook gets; if a cell fails, up to that cell.
        parameters: Values for names that the notebook's cell of tag ``parameters`` sets.

    Raises:
        ConfigError: A parameter is unknown (papermill's own command line only warns of it).
        NotebookError: A cell raised an error.
    """
    import papermill  # slow to import, so not at the top
    from traitlets.config import Config

    from qlstm.workflow.kernel_client import KernelClient

    notebook, output, parameters = Path(notebook), Path(output), parameters or {}
    source, target = _as_it_is(notebook), _as_it_is(output)
    known = papermill.inspect_notebook(source)
    for name in parameters:
        if name not in known:
            raise ConfigError(f"{notebook.name}: {unknown('parameter', name, known)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    # a socket path of its own for each kernel: kernels that start side by side would race for ports
    with tempfile.TemporaryDirectory(prefix="qlstm") as sockets:
        manager = {"transport": "ipc", "ip": f"{sockets}/k", "client_factory": KernelClient}
        try:
            papermill.execute_notebook(
                source, target, parameters, cwd=str(notebook.parent),
                progress_bar=False, coalesce_streams=True,
                config=Config({"KernelManager": manager}))
        except papermill.PapermillExecutionError as error:
            message = " ".join(str(error.evalue).split())
            raise NotebookError(
                f"{notebook.name}, cell {error.cell_index}: {error.ename}: {message}") from None
    to_html(output)


def _as_it_is(path: Path) -> str:
    """A path in papermill's words, which puts parameters into braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


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
        The exit status: 1 if the notebook failed, with one line on stderr.
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
    except (ConfigError, NotebookError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parse(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
