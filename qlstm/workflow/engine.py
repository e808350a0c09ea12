"""Snakemake, which makes what a plan names; and the lock that keeps a second one away."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from qlstm.data.storage import ROOT, raw_data
from qlstm.study import machine
from qlstm.study.records import reports
from qlstm.workflow.command_line import Terminated


class Busy(Exception):
    """Another `make reproduce` works in the same folder."""


@contextlib.contextmanager
def sole(folder: Path) -> Iterator[int]:
    """Keep other `make reproduce` out of the folder of a profile.

    The engine inherits the open file. So the lock ends with this process and with its engine,
    however they end: while the engine of a head that was killed still works, nobody else may.
    That is why it is no lock of the package filelock, which unlocks the file for the engine too.

    Args:
        folder: The folder of the profile.

    Yields:
        The descriptor of the locked file, for :func:`engine`.

    Raises:
        Busy: Another process has the lock.
    """
    lock = os.open(folder / ".reproduce.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"another `make reproduce` works in {folder}; wait for it (make status shows "
                   "it)") from None
    else:
        yield lock
    finally:
        os.close(lock)


def engine(phase: str, target: str, folder: Path, jobs: int, lock: int,
           watch: Callable[[], object] = lambda: None, *, cluster: str = "",
           force: Sequence[str] = ()) -> int:
    """Run Snakemake until a target is made.

    Args:
        phase: The part of the Snakefile whose rules are used: ``runs``, ``notebooks`` or ``page``.
        target: The file or the rule that is to be made.
        folder: The folder of the profile, with its ``plan.json``. Snakemake works there; what it
            says is appended to ``engine.log``.
        jobs: How many jobs run side by side.
        lock: The descriptor of the locked file (:func:`sole`), of which Snakemake holds a copy.
        watch: Called every half a second meanwhile.
        cluster: The name of the cluster that gets the jobs; empty: they run on this machine.
        force: Rules whose jobs run even if Snakemake thinks that they need not.

    Returns:
        Snakemake's exit status.
    """
    command = [
        sys.executable, "-m", "snakemake", target, "--directory", str(folder),
        "--snakefile", str(ROOT / "workflow" / "Snakefile"),
        "--profile", str(ROOT / "workflow" / "profiles" / (cluster or "default")),
        "--config", f"phase={phase}",
        # here a run takes a gpu_slot; on a cluster what its profile says
        *(["--jobs", str(jobs)] if cluster
          else ["--cores", str(jobs), "--resources", f"gpu_slot={jobs}"]),
        *(["--forcerun", *force] if force else [])]
    variables = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "QLSTM_REPORTS": str(reports().resolve()),
                 "QLSTM_DATA": str(raw_data().resolve())}
    variables |= {} if cluster else machine.threads(jobs)
    with (folder / "engine.log").open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                   env=os.environ | variables, pass_fds=[lock])
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.5)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):  # Ctrl-C reaches all of these by itself
                for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.send_signal(signal.SIGINT)
            process.wait()
            raise
    return process.returncode
