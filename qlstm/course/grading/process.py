"""A submission's process as the grader sees it: it is asked, with time limits, and its end is seen
to."""

import contextlib
import json
import os
import shutil
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from qlstm.course.exercises.answers import ToldError
from qlstm.course.grading.notebooks import GradingError
from qlstm.course.handouts import copy_materials
from qlstm.course.inside import wire
from qlstm.course.inside.sandbox import PROCESSES
from qlstm.data.storage import CHECKOUT, python_path, raw_data
from qlstm.recurrence import cache

STARTING, STOPPING, CALLING = 120, 10, 60
"""Seconds that a process may take to begin, a cell to end when it is told to, and a function of the
student's to return."""
WATCHING = 0.3
"""Seconds between two looks at what a submission takes."""
PROTECTIONS = ("separate", "confine")
"""Those of :mod:`qlstm.course.inside.sandbox` that are tried."""
FEW = 8
"""So many processes may share memory that is not counted for each of them."""
DISK = 2 * 2**30
"""Bytes that a submission may leave on the disk."""
_KEPT = ("PATH", "LANG", "LC_", "TZ", "OMP_", "MKL_", "LD_LIBRARY_PATH", "DYLD_", "VIRTUAL_ENV",
         "CONDA_PREFIX", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True)
class Limits:
    """What a submission may take."""

    memory: float = 4
    """GiB, of each of its processes and of all together."""
    seconds: float = 300
    """Of each cell."""

    @property
    def total(self) -> float:
        """Seconds of the whole notebook."""
        return 4 * self.seconds + STARTING


class Ended(ToldError):
    """The process has ended; the message says how, as it goes on after "it"."""


class Process:
    """A submission's process in a folder of its own. As a context it ends, with all that it has
    started, when it is left.

    Args:
        folder: An empty one, for the copy of what the lessons read and for all that is written.
        limits: What it may take.
    """

    def __init__(self, folder: Path, limits: Limits):
        self.folder, self.limits = folder, limits
        self.reason = ""
        self._place = folder / "lesson"
        copy_materials(self._place)
        self._seen: set[psutil.Process] = set()
        self._count = 0
        self._left = threading.Event()
        self._worker = ThreadPoolExecutor(1)
        self._waiting: Future | None = None
        settings = {"memory": int(limits.memory * 2**30), "folder": str(folder),
                    "readable": _readable(), "protections": PROTECTIONS}
        with (folder / "errors").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "qlstm.course.inside", json.dumps(settings)],
                cwd=self._place, env=_environment(folder), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __enter__(self) -> "Process":
        try:
            self.protections, _ = self._receive(STARTING)
        except (Ended, NotInTime) as error:
            self.end()
            said = (self.folder / "errors").read_text(errors="replace").strip() or str(error)
            raise GradingError(f"its process did not start: {said.splitlines()[-1]}") from None
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def run(self, source: str) -> str | None:
        """Run a cell and say what error it raised.

        Args:
            source: Its text.

        Raises:
            Ended: The process has ended with it.
        """
        seconds = self.limits.seconds
        message, _, late = self._ask({"run": source}, seconds)
        return f"took longer than {seconds:g} s" if late else _text(message.get("error"))

    def answers(self, exercise: str, names: list[str], source: str) -> dict[str, Any]:
        """What variables hold, functions as such that are called there.

        Args:
            exercise: The number of the exercise whose check the cell calls.
            names: Their names.
            source: The text of that cell.

        Raises:
            Ended: The process has ended with it.
        """
        message, body, _ = self._ask(
            {"answers": names, "exercise": exercise, "source": source}, CALLING)
        found = message.get("answers")
        if not isinstance(found, dict):
            return {}
        return {name: self._decode(found[name], body) for name in names if name in found}

    def end(self, reason: str = ""):
        """End it and all that it has started.

        Args:
            reason: Why, where that was not to be.
        """
        self.reason = self.reason or reason
        self._left.set()
        if self._process.poll() is None:
            self._kill(signal.SIGTERM if sys.platform == "linux" else None)
            try:
                self._process.wait(STOPPING)
            except subprocess.TimeoutExpired:
                self._kill()
        for process in self._seen:  # where no system ends them with the first one
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()
        self._worker.shutdown(wait=False, cancel_futures=True)
        if self._waiting is None or wait([self._waiting], STOPPING).done:
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()

    def _kill(self, ends=None):
        """On Linux the first process is told to end, and ends the others."""
        with contextlib.suppress(OSError):
            if ends:
                self._process.send_signal(ends)
            elif os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _ask(self, message, seconds, parts=()) -> tuple[dict[str, Any], bytes, bool]:
        """Send a message; the reply to it, and whether that took longer and was interrupted."""
        if self.reason:
            raise Ended(self.reason)
        self._waiting = self._worker.submit(
            lambda: (wire.send(self._process.stdin, message, list(parts)),
                     wire.receive(self._process.stdout))[1])
        try:
            return *self._receive(seconds), False
        except NotInTime:
            if os.name == "posix":
                with contextlib.suppress(OSError):
                    os.killpg(self._process.pid, signal.SIGINT)
        try:
            return *self._receive(STOPPING), True
        except NotInTime:
            raise self._ended(f"took longer than {seconds:g} s and could not be stopped") from None

    def _receive(self, seconds):
        self._waiting = self._waiting or self._worker.submit(wire.receive, self._process.stdout)
        try:
            reply = self._waiting.result(seconds)
        except NotInTime:
            raise
        except ValueError:
            raise self._ended("sent what cannot be read") from None
        except (EOFError, OSError):
            raise self._ended("ended the process") from None
        self._waiting = None
        return reply

    def _ended(self, reason):
        self.end(reason)
        return Ended(self.reason)

    def _decode(self, value, body):
        try:
            return wire.decode(value, body, self._function)
        except ValueError:
            raise self._ended("sent what cannot be read") from None

    def _function(self, number: int) -> Callable:
        def function(*arguments):
            encoder = wire.Encoder()
            encoded = [encoder.encode(argument) for argument in arguments]
            seconds = min(CALLING, self.limits.seconds)
            message, body, late = self._ask(
                {"call": number, "arguments": encoded}, seconds, encoder.parts)
            if "error" in message or "result" not in message:
                told = _text(message.get("error")) or "raised an error"
                raise ToldError(told.replace("was interrupted", f"took longer than {seconds:g} s")
                                if late else told)
            return self._decode(message["result"], body)

        return function

    def _watch(self):
        end = threading.Timer(self.limits.total, self.end, [f"took longer than "
                              f"{self.limits.total:g} s in all"])
        end.daemon = True
        end.start()
        while not self._left.wait(WATCHING):
            try:
                reason = self._too_much()
            except psutil.Error:
                continue
            except Exception as error:  # what cannot be measured is not let on
                reason = f"left what cannot be measured ({type(error).__name__})"
            if reason:
                self.end(reason)
        end.cancel()

    def _too_much(self):
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._seen.update(processes)
        grown, self._count = len(processes) > self._count, len(processes)
        limit = self.limits.memory * 2**30
        if self._count > PROCESSES:
            return f"started more than {PROCESSES} processes"
        on_disk, in_memory = _unnamed(processes)
        largest = max((_memory([process], "rss") for process in processes), default=0)
        if in_memory + largest > limit or (not grown and _memory(processes, "rss") > limit and (
                self._count > FEW or _memory(processes, "pss") > limit)):
            return f"took more than {self.limits.memory:g} GiB of memory"
        if _size(self.folder) + on_disk > DISK:
            return f"wrote more than {DISK // 2**30} GiB"
        return ""


