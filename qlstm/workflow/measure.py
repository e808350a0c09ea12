"""What ``make bench`` times: passes of a layer, and whole training steps, beside
``torch.nn.LSTM``; and the roofs of the machine. What evaluation takes is
:mod:`qlstm.workflow.inference`'s.

What is timed is a function without arguments that does it once and returns the seconds of each of
its passes by name. Such functions take turns, so that a busy machine slows all alike; each figure
is a median. Those of one shape are timed in a process of their own.

Here ``device`` is torch's; ``config`` is the run whose step is timed.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from qlstm.errors import ConfigError
from qlstm.lstm import QuantLSTM
from qlstm.recurrence import choose_backend
from qlstm.recurrence.linear import multiply
from qlstm.study import cuda_graphs
from qlstm.study.config import ExperimentConfig
from qlstm.study.sizes import input_size
from qlstm.study.training import build_model, make_optimizer, make_step

SHAPES: dict[str, dict[str, Any]] = {
    "quick": dict(dataset="war_and_peace", hidden_size=128),
    "character": dict(dataset="war_and_peace"), "word, d = 300": dict(dataset="penn_word"),
    "word, d = 650": dict(dataset="penn_word", hidden_size=650),
    "sequential MNIST": dict(dataset="mnist"), "Text8": dict(dataset="text8")}
"""The paper's shapes, as settings of profile ``paper``, and that of profile ``quick``'s
characters."""
SCALING = {"d": [64, 128, 256, 512, 1024], "N": [8, 32, 128], "T": [25, 100, 400]}
"""What the scaling part varies, one at a time, around :data:`CENTRE`."""
CENTRE = {"T": 50, "N": 64, "d": 256}
WARM_UP = 1.0
"""Seconds that each rival runs alone before it is timed."""


class Rival(NamedTuple):
    """What is timed: a recurrence, and the names of a quantizer and a normalizer."""

    backend: str
    quantizer: str
    normalizer: str


PEER = Rival("torch.nn.LSTM", "full_precision", "none")
"""What all others are compared with."""


@dataclass(frozen=True)
class Row:
    """A measurement, as a row of the record.

    Attributes:
        part: ``layer``, ``step``, ``scaling`` or ``inference``.
        shape: One of :data:`SHAPES`; of the scaling part what is varied, ``"d = 64"``; one of
            :data:`qlstm.workflow.inference.SHAPES`.
        T: Time steps.
        N: Samples of a minibatch.
        d: Hidden units.
        D: Inputs of a layer; integers stand for one-hot vectors of that length.
        task: The task of the shape.
        backend: The recurrence, or ``torch.nn.LSTM``; one of
            :data:`qlstm.workflow.inference.FORMS`.
        quantizer: The name of the quantizer.
        normalizer: The name of the normalizer.
        pass_: ``forward``, ``forward + backward`` or ``training step``; ``sequence`` or ``step by
            step`` of the inference part; the column ``pass``.
        ms: The median time, in milliseconds; of the inference part for each time step.
        memory_mb: The memory that it takes beside what was there, in MB; None on a CPU, but for the
            inference part.
        ratio: ``ms`` as a multiple of that of ``torch.nn.LSTM`` in the same turns, both of float32.
        threads: The threads of the inference part; None: those of the record.
        file_bytes: The size of the file that the network was loaded from (inference part only).
    """

    part: str
    shape: str
    T: int
    N: int
    d: int
    D: int
    task: str
    backend: str
    quantizer: str
    normalizer: str
    pass_: str
    ms: float
    memory_mb: float | None
    ratio: float
    threads: int | None = None
    file_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The values by column."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


class PlainLSTM(nn.LSTM):
    """torch.nn.LSTM in place of a model's layer; takes integers for one-hot vectors too, as
    ``QuantLSTM`` does."""

    stochastic = False
    """Nothing is drawn."""
    as_hx = as_parts = staticmethod(lambda state: state)

    def forward(self, x, state=None, *, trace=None):
        """The output and the new state.

        Args:
            x: Vectors (T, N, D), or integers (T, N).
            state: The hidden and the cell state, each (layers, N, d); ``None`` for zeros.
            trace: Not used.
        """
        if state is not None:
            state = tuple(part.contiguous() for part in state)  # cuDNN takes no others
        if not x.is_floating_point():
            x = F.one_hot(x, self.input_size).float()
        return super().forward(x, state)

    def quantizes(self, name):
        """Whether the weight ``name`` is quantized: none is."""
        return False

    def set_second_moment(self, second_moment):
        """Nothing here is loss-aware and needs a ``second_moment``."""


def rivals(backends: Sequence[str], quantizers: Sequence[str], normalizers: Sequence[str],
           device: torch.device) -> Iterator[Rival]:
    """All combinations of ``backends``, ``quantizers`` and ``normalizers``, each by name, that work
    on the ``device``."""
    for rival in itertools.starmap(Rival, itertools.product(backends, quantizers, normalizers)):
        layer = QuantLSTM(2, 2, normalizer=rival.normalizer, max_steps=1).to(device)
        try:
            choose_backend(rival.backend, torch.zeros(1, 2, 2, device=device), layer.weight_hh_l0,
                           [layer.norm_ih_l0, layer.norm_hh_l0, layer.norm_c_l0])
        except ConfigError:
            continue
        yield rival


def layer_passes(layer: nn.Module, x: torch.Tensor) -> Callable[[], dict[str, float]]:
    """What times a forward pass of a layer, and a forward and a backward one; on a GPU both are
    CUDA graphs.

    Args:
        layer: A recurrent layer, on the device of its input.
        x: The input, of shape (T, N, D).
    """
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


def training_step(config: ExperimentConfig, device: torch.device,
                  backend: str | None) -> Callable[[], dict[str, float]]:
    """What times one update of a run's model, with loss, clipping and optimizer.

    Args:
        config, device: As in the module's legend.
        backend: The recurrence of its layer; ``None`` puts ``torch.nn.LSTM`` in the layer's place.
    """
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
        inputs = torch.rand(*shape, 1, device=device)
        targets = torch.randint(10, shape[1:], device=device)
    else:
        symbols = model.decoder.out_features
        inputs, targets = torch.randint(symbols, (2, *shape), device=device).unbind(0)
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
    """The roofs of a roofline, as fast as the ``device`` was at its best in some ``repeats``.

    Returns:
        ``gflop_per_s`` of a float32 product of two square matrices, ``gb_per_s`` of a copy.
    """
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


class Timing(NamedTuple):
    """The median milliseconds of a pass of a rival, and the memory in MB (None on a CPU)."""

    rival: Rival
    pass_: str
    ms: float
    memory_mb: float | None


def in_turn(timed: dict[Rival, Callable[[], dict[str, float]]], repeats: int,
            device: torch.device) -> list[Timing]:
    """Time rivals in turn.

    Each first runs alone for :data:`WARM_UP` seconds, until a graph of it is made at least: on two
    cores it took ``torch.nn.LSTM`` about a second to come down to a quarter of its first times.
    Memory is that of a call before, as a replay allocates none.

    Args:
        timed: What does a rival's passes once.
        repeats: The number of turns.
        device: Where they run.
    """
    seconds: dict[Rival, dict[str, list[float]]] = {rival: {} for rival in timed}
    memory: dict[Rival, float | None] = dict.fromkeys(timed)
    for rival, once in timed.items():
        started = time.perf_counter()
        once()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            once()
            memory[rival] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        for _ in range(cuda_graphs.WARM_UP):
            once()
        while time.perf_counter() < started + WARM_UP:
            once()
    for _ in range(repeats):
        for rival, once in timed.items():
            once()  # as a training step does, the one that counts follows one of its kind
            for name, value in once().items():
                seconds[rival].setdefault(name, []).append(value)
    return [Timing(rival, name, 1000 * statistics.median(values), memory[rival])
            for rival, passes in seconds.items() for name, values in passes.items()]


def rows(part: str, shape: str, backends: Sequence[str], quantizers: Sequence[str],
         normalizers: Sequence[str], repeats: int, device: torch.device) -> list[Row]:
    """Time all rivals at one shape.

    Args:
        part, shape: As in :class:`Row`.
        backends, quantizers, normalizers: The names of those that are timed.
        repeats: How often each is timed.
        device: Where they run.
    """
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32
    settings = SHAPES[shape] if shape in SHAPES else dict(dataset="war_and_peace")
    config = ExperimentConfig(profile="paper", **settings)
    sizes = {"T": config.steps, "N": config.batch_size, "d": config.hidden_size}
    if part == "scaling":
        name, _, value = shape.partition(" = ")
        sizes = CENTRE | {name: int(value)}
    inputs = input_size(config, vocabulary_size=87)
    timed = {}
    for rival in [PEER, *rivals(backends, quantizers, normalizers, device)]:
        if part == "step":
            own = ExperimentConfig(profile="paper", quantizer=rival.quantizer,
                                   normalizer=rival.normalizer, **settings)
            timed[rival] = training_step(own, device, None if rival == PEER else rival.backend)
        else:
            x = torch.randn(sizes["T"], sizes["N"], inputs, device=device)
            layer = nn.LSTM(inputs, sizes["d"]) if rival == PEER else QuantLSTM(
                inputs, sizes["d"], quantizer=rival.quantizer, normalizer=rival.normalizer,
                max_steps=sizes["T"], backend=rival.backend)
            timed[rival] = layer_passes(layer.to(device), x)
    timings = in_turn(timed, repeats, device)
    peers = {timing.pass_: timing.ms for timing in timings if timing.rival == PEER}
    return [Row(part, shape, **sizes, D=inputs, task=config.task, **timing.rival._asdict(),
                pass_=timing.pass_, ms=timing.ms, memory_mb=timing.memory_mb,
                ratio=timing.ms / peers[timing.pass_])
            for timing in timings]
