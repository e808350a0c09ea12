"""What is carried away from a lent machine: files of 16 MB that together are one ``.tar.gz`` of a
part of ``reports/``.

    cat qlstm-gpu.*.tgz | tar xz -C reports

is another way to unpack them.

``root``: the folder ``reports``.
"""

import gzip
import io
import json
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qlstm.study.config import ExperimentConfig
from qlstm.study.records import run_directory
from qlstm.workflow.run import epochs_done

PIECE = 16_000_000
"""Bytes of a file at most."""
PIECES = 7
"""Files at most: with the table beside them eight."""
LARGEST = PIECE * PIECES / 1e6
"""Megabytes of all of them."""
NAME = "qlstm-gpu.{}-of-{}.tgz"
STATE = "state.json"
"""In the folder ``gpu``, beside a log of each part: what a call has done
(:mod:`~qlstm.workflow.gpu.command`)."""


class ArchiveError(ValueError):
    """Archives that are missing, incomplete or damaged."""


class Packed(NamedTuple):
    """The archive's ``files``, and the paths ``left_out`` of it, as they would be too large."""

    files: list[Path]
    left_out: list[Path]


def pack(root: Path, out: Path, megabytes: float, rows: Sequence[ExperimentConfig],
         before: Collection[str]) -> Packed:
    """Write the archives, in place of earlier ones.

    Records, histories and logs come first, then the checkpoints of what is not finished, in the
    order of the rows, at last trained networks.

    Args:
        root: As in the module's legend.
        out: The folder for the files.
        megabytes: Their size at most, of all together.
        rows: The runs that may have been trained.
        before: The names of those that were finished at the start, and stay where they are.
    """
    room, left_out = 1e6 * megabytes - 100_000, []
    for path in out.glob(".qlstm-gpu.*"):  # of a call that was killed meanwhile
        path.unlink()
    writer = _Pieces(out)
    with (writer, gzip.GzipFile(fileobj=writer, mode="wb", compresslevel=1) as stream,
          tarfile.open(fileobj=stream, mode="w|") as tar):
        for path in _wanted(root, rows, before):
            if writer.written + path.stat().st_size + 10_000 > room:  # if it does not shrink
                left_out.append(path)
                continue
            tar.add(path, path.relative_to(root))
    for path in _pieces(out):
        path.unlink()
    files = [path.rename(out / NAME.format(n, len(writer.paths)))
             for n, path in enumerate(writer.paths, 1)]
    return Packed(files, left_out)


def _wanted(root: Path, rows: Sequence[ExperimentConfig],
            before: Collection[str]) -> Iterator[Path]:
    """The files for the archive, the most wanted first."""
    yield from sorted(path for path in (root / "gpu").rglob("*")
                      if path.is_file() and not re.search(r"qlstm-gpu\.\d", path.name))
    yield from sorted((root / "bench").glob("*.json"))
    folders = [run_directory(row, root) for row in rows if row.run_id not in before]
    for names in (["record.json", "epochs.jsonl", "error.txt"], ["checkpoint.pt"],
                  ["packed.safetensors"], ["model.safetensors"]):
        yield from (folder / name for folder in folders for name in names
                    if (folder / name).exists())


class _Pieces(io.RawIOBase):
    """A stream that goes on in the next file where one is full."""

    def __init__(self, out: Path):
        self.out, self.paths, self.file, self.written = out, [], None, 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        left = memoryview(data)
        while left:
            if self.written == PIECE * len(self.paths):
                self.close_file()
                self.paths.append(self.out / f".qlstm-gpu.{len(self.paths) + 1}")
                self.file = self.paths[-1].open("wb")
            room = PIECE * len(self.paths) - self.written
            self.written += self.file.write(left[:room])
            left = left[room:]
        return len(data)

    def close_file(self):
        if self.file is not None:
            self.file.close()

    def close(self):
        self.close_file()
        super().close()


def _pieces(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir())
            if re.fullmatch(NAME.format(r"\d+", r"\d+").replace(".", r"\."), path.name)]


def unpack(folder: Path, root: Path) -> str:
    """Put what archives contain into ``root``; what is further on there stays as it is.

    Args:
        folder: Where the archives lie.
        root: As in the module's legend.

    Returns:
        A line that says how much it was.

    Raises:
        ArchiveError: One is missing or damaged; then nothing is changed.
    """
    content = io.BytesIO(_joined(folder))
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".gpu-") as name:
        found = Path(name)
        try:
            with gzip.open(content) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
                tar.extractall(found, filter="data")
                while stream.read(1 << 20):
                    pass  # to the checksum at the end
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArchiveError(f"{folder}: the archives are damaged ({error}); nothing of them "
                               "was used") from error
        runs = sorted(found.glob("*/runs/*"))
        kept = [run for run in runs if _further_on(root / run.relative_to(found), run)]
        for run in kept:
            shutil.rmtree(run)
        if (root / "gpu").exists() and _age(root / "gpu") <= _age(found / "gpu"):
            shutil.rmtree(found / "gpu", ignore_errors=True)
        shutil.copytree(found, root, dirs_exist_ok=True)
    stay = f"; {len(kept)} are as far here and stay as they are" if kept else ""
    return f"from {folder}: {len(runs)} runs{stay}"


def _further_on(here: Path, there: Path) -> bool:
    """Whether a run is done here, or at least as far as the other one."""
    return (here / "record.json").exists() or (
        not (there / "record.json").exists() and 0 < epochs_done(here) >= epochs_done(there))


def _age(gpu: Path) -> float:
    """Seconds since the state in this folder was written, by the clock of its machine."""
    try:
        return time.time() - json.loads((gpu / STATE).read_bytes())["time"]
    except (OSError, ValueError, LookupError, TypeError):
        return float("inf")


def _joined(folder: Path) -> bytes:
    """The bytes of all pieces, which have to be there."""
    pieces = _pieces(folder) if folder.is_dir() else []
    if not pieces:
        raise ArchiveError(f"--from {folder}: no archives qlstm-gpu.*.tgz in this folder")
    total = int(re.search(r"of-(\d+)", pieces[0].name)[1])
    wanted = [folder / NAME.format(n, total) for n in range(1, total + 1)]
    if sorted(pieces) != sorted(wanted):
        names = ", ".join(path.name for path in wanted)
        raise ArchiveError(f"--from {folder}: it should have exactly {names}")
    return b"".join(path.read_bytes() for path in wanted)