def _memory(processes, kind):
    """Bytes of all together: what several share is counted for each of them (``rss``), or once
    where the system says so (``pss``), which takes seconds while they multiply."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            info = process.memory_info()
            if kind == "pss":
                with contextlib.suppress(psutil.AccessDenied):  # a process can forbid it
                    info = process.memory_full_info()
            total += getattr(info, kind, info.rss)
    return total


def _size(folder):
    """The bytes below a folder, 4 KiB at least for each name; an ``OSError`` where a folder cannot
    be looked into."""
    total, places = 0, [str(folder)]
    while places:
        with (contextlib.suppress(FileNotFoundError, NotADirectoryError),
              os.scandir(places.pop()) as entries):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    total += max(4096, getattr(status, "st_blocks", status.st_size / 512) * 512)
                    if entry.is_dir(follow_symlinks=False):
                        places.append(entry.path)
    return total


def _unnamed(processes):
    """The bytes of open files without a name: of those on the disk, and of those in memory."""
    found = {}
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended, or the system has no /proc
            for name in os.listdir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    path = f"/proc/{process.pid}/fd/{name}"
                    status = os.stat(path)
                    if status.st_nlink == 0:
                        in_memory = os.readlink(path).startswith("/memfd:")
                        found[status.st_dev, status.st_ino] = in_memory, status.st_blocks * 512
    return [sum(size for in_memory, size in found.values() if in_memory is memory)
            for memory in (False, True)]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:500]


def _readable() -> list[str]:
    """What a submission's process reads: Python, its packages and this one."""
    shared = CHECKOUT, Path.cwd()
    return sorted({
        sys.prefix, sys.base_prefix, os.path.realpath(sys.executable), str(CHECKOUT / "qlstm"),
        str(raw_data()), *(path for path in sys.path if Path(path).resolve() not in shared)})


def _environment(folder: Path) -> dict[str, str]:
    """The variables of a submission's process, with folders of its own in place of the user's, and
    what the user's have that takes long to make."""
    home, temporary, kept = folder / "home", folder / "tmp", folder / "cache"
    for path in (home, temporary, kept):
        path.mkdir()
    with contextlib.suppress(OSError):
        shutil.copytree(cache.folder(), kept / "qlstm")
    with contextlib.suppress(Exception):
        import matplotlib

        for path in Path(matplotlib.get_cachedir()).glob("fontlist-*.json"):
            shutil.copy(path, kept)
    variables = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    own = {"HOME": home, "USERPROFILE": home, "TMPDIR": temporary, "TEMP": temporary,
           "TMP": temporary, "XDG_CACHE_HOME": kept, "MPLCONFIGDIR": kept,
           "IPYTHONDIR": home / "ipython"}
    return variables | {name: str(path) for name, path in own.items()} | {
        "MPLBACKEND": "agg", "PYTHONPATH": python_path(), "PYTHONUSERBASE": site.getuserbase(),
        "QLSTM_DATA": str(raw_data())}
