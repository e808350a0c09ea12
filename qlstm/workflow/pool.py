"""Processes side by side: runs that are trained, and notebooks that are executed.

Each is on a leash (:func:`~qlstm.workflow.command_line.follow`): it ends when this process stops
it, and when this process is gone, however it went. So nothing trains on unnoticed, and no second
``make reproduce`` meets the processes of a first one that was killed.

Here ``commands`` are the words of each process's command by its name, and ``status`` is how a
process ended: its exit status, or minus the number of the signal that killed it. A process whose
kernel was killed says so by an exit status of 128 and that number, and counts as killed.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from qlstm.data.storage import raw_data
from qlstm.study import machine
from qlstm.study.records import reports
from qlstm.workflow.command_line import LEASH

QLSTM = [sys.executable, "-m", "qlstm"]
"""The command whose ``run`` trains a run, and whose ``notebook`` executes a notebook."""
NO_MEMORY = 71
"""Exit status (EX_OSERR): the memory was too small for this process beside the others."""
GRACE = 10
"""Seconds between asking a process to end and killing it."""


@dataclass(frozen=True)
class Outcome:
    """How the processes ended.

    Attributes:
        failed: The status of each that failed, by its name.
        working: Those that were stopped, as the time was over.
        waiting: Those that were not started any more.
    """

    failed: dict[str, int]
    working: list[str]
    waiting: list[str]


def say_at_once(text: str):
    """Print the ``text`` as a line, also into a pipe without delay."""
    print(text, flush=True)


def side_by_side(commands: dict[str, list[str]], jobs: int, *, over: float = float("inf"),
                 watch: Callable[[], object] = lambda: None,
                 ended: Callable[[str, int], object] = lambda name, status: None,
                 say: Callable[[str], object] = say_at_once, logs: Path | None = None,
                 threads: Callable[[int], dict[str, str]] = machine.threads,
                 grace: float = GRACE) -> Outcome:
    """Work through the commands, and stop what still works when the time is over.

    A process that is killed is started once more. One that has too little memory beside the others
    (:data:`NO_MEMORY`) is started again beside fewer. If one fails the others go on.

    Args:
        commands: As in the module's legend, in the order in which they are started.
        jobs: How many work at once.
        over: When the time is over, by ``time.monotonic``.
        watch: Called some times a second meanwhile.
        ended: Called with the name and the status of each that is not started again.
        say: Called with a line for people when one was killed or is started again.
        logs: The folder of the files ``<name>.log`` that get what the processes print; None: they
            print where this process does.
        threads: The variables that share the cores out among so many processes.
        grace: Seconds that they are given to end when they are stopped.
    """
    waiting, killed, failed = list(commands), set(), {}
    working: dict[str, subprocess.Popen] = {}
    beside: dict[str, int] = {}  # how many worked at once with one, itself included
    try:
        while (waiting or working) and time.monotonic() < over:
            while waiting and len(working) < jobs:
                name = waiting.pop(0)
                log = None if logs is None else log_of(logs, name)
                working[name], beside[name] = _start(commands[name], threads(jobs), log), 0
            beside |= {name: max(beside[name], len(working)) for name in working}
            time.sleep(0.1)
            watch()
            for name in [name for name, child in working.items() if child.poll() is not None]:
                status = working.pop(name).returncode
                status = 128 - status if 128 < status < 256 else status  # Windows has others
                if status == NO_MEMORY and beside[name] > 1:
                    jobs = max(1, min(jobs, beside[name] - 1))
                    again = f"had too little memory and goes on with {jobs} side by side"
                elif status < 0 and name not in killed:
                    killed.add(name)
                    again = f"was killed (signal {-status}) and is started once more"
                else:
                    if status < 0:
                        say(f"{name} was killed again (signal {-status})")
                    failed |= {name: status} if status else {}
                    ended(name, status)
                    continue
                say(f"{name} {again}")
                waiting.insert(0, name)
    finally:
        _stop(working.values(), grace)
    return Outcome(failed, list(working), waiting)


def _start(command: list[str], variables: dict[str, str], log: Path | None) -> subprocess.Popen:
    """Start a process on a leash. What the environment says goes before the ``variables``; folders
    are made absolute, as notebooks run in one of their own."""
    fixed = {LEASH: "1", "QLSTM_REPORTS": str(reports().resolve()),
             "QLSTM_DATA": str(raw_data().resolve())}
    with contextlib.ExitStack() as opened:
        output = {}
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            output = {"stdout": opened.enter_context(log.open("wb")), "stderr": subprocess.STDOUT}
            fixed["PYTHONIOENCODING"] = "utf-8"  # as logs are read
        return subprocess.Popen(
            command, env=variables | os.environ | fixed, stdin=subprocess.PIPE, **output)


def log_of(logs: Path, name: str) -> Path:
    """The file in the folder ``logs`` for what the process of a ``name`` prints."""
    return logs / f"{Path(name).name}.log"


def cause(logs: Path, name: str, status: int) -> str:
    """Why a process failed, in a line: the last error in its log, else its status.

    Args:
        logs: The folder of the logs.
        name: The name of the process.
        status: As in the module's legend.
    """
    with contextlib.suppress(OSError):
        text = log_of(logs, name).read_text(encoding="utf-8", errors="replace")
        for line in reversed(text.splitlines()):
            if line.startswith("error: "):
                return line.removeprefix("error: ").removeprefix(f"{name}: ")
    return f"its process {how_ended(status)}"


def how_ended(status: int) -> str:
    """How a process ended, for people.

    Args:
        status: As in the module's legend.

    >>> how_ended(1), how_ended(-15)
    ('ended with status 1', 'was killed (signal 15)')
    """
    if status >= 0:
        return f"ended with status {status}"
    want = "; if nobody did that, the memory was too small" if status == -signal.SIGKILL else ""
    return f"was killed (signal {-status}){want}"


def _stop(children: Collection[subprocess.Popen], grace: float):
    """Ask all to end, and kill those that have not after a while."""
    for child in children:
        child.stdin.close()
    for child in children:
        try:
            child.wait(grace)
        except subprocess.TimeoutExpired:
            child.kill()
