"""One process a run, also where several machines share the folder.

The holder's claim is a file, ``.lease``, that it touches every :data:`BEAT` seconds. A holder of
this machine that is dead is known by its process id, at once; one of another machine counts as dead
when a process that waits has seen no touch for :data:`STALE` seconds by a clock of its own, so that
the machines' clocks need not agree. Should two work on one run all the same, both write the same
content, whole or not at all.

``directory``: the folder of the run that the claim is for.
"""

import contextlib
import os
import tempfile
import time
from pathlib import Path

import filelock

BEAT, STALE = 20.0, 120.0
"""Seconds between two touches; seconds without one after which a holder on another machine counts
as dead."""


def _lease(directory: Path) -> filelock.SoftFileLease:
    return filelock.SoftFileLease(
        directory / ".lease", lease_duration=STALE, heartbeat_interval=BEAT, poll_interval=0.2)


@contextlib.contextmanager
def exclusive(directory: Path, report=print):
    """Wait until no other process works in a folder, and keep others out while the context lasts.

    What a killed process left half-written there is removed.

    Args:
        directory: the folder, which has to exist.
        report: called with a line for people where it has to wait.
    """
    lease = _lease(directory)
    try:
        lease.acquire(timeout=0)
    except filelock.Timeout:
        report(f"{directory.name}: another process trains this run; waiting for it to end")
        lease.acquire()
    try:
        for unfinished in directory.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
        yield
    finally:
        lease.release()


def held(directory: Path) -> bool:
    """Whether a live process, here or on another machine, works in the folder.

    As this does not wait for a touch, the age of the last one counts, by the clock of the folder's
    file system.
    """
    with contextlib.suppress(FileNotFoundError):
        touched = (directory / ".lease").stat().st_mtime
        try:
            with _lease(directory).acquire(timeout=0):
                return False
        except filelock.Timeout:
            return _now(directory) - touched < STALE
    return False


def _now(directory: Path) -> float:
    """The time by the clock of the folder's file system."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # read-only or full
        return time.time()
