"""Where data lies, and how a file is written so that it is whole."""

import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder that the package is in: the checkout, if there is one."""
ROOT = CHECKOUT if (CHECKOUT / "notebooks").is_dir() else Path.cwd()
"""The checkout; for a package installed without one, the folder it was started in."""
MATERIALS = ["models/*.safetensors", "models/*.json", "records/*.json"]
"""What the lessons read, in folders beside them."""


def python_path() -> str:
    """What ``PYTHONPATH`` is for the processes that are started: the checkout first, then what the
    user has there."""
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(ROOT), *(path for path in others if path not in ("", str(ROOT)))])


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


def pages() -> list[Path]:
    """The notebooks beside the lessons that have no exercises: the start, the glossary, and what
    stands between two lessons (``02b_...``)."""
    return [path for path in files(ROOT / "notebooks" / "learn", "*.ipynb")
            if re.fullmatch(r"START|glossary|\d\d[a-z]_\w+", path.stem)]


def content(path: Path) -> bytes:
    """What a file contains, for a digest: the same whichever line ends git has given it.

    Args:
        path: the file.
    """
    return path.read_bytes().replace(b"\r\n", b"\n")


def writable(path: Path) -> Path:
    """The file that a write to ``path`` is to replace or make: the end of links. Raises
    ``OSError`` for what is no file: a device, a pipe, a folder."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # nothing yet, or a link to nothing yet
        return Path(os.path.realpath(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, where a file is to be written", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a device or pipe, where a file is to be written", str(path))
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "a file that is read-only", str(path))
    return Path(os.path.realpath(path))


def write_atomically(path: Path, content: bytes):
    """Write a file so that it is there whole or not at all, also after a crash or on a full disk.

    A process killed meanwhile leaves ``.<name>.<letters>.tmp`` behind, which the next one to train
    there removes. The file's permissions are those that it has, else the user's umask's.

    Args:
        path: the file; one that is there already is replaced, of a link the one that it leads to.
        content: what it is to contain.
    """
    target = writable(path)
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "xb") as file:
            with suppress(OSError):  # nothing to keep, or no permissions on this file system
                shutil.copymode(target, temporary)
            file.write(content)
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError as error:  # some file systems have none, and write as they see fit
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                    raise
        os.replace(temporary, target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
