"""Execute a notebook with parameters, headlessly: the one place that calls papermill."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from qlstm.errors import ConfigError, unknown


class NotebookError(RuntimeError):
    """A cell of a notebook raised; the message names the notebook, the cell and the error in one
    line."""


def execute(notebook: Path, output: Path, parameters: dict[str, Any] | None = None):
    """Run a notebook with values for its ``parameters`` cell; writes the executed notebook and an
    HTML page of it.

    Unlike papermill's own command line, an unknown parameter is an error (``ConfigError``). A
    failing cell raises ``NotebookError``; the notebook up to there is kept at ``output``.
    """
    import papermill  # slow to import, so not at the top
    from traitlets.config import Config

    from qlstm.workflow.kernel_client import KernelClient

    notebook, output, parameters = Path(notebook), Path(output), parameters or {}
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ConfigError(f"{notebook.name}: {unknown('parameter', name, known)}")
    output.parent.mkdir(parents=True, exist_ok=True)
    # a socket path of its own for each kernel: kernels that start side by side would race for ports
    with tempfile.TemporaryDirectory(prefix="qlstm") as sockets:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters,
                cwd=str(notebook.parent),
                progress_bar=False,
                coalesce_streams=True,
                config=Config(
                    {
                        "KernelManager": {"transport": "ipc", "ip": f"{sockets}/k",
                                          "client_factory": KernelClient}
                    }
                ),
            )
        except papermill.PapermillExecutionError as error:
            message = " ".join(str(error.evalue).split())
            raise NotebookError(
                f"{notebook.name}, cell {error.cell_index}: {error.ename}: {message}") from None
    to_html(output)


def to_html(notebook: Path):
    """Write a readable page of an executed ``notebook`` beside it; it loads nothing from a
    network."""
    from qlstm.report import pages  # not needed to train, as its packages are not

    title, body = pages.notebook_cells(notebook)
    page = pages.render("base.html.jinja", title=title, body=body)
    notebook.with_suffix(".html").write_text(page, encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """``python -m qlstm notebook NOTEBOOK OUTPUT [name=value ...]``, values in JSON; ``arguments``:
    instead of these."""
    parser = argparse.ArgumentParser(
        prog="python -m qlstm notebook", description=execute.__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "parameters", nargs="*", metavar="name=value", help="values in JSON, or plain text")
    options = parser.parse_args(arguments)
    try:
        execute(options.notebook, options.output, dict(_parse(text) for text in options.parameters))
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
