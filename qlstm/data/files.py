"""Files of data sets: put in place by hand, from a mirror or from the network; checked before they
are used."""

import functools
import hashlib
import io
import os
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from qlstm.data.storage import raw_data, writable, write_atomically
from qlstm.errors import LineError, first_line, needs

NETWORK_TIMEOUT = 20.0
"""Seconds that an address may stay silent; each address is tried once."""


class DataError(LineError):
    """A data set that cannot be had as it should be; one line that says why and what to do."""


@dataclass(frozen=True)
class File:
    """A file of a data set, as it must be.

    Attributes:
        name: what it is called in ``data/raw`` and in a mirror.
        size: its bytes, unpacked.
        digest: of its unpacked content, "algorithm:hex"; checked whenever it is loaded.
        folder: the folder of a mirror that it may lie in.
        urls: its addresses, tried in order.
        prefix_of: the larger file that it is cut from where it is not to be had by itself.
    """

    name: str
    size: int
    digest: str
    folder: str
    urls: tuple[str, ...] = ()
    prefix_of: "File | None" = None


def obtain(file: File) -> tuple[bytes, str]:
    """Get a file of a data set: from ``data/raw``, else from the mirror, else from the network.

    Args:
        file: what is wanted.

    Returns:
        Its unpacked and checked content, and the path or address that it came from.

    Raises:
        DataError: it is nowhere to be had, damaged or altered.
    """
    mirror = _mirror()
    for folder in (raw_data(), mirror):
        for place in _places(file) if isinstance(folder, Path) else ():
            if os.path.isfile(path := folder / place):
                return _checked(file, path), str(path)
    # a mirror replaces the network
    urls = file.urls if mirror is None else ()
    if isinstance(mirror, str):
        urls = tuple(f"{mirror}/{place}" for place in _places(file))
    try:
        return _download(file, urls)
    except DataError:
        if file.prefix_of is None:
            raise
    try:
        content, source = obtain(file.prefix_of)
    except DataError as error:
        place = raw_data() / file.name
        raise DataError(f"there is no {place}, nor can it be cut from the whole: {error}") from None
    return _verified(file, content[: file.size]), f"the first {file.size:,} bytes of {source}"


def at_hand(file: File) -> bool:
    """Whether a ``file`` lies in ``data/raw`` or in a mirror's folder, or can be cut from one that
    does; its content is not checked."""
    folders = [folder for folder in (raw_data(), _mirror()) if isinstance(folder, Path)]
    found = any(os.path.isfile(folder / place) for folder in folders for place in _places(file))
    return found or (file.prefix_of is not None and at_hand(file.prefix_of))


def _mirror() -> Path | str | None:
    """``$QLSTM_MIRROR``: a folder, the base of http addresses, or None where it is not set."""
    mirror = os.environ.get("QLSTM_MIRROR", "")
    parts = urlsplit(mirror)
    if not mirror or parts.scheme in ("http", "https"):
        return mirror.rstrip("/") or None
    folder = Path(url2pathname(parts.path) if parts.scheme == "file" else mirror)
    if not folder.is_dir():
        raise DataError(f"QLSTM_MIRROR={mirror} is neither a folder nor an http(s) address")
    return folder


def _places(file: File) -> list[str]:
    """Where the file may lie below a mirror or ``data/raw``: in its folder or flat, plain or
    packed."""
    return [f"{folder}{file.name}{end}" for folder in (f"{file.folder}/", "")
            for end in ("", ".gz", ".zip")]


