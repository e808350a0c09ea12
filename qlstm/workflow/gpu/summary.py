"""The table that a call of ``python -m qlstm gpu`` ends with: 40 lines that tell all.

``log``: the file of what a part has printed.
"""

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qlstm.study import records
from qlstm.study.config import ExperimentConfig
from qlstm.study.records import run_directory
from qlstm.study.tasks import TASKS
from qlstm.workflow.gpu.archive import Packed

LINES = 40
SAID = 3
"""Lines of a log that are kept, its last."""


def card():
    """Print what machine it is: the card, versions, and how fast it copies and multiplies."""
    import torch

    from qlstm.study.environment import describe_environment
    from qlstm.workflow.measure import peaks

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"card: {describe_environment(device, 'several')['device']}")
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device.type == "cuda":
        import triton

        free, total = torch.cuda.mem_get_info()
        versions = f"driver {_driver()}, {versions}, triton {triton.__version__}"
        print(f"{versions}; {free / 1e9:.0f} of {total / 1e9:.0f} GB free, {os.cpu_count()} cores")
    else:
        print(f"no GPU; {versions}")
    found = peaks(device, 5)
    print(f"copies {found['gb_per_s']:,.0f} GB/s, multiplies {found['gflop_per_s']:,.0f} GFLOP/s "
          "in float32")


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.partition("\n")[0]


def card_of(log: Path) -> str | None:
    """The card that :func:`card` has found, by the ``log`` of its part."""
    try:
        found = re.search(r"^card: (.*)", log.read_text(encoding="utf-8"), re.M)
    except OSError:
        return None
    return found and found[1]


def said(log: Path) -> list[str]:
    """The lines of a ``log`` that are kept: the first failure and the command that repeats it, and
    the last lines."""
    if not log.exists():
        return []
    lines = [line.rstrip() for line in log.read_text(encoding="utf-8").splitlines()
             if line.strip() and not re.match(r"written: |  warnings\.warn\(|.*\w+Warning: ", line)]
    kept = lines[-SAID:]
    failure = next((line for line in lines if re.match(r"(FAILED|ERROR|error:|failed:) ?", line)),
                   None)
    if failure and failure not in kept:
        kept = [failure, *kept]
    if test := failure and re.match(r"FAILED (\S+)", failure):
        seed = os.environ.get("QLSTM_SEED", "0")
        kept.insert(kept.index(failure) + 1,
                    f"again: QLSTM_SEED={seed} python -m pytest -o addopts= '{test[1]}'")
    return kept


def table(state: dict[str, Any], rows: Sequence[ExperimentConfig], archives: Packed,
          seconds: float) -> str:
    """The table, of :data:`LINES` lines at most.

    Args:
        state: As in :mod:`qlstm.workflow.gpu.command`.
        rows: The runs, the most wanted first.
        archives: What was packed.
        seconds: What the call took.
    """
    lines = []
    for name, entry in state["parts"].items():
        *first, last = entry["said"] or [""]
        lines.append(f"{name:13}{entry['seconds']:5.0f} s  {entry['status']}; {last}")
        shown = first if name == "machine" else [
            line for line in first if line.startswith(("FAILED", "ERROR", "error", "failed",
                                                       "again"))]
        lines += [f"{'':21}{line}" for line in shown]
    ratios, end = list(_ratios(state["card"])), _packed(archives, seconds)
    runs = list(_rows(rows, set(state["before"])))
    room = LINES - len(lines) - len(ratios) - len(end) - 1
    if len(runs) > room:
        runs = [*runs[: room - 1], f"and {len(runs) - room + 1} rows more"]
    return "\n".join([*lines, *ratios, "rows trained here", *runs, *end])


def _ratios(card: str | None) -> Iterator[str]:
    """Times as multiples of ``torch.nn.LSTM``'s on this card: a line for each shape."""
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(records.RecordError):
        rows = [row for _, record in records.benchmarks()
                if record["environment"]["device"] == card
                for row in record["rows"] if row["part"] in ("step", "layer")
                and row["pass"] != "forward" and row["backend"] != "torch.nn.LSTM"]
    lines: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        cells = lines.setdefault((row["part"], row["shape"]), {})
        cells.setdefault(row["normalizer"], []).append(f"{row['ratio']:.2f} {row['backend']}")
    if lines:
        yield "times as multiples of torch.nn.LSTM's"
    for (part, shape), cells in lines.items():
        yield f"  {part}, {shape}: " + "; ".join(
            f"{normalizer} {', '.join(values)}" for normalizer, values in cells.items())


def _rows(rows: Sequence[ExperimentConfig], before: set[str]) -> Iterator[str]:
    """A line for each row that has been started: how far it is, and its metric."""
    for row in rows:
        folder, metric = run_directory(row), TASKS[row.task].metric.name
        if row.run_id in before or not folder.exists():
            continue
        failure = "; failed, see its error.txt" if (folder / "error.txt").exists() else ""
        try:
            if (folder / "record.json").exists():
                value, what = records.load(folder / "record.json")["test_metric"], "done, test"
            else:
                epochs = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
                value = json.loads(epochs[-1]).get("valid_metric")
                what = f"{len(epochs) - 1} of {row.epochs} epochs, validation"
        except (OSError, ValueError, LookupError):
            yield f"  {row.run_id}: no epoch so far{failure}"
        else:
            result = "diverged" if value is None else f"{metric} {value:.4g}"
            yield f"  {row.run_id}: {what} {result}{failure}"


def _packed(archives: Packed, seconds: float) -> list[str]:
    size = sum(path.stat().st_size for path in archives.files) / 1e6
    line = f"{seconds:.0f} s in all; {len(archives.files)} archives, {size:.1f} MB"
    if archives.left_out:
        line += f"; too large for them: {len(archives.left_out)} files, first " + "/".join(
            archives.left_out[0].parts[-2:])
    return [line, "go on: the same command with --from their folder"]
