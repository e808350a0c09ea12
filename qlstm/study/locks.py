"""One process a run, also where several machines share the folder.

A lock of the operating system ends with its process, however that ends, but many network file
systems keep it to one machine, and some have none. So the holder also names itself in ``.owner``
and touches that file every :data:`BEAT` seconds; who has no lock to tell waits as long as it is
touched. Its age is taken by the file system's own clock, so that the machines' clocks need not
agree. Should two work on one run all the same, both write the same content, whole or not at all.

``directory``: the folder of the run that the lock is for.
"""

import contextlib
import os
import platform
import tempfile
import threading
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BEAT, STALE = 20.0, 120.0
"""Seconds between two touches; seconds without one after which a holder of whom no lock tells
counts as dead."""


class Lock:
    """A lock of the operating system on a file, which it makes; it ends with this process.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, None

    def acquire(self, *, wait: bool = False) -> bool | None:
        """Take the lock.

        Args:
            wait: whether to wait for it.

        Returns:
            False if another holds it; None if the file system has no locks.
        """
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        taken = _flock(self.file, "LOCK_EX", wait)
        if taken is False:
            self.release()
        return taken

    def release(self):
        """Give the lock back, if it is taken."""
        if self.file is not None:
            os.close(self.file)
        self.file = None


def _flock(file: int, kind: str, wait: bool = False) -> bool | None:
    """Lock an open file, as :meth:`Lock.acquire` does."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, getattr(fcntl, kind) | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # ENOSYS, ENOLCK, EOPNOTSUPP, EINVAL: each file system has its own word for it
        return None
    return True


@contextlib.contextmanager
def exclusive(directory: Path, report=print):
    """Wait until no other process works in a folder, and keep others out while the context lasts.

    What a killed process left half-written there is removed.

    Args:
        directory: the folder, which has to exist.
        report: called with a line for people where it has to wait; it raises so as not to.
    """
    lock, told = Lock(directory / ".lock"), False
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


def _acquired(lock: Lock, directory: Path) -> bool:
    """Take the lock, unless a process of this or of another machine works in the folder."""
    taken = lock.acquire()
    if taken is False:
        return False
    if _owned(directory, locks=taken is not None):
        lock.release()
        return False
    return True


def _beat(owner: Path, over: threading.Event):
    """Touch the owner's file until it is over."""
    while not over.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(owner)


def held(directory: Path) -> bool:
    """Whether a live process, here or on another machine, works in the folder. Writes nothing."""
    try:
        file = os.open(directory / ".lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:  # of another user, who keeps it to himself
        return _owned(directory, locks=False)
    try:
        free = _flock(file, "LOCK_SH")
    finally:
        os.close(file)
    return free is False or _owned(directory, locks=free is not None)


def _owned(directory: Path, locks: bool) -> bool:
    """Whether a process has touched ``.owner`` lately: one of another machine, as of this one the
    lock itself tells; or where there are no ``locks`` any that is alive."""
    try:
        touched = (directory / ".owner").stat().st_mtime
    except OSError:  # there is none
        return False
    try:
        host, number = (directory / ".owner").read_text(encoding="utf-8").split()
        process = int(number)
    except (OSError, ValueError):  # kept from this user, just being written, or just removed
        host, process = "", 0
    if host == platform.node() and (locks or not _alive(process)):
        return False
    return _now(directory) - touched < STALE


def _alive(process: int) -> bool:
    """Whether there is a process of this number, other than this one, on this machine."""
    if not 0 < process < 2**31:
        return False
    if fcntl is None:  # Windows: os.kill would send Ctrl-C; its touches alone tell
        return process != os.getpid()
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return process != os.getpid()


def _now(directory: Path) -> float:
    """The time by the clock of the folder's file system."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_mtime
    except OSError:  # read-only or full
        return time.time()