def read_bytes(path: Path) -> bytes:
    """The content of the file at ``path``. Raises ``DataError`` that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _checked(file: File, path: Path) -> bytes:
    packed = read_bytes(path)
    try:
        return _verified(file, packed)
    except DataError as error:
        raise DataError(f"{path} is truncated or altered: {error}. Put a good copy there, "
                        "or delete it and fetch it again") from None


def _verified(file: File, packed: bytes) -> bytes:
    """The plain content. Whatever an archive holds, no more is unpacked at a time than the file
    has."""
    algorithm, _, digest = file.digest.partition(":")
    try:
        for content in _contents(file, packed):
            found = hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()
            if (len(content), found) == (file.size, digest):
                return content
    except DataError:
        raise
    except Exception as error:  # zipfile's and zlib's are of eight types
        raise DataError(f"a damaged archive ({first_line(error)})") from error
    if content[257:262] == b"ustar":
        raise DataError(f"a tar archive, which is not unpacked here: take {file.name} out of it")
    more = " or more" if len(content) > file.size and content is not packed else ""
    raise DataError(f"{len(content):,} bytes{more} with {algorithm} {found[:12]} instead of "
                    f"{file.size:,} with {digest[:12]}")


def _contents(file: File, packed: bytes) -> Iterator[bytes]:
    """What the plain content can be; packed or not shows in the first bytes, as browsers and
    servers unpack unasked. In a zip each member of the right size, wherever it lies."""
    if packed.startswith(b"\x1f\x8b"):
        yield _gunzipped(packed, file.size + 1)
    elif packed.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # the latter is an empty one's
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            fitting = [member for member in members if member.file_size == file.size
                       and member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
            if not fitting:  # other methods have no limit to what they unpack at a time
                raise DataError(f"a zip of {len(members):,} files, in which none is stored or "
                                f"deflated and has the {file.size:,} bytes of {file.name}")
            for member in fitting:
                with archive.open(member) as opened:
                    yield opened.read(file.size)
    else:
        yield packed


def _gunzipped(packed: bytes, most: int) -> bytes:
    """The content of gzip's parts, one after the other, up to ``most`` bytes; what follows them and
    is none is left out, as gzip does."""
    content = b""
    while packed.startswith(b"\x1f\x8b") and len(content) < most:
        part = zlib.decompressobj(wbits=31)
        content += part.decompress(packed, most - len(content))
        if not part.eof and len(content) < most:
            raise EOFError("it ends too early")
        packed = part.unused_data
    return content


def _download(file: File, urls: tuple[str, ...]) -> tuple[bytes, str]:
    """The content from the first address that has it, kept in ``data/raw`` under its name."""
    folder = raw_data()
    probe = folder / f".{file.name}.{uuid4().hex}.tmp"
    if not urls:
        raise _missing(file, f"not in {os.environ.get('QLSTM_MIRROR') or folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # a folder that cannot be written to shows before the download
        probe.touch()
        writable(folder / file.name)
        content, url = _fetch(file, urls)
        write_atomically(folder / file.name, content)
    except OSError as error:
        reason = f"cannot write to {folder}: {error.strerror}"
        raise DataError(f"{reason}. Name another folder in QLSTM_DATA, or make room") from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return content, url


def _fetch(file: File, urls: tuple[str, ...]) -> tuple[bytes, str]:
    """The content from the first address that has it; a host that is silent is asked once."""
    needs("reproduce", "pooch", "tqdm", error=functools.partial(_missing, file))
    import pooch

    failures, silent_hosts = [], set()
    for url in urls:
        if (host := urlsplit(url).netloc) in silent_hosts:
            failures += [f"{url} (same host)"] if url in file.urls else []
            continue
        try:
            bar = sys.stderr.isatty()
            downloader = pooch.HTTPDownloader(
                progressbar=bar, chunk_size=2**16, timeout=NETWORK_TIMEOUT)
            downloader(url, packed := io.BytesIO(), None)
            return _verified(file, packed.getvalue()), url
        except DataError as error:
            failures.append(f"{url} ({error})")
        except Exception as error:  # whatever requests, urllib3 and pooch raise
            status = getattr(getattr(error, "response", None), "status_code", None)
            failures.append(f"{url} ({f'HTTP {status}' if status else type(error).__name__})")
            if status is None:
                silent_hosts.add(host)
    raise _missing(file, ", ".join(failures))


def _missing(file: File, why: str) -> DataError:
    return DataError(
        f"cannot get {file.name} ({file.size:,} bytes): {why}. "
        f"Put it at {raw_data() / file.name} by hand, "
        "or name a folder or address that has it in QLSTM_MIRROR; "
        "the data sets python_help, python_help_words and digits need no download")
