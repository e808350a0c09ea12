"""The machine's cores and GPUs: how many runs work side by side, and which GPU a run takes.

Imports no torch, which would take seconds and might take a GPU before one is chosen.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qlstm.study import records
from qlstm.study.locks import Lock

GPU_SLOTS = 4
"""Runs that share one GPU where nothing else is said (``JOBS``) and ``make bench`` has not measured
it."""
ENOUGH = 0.9
"""Of the most steps a second that were measured: more runs side by side only wait for one
another."""


def visible() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; empty without
    one."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = _listed("index") if names is None else names.split(",")
    return [name.strip() for name in names if name.strip() not in ("", "-1", "NoDevFiles")]


def _listed(field: str) -> list[str]:
    """What the driver says of each GPU of the machine; empty without one."""
    listing = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        return subprocess.run(
            listing, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def slots() -> int:
    """Runs that share one GPU: the fewest with :data:`ENOUGH` of the steps, as ``make bench``
    measured; else :data:`GPU_SLOTS`."""
    for name in _listed("name")[:1]:
        for _, record in records.benchmarks():
            rates = {row["processes"]: row["steps_per_s"] for row in record.get("side_by_side", [])}
            if record["environment"]["device"] == name and rates:
                return min(
                    count for count, rate in rates.items() if rate >= ENOUGH * max(rates.values()))
    return GPU_SLOTS


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side() -> int:
    """Runs that train at once on this machine: :func:`slots` a GPU, else one a core, at most 8."""
    return len(visible()) * slots() or min(cores(), 8)


def threads(jobs: int) -> dict[str, str]:
    """The variables of the environment that share the cores out among ``jobs`` processes, which
    would otherwise each start a thread a core."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(max(1, cores() // jobs)))


@contextlib.contextmanager
def one_gpu() -> Iterator[str | None]:
    """Let this process see only the GPU that the fewest runs on this machine use, until it leaves
    the context.

    Yields its name, None where there is at most one to choose from. Call it before CUDA is
    initialized. A taken slot is a locked file in the machine's temporary folder; the lock ends with
    the process, however that ends.
    """
    names, before = visible(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if len(names) < 2:
        yield None
        return
    user = os.getuid() if hasattr(os, "getuid") else ""  # on Windows the folder is the user's own
    folder = Path(tempfile.gettempdir()) / f"qlstm-gpus-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    choice = Lock(folder / "choice")
    choice.acquire(wait=True)  # one process at a time counts and takes
    try:
        free = {name: _free_slots(folder, name) for name in names}
        name = min(names, key=lambda name: free[name][0])
        slot = Lock(folder / free[name][1])
        slot.acquire()
    finally:
        choice.release()
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    try:
        yield name
    finally:
        slot.release()
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _free_slots(folder: Path, name: str) -> tuple[int, str]:
    """How many slots of a GPU are taken, and the name of one that is not."""
    taken, files = 0, sorted(path.name for path in folder.glob(f"{name}.*"))
    free = f"{name}.{len(files)}"
    for file in files:
        lock = Lock(folder / file)
        if lock.acquire() is False:
            taken += 1
        else:
            lock.release()
            free = file
    return taken, free
