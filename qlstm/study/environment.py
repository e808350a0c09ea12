"""The environment of a run, as its record keeps it: commit, versions, machine."""

import os
import platform
import re
import subprocess
import sys
from typing import Any

import numpy
import torch

from qlstm.data.storage import CHECKOUT
from qlstm.recurrence import extension


def describe_environment(device: torch.device, backend: str) -> dict[str, Any]:
    """Say where and how a run is made.

    Args:
        device: the device that it runs on.
        backend: the implementation of the recurrence that it uses.

    Returns:
        Plain values by name. ``made_by`` is "notebook", or "command" in a plain Python process
        (``python -m qlstm run --no-notebook``); ``commit`` is None outside a git checkout.
    """
    on_gpu = device.type == "cuda"
    return {"made_by": "notebook" if "ipykernel" in sys.modules else "command",
            "commit": _commit(), "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "system": platform.platform(),
            "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
            "threads": torch.get_num_threads(), "backend": backend,
            "matmul_precision": torch.get_float32_matmul_precision()}


def _commit() -> str | None:
    """That of the checkout, whatever the environment says of others, and whoever owns it; a
    repository that it merely lies in is another."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", CHECKOUT, *words], env=others,
            capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        above = git("rev-parse", "--show-cdup")
        return None if above else git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.SubprocessError):
        return None


def _processor() -> str:
    """The model of the CPU, as Linux names it, else what Python says."""
    named = re.search(r"^model name\s*:(.*)", extension.processor(), re.M)
    return named[1].strip() if named else platform.processor() or platform.machine()
