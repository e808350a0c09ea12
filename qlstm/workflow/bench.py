"""``python -m qlstm bench``: time the layer, the whole training step and the use of a trained
network beside ``torch.nn.LSTM``.

Needs torch, numpy and safetensors (and triton, where there is a GPU), so a bare machine will do.
Writes ``reports/bench/<machine>.json`` after each shape; called again with other parts or shapes,
on the same machine with the same code, it adds to it.

Here ``record`` is the content of that file: ``environment`` (machine and versions), ``repeats``,
``peaks``, ``rows`` (:class:`~qlstm.workflow.measure.Row`) and ``side_by_side``.
"""

import argparse
import contextlib
import json
import multiprocessing
import re
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from qlstm.data.storage import write_atomically
from qlstm.errors import first_line, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS
from qlstm.recurrence import BACKENDS
from qlstm.recurrence.extension import instructions
from qlstm.study import kinds, record_schema
from qlstm.study.config import ExperimentConfig
from qlstm.study.environment import describe_environment
from qlstm.study.records import reports
from qlstm.workflow import inference, measure
from qlstm.workflow.command_line import titles
from qlstm.workflow.throughput import side_by_side

PARTS = ["layer", "step", "scaling", "inference", "side by side"]
"""What is timed, in this order: a layer's passes and a training step at each shape; the layer at
other sizes; evaluation with 1- and 2-bit weights, on a CPU; training steps of several processes at
once."""
GPU_ONLY = ["Text8"]
"""Shapes that take a minute a step and 10 GB on two cores."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the ``arguments``, the words that follow ``python -m qlstm bench``."""
    parser = argparse.ArgumentParser(
        prog="python -m qlstm bench",
        description="Time the layer and the training step beside torch.nn.LSTM.")
    parser.add_argument("--repeats", type=int, default=5, help="each figure is a median of so many")
    parser.add_argument(
        "--parts", type=titles, default=PARTS, help='separated by ";": ' + "; ".join(PARTS))
    parser.add_argument(
        "--shapes", type=titles, help='separated by ";": ' + "; ".join(_shapes()))
    on_gpu = torch.cuda.is_available()
    backends = [name for name in BACKENDS if on_gpu or name != "cudnn"]  # that is the peer there
    for name, default in (("normalizers", list(NORMALIZERS)), ("backends", backends)):
        parser.add_argument(f"--{name}", type=titles, default=default,
                            help='separated by ";"; default: ' + "; ".join(default))
    parser.add_argument("--quantizers", type=titles, help='separated by ";"; default: '
                        "binary_connect; of part inference also ter_connect")
    parser.add_argument("--threads", type=int, default=1, help="of part inference; default: 1")
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Time what is asked for, print a table a shape, and write all rows as a record.

    Args:
        arguments: The words that follow ``python -m qlstm bench``.

    Returns:
        The exit status: 1 if a shape could not be timed, 2 for a name that is unknown.
    """
    options = parse(arguments)
    for what, given, possible in (("part", options.parts, PARTS),
                                  ("shape", options.shapes or [], _shapes()),
                                  ("backend", options.backends, BACKENDS),
                                  ("quantizer", options.quantizers or [], QUANTIZERS),
                                  ("normalizer", options.normalizers, NORMALIZERS)):
        for name in given:
            if name not in possible:
                print(f"error: {unknown(what, name, possible)}", file=sys.stderr)
                return 2
    device = torch.device(options.device)
    environment = describe_environment(device, "several")
    print(", ".join(f"{key} {value}" for key, value in environment.items()),
          f"products with codes: {instructions()}", sep="\n")
    machine = re.sub(r"[^\w.]+", "_", f"{environment['device']}-{environment['threads']}_threads")
    path = reports() / "bench" / f"{machine}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = _earlier(path, environment) or {
        "environment": environment, "repeats": options.repeats,
        "peaks": in_own_process(measure.peaks, device, options.repeats),
        "rows": [], "side_by_side": []}
    failed = 0
    for part, shape in _work(options, device):
        try:
            rows = _rows(part, shape, options, device)
        except RuntimeError as error:  # a GPU's memory is too small, say
            print(f"error: {part}, {shape}: {first_line(error)}", file=sys.stderr)
            failed = 1
            continue
        _print(rows)
        others = [row for row in record["rows"] if (row["part"], row["shape"]) != (part, shape)]
        record["rows"] = others + [row.as_dict() for row in rows]
        _write(path, record)
    if "side by side" in options.parts:
        shape = next((name for name in options.shapes or [] if name in measure.SHAPES), "character")
        config = ExperimentConfig(profile="paper", quantizer=_quantizers(options)[0],
                                  normalizer="layer", **measure.SHAPES[shape])
        record["side_by_side"] = []
        for count, rate in side_by_side(config, device):
            record["side_by_side"].append(
                {"shape": shape, "processes": count, "steps_per_s": rate})
            _write(path, record)
    print(f"written: {path}")
    return failed


def _work(options: argparse.Namespace, device: torch.device) -> list[tuple[str, str]]:
    """The parts and shapes that are timed, each in a process of its own."""
    names = options.shapes or [
        name for name in _shapes() if device.type == "cuda" or name not in GPU_ONLY]
    shapes = [name for name in names if name in measure.SHAPES]
    varied = [f"{name} = {value}" for name, values in measure.SCALING.items() for value in values]
    used = [name for name in names if name in inference.SHAPES and device.type == "cpu"]
    parts = {"layer": shapes, "step": shapes, "scaling": varied, "inference": used}
    return [(part, shape) for part, its_shapes in parts.items() if part in options.parts
            for shape in its_shapes]


def _shapes() -> dict[str, Any]:
    """Those of the parts layer and step, and those of the part inference."""
    return measure.SHAPES | inference.SHAPES


def _quantizers(options: argparse.Namespace) -> list[str]:
    return options.quantizers or ["binary_connect"]


def _rows(part: str, shape: str, options: argparse.Namespace,
          device: torch.device) -> list[measure.Row]:
    if part == "inference":
        return inference.rows(shape, options.quantizers or inference.QUANTIZERS,
                              options.normalizers, options.repeats, options.threads, in_own_process)
    return in_own_process(measure.rows, part, shape, options.backends, _quantizers(options),
                          options.normalizers, options.repeats, device)


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """What a ``function`` of a module returns for the ``arguments``, in a new process: what one
    shape leaves in the allocator made others up to twice as slow."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _earlier(path: Path, environment: dict[str, Any]) -> dict[str, Any] | None:
    """The record that this one goes on with, where a machine is lent for minutes at a time: of the
    same machine and code."""
    with contextlib.suppress(OSError, ValueError):
        record = kinds.read_as(record_schema.BENCHMARK, path)
        if record["environment"] == environment:
            return record
    return None


def _write(path: Path, record: dict[str, Any]):
    write_atomically(path, json.dumps(record, indent=1).encode())


def _print(rows: list[measure.Row]):
    first = rows[0]
    print(f"\n{first.part}, {first.shape} (T {first.T}, N {first.N}, d {first.d})")
    for row in rows:
        memory = "" if row.memory_mb is None else f"{row.memory_mb:10.1f} MB"
        print(f"  {row.backend:14}{row.quantizer:16}{row.normalizer:16}{row.pass_:20}"
              f"{row.ms:9.3f} ms{row.ratio:8.2f} x nn.LSTM{memory}")
