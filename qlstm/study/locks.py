"""One process a run, also where several machines share the folder.

A lock of the operating system ends with its process, however that ends, but many network file
systems keep it to one machine. So the holder also names itself in ``.owner`` and touches that file
every :data:`BEAT` seconds; processes of other machines wait as long as it is touched. Its age is
taken by the file system's own clock, so that the machines' clocks need not agree. Should two work
on one run all the same, both write the same content, whole or not at all.

``directory``: the folder of the run that the lock is for.
"""

import contextlib
import os
import platform
import tempfile
import threading
import time
from pathlib import Path

import filelock

BEAT, STALE = 20.0, 120.0
"""Seconds between two touches; seconds without one after which a holder on another machine counts
as dead."""


@contextlib.contextmanager
def exclusive(directory: Path, report=print):
    """Wait until no other process works in a folder, and keep others out while the context lasts.

    What a killed process left half-written there is removed.

    Args:
        directory: the folder, which has to exist.
        report: called with a line for people where it has to wait.
    """
    lock, told = filelock.FileLock(directory / ".lock"), False
    while not _acquired(lock, directory):
        if not told:
            report(f"{directory.name}: another process trains this run; waiting for it to end")
            told = True
        time.sleep(0.2)
    owner, over = directory / ".owner", threading.Event()
    try:
        for unfinished in directory.glob(".*.tmp"):
            unfinished.unlink(missing_ok=True)
        owner.write_text(f"{platform.node()} {os.getpid()}\n", encoding="utf-8")
        threading.Thread(target=_beat, args=(owner, over), daemon=True).start()
        yield
    finally:
        over.set()
        owner.unlink(missing_ok=True)
        lock.release()


def _acquired(lock: filelock.FileLock, directory: Path) -> bool:
    """Take the lock, unless a process of this or of another machine works in the folder."""
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    if _owned_elsewhere(directory):
        lock.release()
        return False
    return True


def _beat(owner: Path, over: threading.Event):
    """Touch the owner's file until it is over."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(owner)


def held(directory: Path) -> bool:
    """Whether a live process, here or on another machine, works in the folder."""
    if not (directory / ".lock").exists():
        return False
    lock = filelock.FileLock(directory / ".lock")
    free = _acquired(lock, directory)
    lock.release()
    return not free


def _owned_elsewhere(directory: Path) -> bool:
    """Whether a process of another machine has touched ``.owner`` lately; of this machine the lock
    itself tells."""
    try:
        host = (directory / ".owner").read_text(encoding="utf-8").split(" ")[0]
        touched = (directory / ".owner").stat().st_mtime
    except OSError:
        return False
    return host != platform.node() and _now(directory) - touched < STALE


def _now(directory: Path) -> float:
    """The time by the clock of the folder's file system."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # read-only or full
        return time.time()
