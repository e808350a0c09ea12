"""The processes of a part: each with a time limit, several on one GPU at once by NVIDIA's MPS."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from qlstm.data.storage import ROOT
from qlstm.workflow.pool import GRACE
from qlstm.workflow.run import UNFINISHED

USES_GPU = [sys.executable, "-c", "import torch; torch.ones(1, device='cuda').sum().item()"]
"""A process that fails where it cannot use the GPU."""


def attempt(command: list[str], seconds: float, log: Path, environment: dict[str, str]) -> str:
    """Run a command with its children, which end with it, and show what it prints.

    Args:
        command: Its words.
        seconds: After so many it is stopped: asked to end, and killed if it does not.
        log: The file for what it prints.
        environment: Its variables.

    Returns:
        "done", "failed (exit status 1)", or "stopped at its limit of 60 s".
    """
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace",
                               process_group=0)
    overdue = threading.Event()

    def stop():
        overdue.set()
        _end(process)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        with process.stdout, log.open("w", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                file.flush()
                print(line, end="", flush=True)
        process.wait()
    finally:
        timer.cancel()
        _end(process)
    if process.returncode in (0, UNFINISHED):
        return "done"
    return (f"stopped at its limit of {seconds:.0f} s" if overdue.is_set()
            else f"failed (exit status {process.returncode})")


def _end(process: subprocess.Popen):
    """Ask a process and its children to end, then kill what is left of them."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


@contextlib.contextmanager
def multi_process_service(wanted: bool = True) -> Iterator[dict[str, str]]:
    """NVIDIA's MPS, where it is installed and works: processes then use the GPU at the same time
    and not in turn. Yields the variables that tell them of it, none where it is not ``wanted``."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or not wanted:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="qlstm-mps-", ignore_cleanup_errors=True) as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        try:
            works = _quiet([control, "-d"], variables) and _quiet(USES_GPU, variables)
            print("== MPS: processes use the GPU at once" if works
                  else "== MPS does not work here; processes take turns", flush=True)
            yield variables if works else {}
        finally:
            _quiet([control], variables, b"quit\n")


def _quiet(command: list[str], variables: dict[str, str], words: bytes = b"") -> bool:
    """Whether a command succeeds; a daemon that it leaves keeps nothing of ours open."""
    try:
        return subprocess.run(command, env=os.environ | variables, input=words, timeout=3 * GRACE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except subprocess.TimeoutExpired:
        return False
