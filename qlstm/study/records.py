"""Records: one JSON file a run, everything tables and figures are made from.

``root``: the folder of all profiles, ``reports/`` where it is None. ``path``: a file.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qlstm.data.storage import ROOT, write_atomically
from qlstm.study.recipe import recipe

SCHEMA = 4
REQUIRED = ["schema", "run_id", "config", "config_sha256", "data", "metric", "test_metric",
            "valid_metric", "best_epoch", "diverged", "size_kb", "packed_bytes", "seconds",
            "epochs", "traces", "recipe", "environment", "checksum"]
VARYING = ("seconds", "environment", "checksum")
"""Fields that differ between two runs of one configuration on one machine; all others are equal bit
for bit."""


class RecordError(ValueError):
    """A record that is missing, damaged, edited, of another run or of another schema."""


def reports() -> Path:
    """The folder of runs, tables and figures: ``$QLSTM_REPORTS``, or ``reports`` of the
    checkout."""
    return Path(os.environ.get("QLSTM_REPORTS") or ROOT / "reports")


def run_directory(config, root: Path | None = None) -> Path:
    """``reports/<profile>/runs/<run id>`` of a configuration ``config``."""
    return (root or reports()) / config.profile / "runs" / config.run_id


def checksum(record: dict[str, Any]) -> str:
    """sha256 of the record without its checksum."""
    return sha256({key: value for key, value in record.items() if key != "checksum"})


def sha256(content: dict[str, Any]) -> str:
    """sha256 of ``content``, plain values such as a run's settings, whatever their order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def outdated(record: dict[str, Any], config: dict[str, Any], text: str | None) -> str:
    """Why the run of a ``config`` has to be repeated although it has a record; empty if it has not
    to.

    ``text``: sha256 of the data set as it is now, None where it is not at hand (then it is taken
    for the same).
    """
    now = {"settings": (record["config"], config),
           "text": (record["data"]["sha256"], text or record["data"]["sha256"]),
           "recipe": (record["recipe"], recipe(config))}
    return ", ".join(f"other {what}" for what, (then, is_now) in now.items() if then != is_now)


def save(record: dict[str, Any], path: Path):
    """Write a record with its checksum, a line for each field."""
    record = record | {"checksum": checksum(record)}
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in record.items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def load(path: Path) -> dict[str, Any]:
    """Read a record. Raises ``RecordError``, naming the file, if it is damaged, edited or of
    another schema."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path}: no readable record ({error}); delete it and the run is repeated") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema in range(1, SCHEMA):
        raise RecordError(
            f"{path}: of an older version of qlstm (schema {schema}, not {SCHEMA}); delete it to repeat the run"
        )
    missing = [key for key in REQUIRED if not isinstance(record, dict) or key not in record]
    if missing or schema != SCHEMA:
        raise RecordError(
            f"{path}: not a record of schema {SCHEMA} (missing: {', '.join(missing) or 'nothing'})")
    if record["checksum"] != checksum(record):
        raise RecordError(
            f"{path}: the content does not match its checksum: edited or damaged; delete it to repeat the run"
        )
    if record["config_sha256"] != sha256(record["config"]):
        raise RecordError(
            f"{path}: the settings do not match their hash; delete it to repeat the run")
    return record


def load_of(run_id: str, profile: str, root: Path | None = None) -> dict[str, Any]:
    """The record of the run ``run_id`` of a profile. Raises ``RecordError`` also for a record of
    another run in its folder."""
    path = (root or reports()) / profile / "runs" / run_id / "record.json"
    record = load(path)
    if record["run_id"] != run_id:
        raise RecordError(
            f"{path}: the record of another run, {record['run_id']}; move it to the folder of that name"
        )
    return record


def load_all(profile: str, root: Path | None = None) -> list[dict[str, Any]]:
    """All records of a ``profile``, in the order of their names. Raises ``RecordError`` if one is
    damaged or foreign."""
    found = sorted(((root or reports()) / profile / "runs").glob("*/record.json"))
    return [load_of(path.parent.name, profile, root) for path in found]


def benchmarks(directory: Path | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The records of ``make bench`` in a ``directory`` (None: ``reports/bench``) with their paths.

    Raises ``RecordError``, naming the file, for one that is damaged.
    """
    for path in sorted((directory or reports() / "bench").glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            record["environment"]["device"], record["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}: no record of make bench ({error}); delete it, or let make bench write it anew"
            ) from error
        yield path, record


def environment(device, backend: str) -> dict[str, Any]:
    """Where and how a run was made: commit, versions, machine. ``device``: the ``torch.device`` it
    ran on, with which ``backend``.

    ``made_by``: "notebook", or "command" for a run in a plain Python process (``python -m qlstm run
    --no-notebook``).
    """
    import numpy
    import torch

    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(
            git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"made_by": "notebook" if "ipykernel" in sys.modules else "command", "commit": commit,
            "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__, "system": platform.platform(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "threads": torch.get_num_threads(), "backend": backend,
            "matmul_precision": torch.get_float32_matmul_precision()}


def _processor() -> str:
    """The model of the CPU, as Linux names it, else what Python says."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
