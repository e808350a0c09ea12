"""``make bench``: time the layer and the whole training step beside ``torch.nn.LSTM``, as ratios
taken in one run.

Needs torch, numpy and safetensors (and triton, where there is a GPU): ``python -m qlstm bench`` on
a bare machine. What is timed takes turns, so that a busy machine slows all alike; each figure is a
median. Writes ``reports/bench/<machine>.json`` after each shape; called again with other parts or
shapes, on the same machine with the same code, it adds to it.

Here ``device`` is torch's; ``normalizers`` and ``quantizers`` are names; ``config`` is the run
whose step is timed; ``timed`` holds what is timed, ``repeats`` times each; ``part`` is one of
:data:`PARTS`; ``x`` is an input (T, N, D); ``options`` and ``arguments`` are those of the command
line, or of a ``function``.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError, first_line, unknown
from qlstm.layer import QuantLSTM
from qlstm.normalizers import NORMALIZERS
from qlstm.recurrence import BACKENDS, choose_backend
from qlstm.recurrence.linear import multiply
from qlstm.study import cuda_graphs, machine
from qlstm.study.config import ExperimentConfig
from qlstm.study.environment import describe_environment
from qlstm.study.records import reports
from qlstm.study.sizes import input_size
from qlstm.study.training import build_model, make_optimizer, make_step

SHAPES: dict[str, dict] = {
    "quick": dict(dataset="war_and_peace", hidden_size=128),
    "character": dict(dataset="war_and_peace"), "word, d = 300": dict(dataset="penn_word"),
    "word, d = 650": dict(dataset="penn_word", hidden_size=650),
    "sequential MNIST": dict(dataset="mnist"), "Text8": dict(dataset="text8")}
"""The paper's shapes, as settings of profile ``paper``, and that of profile ``quick``'s
characters."""
GPU_ONLY = ["Text8"]
"""A minute a step and 10 GB on two cores."""
SCALING = {"d": [64, 128, 256, 512, 1024], "N": [8, 32, 128], "T": [25, 100, 400]}
"""What the scaling part varies, one at a time, around :data:`CENTRE`."""
CENTRE = {"T": 50, "N": 64, "d": 256}
SIDE_BY_SIDE = [1, 2, 4, 8]
"""Processes that train at once on one GPU; on a CPU each has cores of its own, so not more than
there are."""
SIDE_BY_SIDE_SECONDS = 5.0
PARTS = ["layer", "step", "scaling", "side by side"]
"""Done in this order."""
WARM_UP = 1.0
"""Seconds that each rival runs alone before it is timed."""


class PlainLSTM(nn.LSTM):
    """torch.nn.LSTM in place of a model's layer: integers stand for one-hot vectors, as in
    ``QuantLSTM``."""

    def forward(self, x, state=None, *, trace=None):
        """Output and state, as ``torch.nn.LSTM``; there is no ``trace``."""
        state = (
            None if state is None else tuple(part.contiguous() for part in state)
        )  # cuDNN takes no others
        return super().forward(
            x if x.is_floating_point() else F.one_hot(x, self.input_size).float(), state)

    def quantizes(self, name):
        """No weight, whatever its ``name``."""
        return False

    def set_second_moment(self, second_moment):
        """Nothing here is loss-aware and needs a ``second_moment``."""


def rivals(
    normalizers: list[str], quantizers: list[str], device: torch.device
) -> Iterator[tuple[str, str, str]]:
    """Backend, quantizer and normalizer of what is timed; backends that this machine lacks are left
    out."""
    for backend, quantizer, normalizer in itertools.product(BACKENDS, quantizers, normalizers):
        layer = QuantLSTM(2, 2, normalizer=normalizer, max_steps=1).to(device)
        try:
            choose_backend(backend, torch.zeros(1, 2, 8, device=device),
                           [layer.norm_ih_l0, layer.norm_hh_l0, layer.norm_c_l0])
        except ConfigError:
            continue
        yield backend, quantizer, normalizer


def layer_passes(layer: nn.Module, x: torch.Tensor) -> Callable[[], dict[str, float]]:
    """Times a forward pass of a layer, and a forward and a backward one, in seconds; on a GPU as
    graphs."""
    recorder = cuda_graphs.make_recorder(x.device)

    def both():
        layer.zero_grad()
        layer(x)[0].sum().backward()

    passes = {"forward": cuda_graphs.recorded(lambda: layer(x), recorder),
              "forward + backward": cuda_graphs.recorded(both, recorder)}

    def once():
        seconds = {}
        for name, work in passes.items():
            started = _now(x.device)
            work()
            seconds[name] = _now(x.device) - started
        return seconds

    return once


def training_step(
    config: ExperimentConfig, device: torch.device, backend: str | None
) -> Callable[[], dict[str, float]]:
    """Times one update of a run's model, with loss, clipping and optimizer; ``backend`` None: with
    ``torch.nn.LSTM``."""
    model = build_model(config)
    if backend is None:
        rnn = model.rnn
        model.rnn = PlainLSTM(rnn.input_size, rnn.hidden_size, rnn.num_layers,
                              dropout=rnn.dropout if rnn.num_layers > 1 else 0.0)
    else:
        model.rnn.backend = backend
    model = model.to(device).train()
    step = make_step(config, model, make_optimizer(config, model))
    shape = (config.steps, config.batch_size)
    if config.task == "sequential_image":
        inputs, targets = (torch.rand(*shape, 1, device=device),
                           torch.randint(10, shape[1:], device=device))
    else:
        inputs, targets = torch.randint(
            model.decoder.out_features, (2, *shape), device=device).unbind(0)
    state = None

    def once():
        nonlocal state
        started = _now(device)
        _, state = step(inputs, targets, state)
        return {"training step": _now(device) - started}

    return once


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peaks(device: torch.device, repeats: int) -> dict[str, float]:
    """The roofs of a roofline: Gflop/s of a float32 product of two square matrices, GB/s of a copy;
    the best of ``repeats``."""
    n = 8192 if device.type == "cuda" else 2048
    a, b, copy = torch.randn(3, n, n, device=device).unbind(0)
    fastest = {}
    for name, once in (("product", lambda: multiply(a, b)), ("copy", lambda: copy.copy_(a))):
        seconds = []
        for _ in range(repeats + 2):
            started = _now(device)
            once()
            seconds.append(_now(device) - started)
        fastest[name] = min(seconds)
    # a copy reads and writes 4 bytes a number
    return {"gflop_per_s": 2e-9 * n**3 / fastest["product"],
            "gb_per_s": 8e-9 * n**2 / fastest["copy"]}


def in_turn(
    timed: dict[tuple, Callable[[], dict[str, float]]], repeats: int, device: torch.device
) -> list[dict]:
    """Median milliseconds of each, and the peak memory in MB on a GPU.

    Each first runs alone for :data:`WARM_UP` seconds, until a graph of it is made at least: on two
    cores it took ``torch.nn.LSTM`` about a second to come down to a quarter of its first times.
    Memory is that of a call before, as a replay allocates none.
    """
    seconds: dict[tuple, dict[str, list[float]]] = {key: {} for key in timed}
    memory: dict[tuple, float | None] = dict.fromkeys(timed)
    for key, once in timed.items():
        started = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            once()
            memory[key] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        for _ in range(cuda_graphs.WARM_UP):
            once()
        while time.perf_counter() < started + WARM_UP:
            once()
    for _ in range(repeats):
        for key, once in timed.items():
            once()  # as a training step does, the one that counts follows one of its kind
            for name, value in once().items():
                seconds[key].setdefault(name, []).append(value)
    return [
        {"key": key, "pass": name, "ms": 1000 * statistics.median(values), "memory_mb": memory[key]}
        for key, passes in seconds.items() for name, values in passes.items()]


def in_own_process(function: Callable, *arguments):
    """``function`` of ``arguments`` in a new process: what one shape leaves in the allocator made
    others up to twice as slow."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def steps_per_second(
        config: ExperimentConfig, device: torch.device, threads: int, least: float, ready) -> float:
    """Of one process, with its ``threads``, among those that train at once, for ``least`` seconds.

    ``ready``: a barrier that all wait at before.
    """
    torch.set_num_threads(threads)
    try:
        once = training_step(config, device, "auto")
        for _ in range(cuda_graphs.WARM_UP + 2):
            once()
        ready.wait()
    except BaseException:
        ready.abort()  # or the others wait forever
        raise
    started, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < least:
        once()
        steps += 1
    return steps / seconds


