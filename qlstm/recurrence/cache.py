"""The folder where backends keep what they have compiled or measured on this machine."""

import contextlib
import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """``$XDG_CACHE_HOME/qlstm``, by default in ``~/.cache``; it need not be there. Raises
    ``OSError`` where nothing says what the home is."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qlstm"
    except RuntimeError as error:
        raise FileNotFoundError(f"no folder to keep it in: {error}") from None


@contextlib.contextmanager
def replacing(path: Path):
    """Write a file so that it is there whole or not at all, also for other processes.

    Args:
        path: the file. What the ``with`` statement is given is another path, to be written to,
            which takes the place of ``path`` at the end; not if something is raised.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        temporary = Path(beside) / path.name
        yield temporary
        os.replace(temporary, path)
