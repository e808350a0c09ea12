"""Where data lies, and how a file is written so that it is whole."""

import os
import re
import tempfile
from pathlib import Path

_PARENT = Path(__file__).resolve().parents[2]

ROOT = _PARENT if (_PARENT / "notebooks").is_dir() else Path.cwd()
"""The checkout; for a package installed without one, the folder it was started in."""


def raw_data() -> Path:
    """The folder of data files, downloaded or put there: ``$QLSTM_DATA``, or ``data/raw`` of the
    checkout."""
    return Path(os.environ.get("QLSTM_DATA") or ROOT / "data" / "raw")


def files(folder: Path, *patterns: str) -> list[Path]:
    """List the files that belong in a folder, in order: not what editors, Jupyter and file browsers
    leave there, whose names or folders begin with a dot.

    Args:
        folder: where they are; it need not exist.
        patterns: of their paths in it, as for ``Path.glob``.
    """
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file()
                  and not any(part.startswith(".") for part in path.relative_to(folder).parts))


def lessons() -> list[Path]:
    """The notebooks of the lessons, in the order in which they are read; neither an untitled one
    nor a copy (``01_quantizers-Copy1``) is one."""
    return [path for path in files(ROOT / "notebooks" / "learn", "*.ipynb")
            if re.fullmatch(r"\d\d_\w+", path.stem)]


def content(path: Path) -> bytes:
    """What a file contains, for a digest: the same whichever line ends git has given it.

    Args:
        path: the file.
    """
    return path.read_bytes().replace(b"\r\n", b"\n")


def write_atomically(path: Path, content: bytes):
    """Write a file so that it is there whole or not at all, also after a crash or on a full disk.

    A process killed meanwhile leaves ``.<name>.<letters>.tmp`` behind, which the next one to train
    there removes.

    Args:
        path: the file; one that is there already is replaced.
        content: what it is to contain.
    """
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