def side_by_side(options, device: torch.device) -> list[dict]:
    """Steps a second, all processes together, by how many train at once: the first of the shapes,
    with layer normalization.

    Ends where memory does.
    """
    shape = (options.shapes or ["character"])[0]
    config = ExperimentConfig(
        profile="paper", quantizer=options.quantizers[0], normalizer="layer", **SHAPES[shape])
    rows, spawn = [], multiprocessing.get_context("spawn")
    for count in [n for n in SIDE_BY_SIDE if device.type == "cuda" or n <= machine.cores()]:
        with (spawn.Manager() as manager,
              concurrent.futures.ProcessPoolExecutor(count, spawn) as pool):
            ready = manager.Barrier(count)
            given = config, device, max(1, machine.cores() // count), SIDE_BY_SIDE_SECONDS, ready
            working = [pool.submit(steps_per_second, *given) for _ in range(count)]
            try:
                rates = [future.result() for future in working]
            except RuntimeError as error:  # no memory for so many
                print(f"{count} side by side: {first_line(error)}")
                break
        rows.append({"shape": shape, "processes": count, "steps_per_s": sum(rates)})
        print(f"{count} side by side: {sum(rates):.1f} steps/s together")
    return rows


PEER = ("torch.nn.LSTM", "full_precision", "none")


def measure(part: str, shape: str, options, device: torch.device) -> list[dict]:
    """The rows of one shape: what, where, milliseconds, ratio to ``torch.nn.LSTM``'s in the same
    run, both of float32."""
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    settings = SHAPES[shape] if shape in SHAPES else dict(dataset="war_and_peace")
    config = ExperimentConfig(profile="paper", **settings)
    sizes = {"T": config.steps, "N": config.batch_size, "d": config.hidden_size}
    if part == "scaling":
        sizes = CENTRE | {shape.split(" = ")[0]: int(shape.split(" = ")[1])}
    timed = {}
    inputs = input_size(config, vocabulary_size=87)
    for backend, quantizer, normalizer in [
            PEER, *rivals(options.normalizers, options.quantizers, device)]:
        plain = backend == PEER[0]
        if part == "step":
            own = dict(profile="paper", quantizer=quantizer, normalizer=normalizer, **settings)
            once = training_step(ExperimentConfig(**own), device, None if plain else backend)
        else:
            x = torch.randn(sizes["T"], sizes["N"], inputs, device=device)
            if plain:
                layer = nn.LSTM(inputs, sizes["d"])
            else:
                layer = QuantLSTM(inputs, sizes["d"], quantizer=quantizer, normalizer=normalizer,
                                  max_steps=sizes["T"], backend=backend)
            once = layer_passes(layer.to(device), x)
        timed[backend, quantizer, normalizer] = once
    rows = in_turn(timed, options.repeats, device)
    peers = {row["pass"]: row["ms"] for row in rows if row["key"] == PEER}
    return [
        {"part": part, "shape": shape, **sizes, "D": inputs, "task": config.task,
         **dict(zip(("backend", "quantizer", "normalizer"), row.pop("key"), strict=True)), **row,
         "ratio": row["ms"] / peers[row["pass"]]}
        for row in rows
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print a table a shape and write all rows, with machine and versions, as a record."""
    names = lambda text: [name.strip() for name in text.split(";") if name.strip()]  # noqa: E731
    parser = argparse.ArgumentParser(prog="python -m qlstm bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--parts", type=names, default=PARTS, help='separated by ";": ' + "; ".join(PARTS))
    parser.add_argument(
        "--shapes", type=names, default=None, help='separated by ";": ' + "; ".join(SHAPES))
    parser.add_argument("--normalizers", type=names, default=list(NORMALIZERS))
    parser.add_argument("--quantizers", type=names, default=["binary_connect"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    for what, given, possible in (("part", options.parts, PARTS),
                                  ("shape", options.shapes or [], SHAPES)):
        for name in given:
            if name not in possible:
                print(f"error: {unknown(what, name, possible)}", file=sys.stderr)
                return 2
    shapes = options.shapes or [
        name for name in SHAPES if device.type == "cuda" or name not in GPU_ONLY]
    environment = describe_environment(device, "several")
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    machine = re.sub(r"[^\w.]+", "_", f"{environment['device']}-{environment['threads']}_threads")
    path = reports() / "bench" / f"{machine}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = _earlier(path, environment) or {
        "environment": environment, "repeats": options.repeats,
        "peaks": in_own_process(peaks, device, options.repeats), "rows": [], "side_by_side": []}
    varied = [f"{name} = {value}" for name, values in SCALING.items() for value in values]
    parts = {"layer": shapes, "step": shapes, "scaling": varied}
    work = [(part, shape) for part, its_shapes in parts.items() if part in options.parts
            for shape in its_shapes]
    failed = 0
    for part, shape in work:
        try:
            found = in_own_process(measure, part, shape, options, device)
        except RuntimeError as error:  # a GPU's memory is too small, say
            print(f"error: {part}, {shape}: {first_line(error)}", file=sys.stderr)
            failed += 1
            continue
        _print(found)
        record["rows"] = [
            row for row in record["rows"] if (row["part"], row["shape"]) != (part, shape)] + found
        write_atomically(path, json.dumps(record, indent=1).encode())
    if "side by side" in options.parts:
        record["side_by_side"] = side_by_side(options, device)
        write_atomically(path, json.dumps(record, indent=1).encode())
    print(f"written: {path}")
    return 1 if failed else 0


def _earlier(path, environment) -> dict | None:
    """The record that this one goes on with, where a machine is lent for minutes at a time: of the
    same machine and code."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads(path.read_bytes())
        if record["environment"] == environment:
            return record
    return None


def _print(rows: list[dict]):
    first = rows[0]
    print(f"\n{first['part']}, {first['shape']} (T {first['T']}, N {first['N']}, d {first['d']})")
    for row in rows:
        memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:10.0f} MB"
        print(
            f"  {row['backend']:14}{row['quantizer']:16}{row['normalizer']:16}{row['pass']:20}{row['ms']:9.2f} ms"
            f"{row['ratio']:8.2f} x nn.LSTM{memory}"
        )
