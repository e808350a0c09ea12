"""What a trained network costs in use, for ``make bench``: time a step and memory, on a CPU, of 1-
and 2-bit weights beside ``torch.nn.LSTM`` in float32 and in int8.

A *form* is a network as it is used: a :class:`~qlstm.workflow.measure.Rival` whose ``backend`` is
one of :data:`FORMS`. All but ``naive`` are read from a file, as in use.

Here ``shape`` is a :class:`Shape`, ``rival`` a form, ``path`` a file that :func:`save` has written,
``quantizers`` and ``normalizers`` are names.
"""

import ctypes
import gc
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.lstm import QuantLSTM
from qlstm.packing import load_packed, save_packed
from qlstm.workflow.measure import PEER, Rival, Row, Timing, in_turn

INT8 = Rival("int8", "full_precision", "none")
"""``torch.nn.LSTM`` with weights of 8 bits, whose inputs are quantized in each call."""
FORMS = {PEER.backend: "float32", INT8.backend: "dynamic quantization of torch.nn.LSTM",
         "packed": "what load_packed returns",
         "naive": "a layer that quantizes and expands its weights in every call"}
"""The forms, as the column ``backend`` names them, and what they are."""
QUANTIZERS = ["binary_connect", "ter_connect"]
"""1 and 2 bits a weight: those that are timed unless others are asked for."""
SEQUENCE, BY_STEP = "sequence", "step by step"
"""The two passes: the sequence in one call, and, of a single sample, in a call a step, as where
each symbol depends on the answer to the one before. ``torch.nn.LSTM`` would arrange its weights
anew in each call (oneDNN), so that there ``torch.nn.LSTMCell`` stands for it."""


class Shape(NamedTuple):
    """What is computed: ``N`` samples at once, ``d`` hidden units, and ``symbols`` of which the
    inputs are one-hot vectors; None: the inputs are vectors of d numbers, as embedded words; in a
    sequence of so many ``steps``, where figures are of one."""

    N: int
    d: int
    symbols: int | None
    steps: int = 10

    @property
    def inputs(self) -> int:
        """D."""
        return self.symbols or self.d

SHAPES = {f"batch {samples}, d = {d}": Shape(samples, d, symbols, steps)
          for samples, steps in {1: 100, 64: 10}.items()
          for d, symbols in {300: None, 512: 50, 650: None, 2000: 50}.items()}
"""Words (d = 300 and 650) and characters (512 and 2000), one at a time and in minibatches."""


def rows(name: str, quantizers: Sequence[str], normalizers: Sequence[str], repeats: int,
         threads: int, alone: Callable) -> list[Row]:
    """Time all forms at one shape; at batch 1 measure their memory too.

    Args:
        name: One of :data:`SHAPES`.
        quantizers, normalizers: As in the module's legend.
        repeats: How often each is timed.
        threads: The threads that torch may use.
        alone: Calls a function with arguments in a process of its own, as
            :func:`qlstm.workflow.bench.in_own_process`.
    """
    shape = SHAPES[name]
    packed = [Rival("packed", *pair) for pair in itertools.product(quantizers, normalizers)]
    with TemporaryDirectory() as folder:
        paths = {rival: save(rival, shape, Path(folder, str(k)))
                 for k, rival in enumerate([PEER, INT8, *packed])}
        timings = alone(times, shape, paths, repeats, threads)
        memory = {rival: alone(memory_mb, shape, rival, path)
                  for rival, path in paths.items() if shape.N == 1}
        sizes = {rival: path.stat().st_size for rival, path in paths.items()}
    peers = {timing.pass_: timing.ms for timing in timings if timing.rival == PEER}
    return [Row("inference", name, shape.steps, shape.N, shape.d, shape.inputs,
                "char_lm" if shape.symbols else "word_lm", *timing.rival, timing.pass_,
                timing.ms / shape.steps, memory.get(timing.rival), timing.ms / peers[timing.pass_],
                threads, sizes.get(timing.rival))
            for timing in timings]


def save(rival: Rival, shape: Shape, path: Path) -> Path:
    """Write a network with initial weights to the ``path``, which is returned.

    Args:
        rival, shape, path: As in the module's legend.
    """
    torch.manual_seed(0)
    if rival.backend == "packed":
        layer = _layer(rival, shape).eval()
        with torch.no_grad():
            for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
                weight[weight == 0] = 1e-3  # one in 16 million is, and no bit can hold it
        save_packed(layer, path)
        return path
    lstm = nn.Sequential(nn.LSTM(shape.inputs, shape.d)).eval()
    with _int8_deprecated():
        if rival == INT8:
            lstm = torch.ao.quantization.quantize_dynamic(lstm, {nn.LSTM}, torch.qint8)
        torch.save(lstm[0], path)
    return path


def load(rival: Rival, path: Path) -> nn.Module:
    """The network of a form, in evaluation mode.

    Args:
        rival, path: As in the module's legend.
    """
    if rival.backend == "packed":
        return load_packed(path)[0]
    with _int8_deprecated():
        return torch.load(path, weights_only=False)  # a file of this module's own


def _layer(rival: Rival, shape: Shape, backend: str = "auto") -> QuantLSTM:
    return QuantLSTM(shape.inputs, shape.d, quantizer=rival.quantizer, normalizer=rival.normalizer,
                     max_steps=shape.steps, backend=backend)


@contextmanager
def _int8_deprecated() -> Iterator[None]:
    """torch still has int8 networks, and warns that it will not have them forever."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.ao.quantization is deprecated")
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        yield


def inputs(rival: Rival, shape: Shape) -> Tensor:
    """A sequence for a form: vectors (T, N, D); or integers (T, N) for packed and naive networks,
    which other forms get as one-hot vectors.

    Args:
        rival, shape: As in the module's legend.
    """
    generator = torch.Generator().manual_seed(0)
    if shape.symbols is None:
        return torch.randn(shape.steps, shape.N, shape.d, generator=generator)
    x = torch.randint(shape.symbols, (shape.steps, shape.N), generator=generator)
    return F.one_hot(x, shape.symbols).float() if rival in (PEER, INT8) else x


def times(shape: Shape, paths: dict[Rival, Path], repeats: int, threads: int) -> list[Timing]:
    """The times of the forms of files, and of naive layers of the same quantizers and normalizers.

    Args:
        shape: As in the module's legend.
        paths: The file of each form.
        repeats: How often each is timed.
        threads: The threads that torch may use.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        timed = {rival: passes(load(rival, path), inputs(rival, shape))
                 for rival, path in paths.items()}
        packed = [rival for rival in paths if rival.backend == "packed"]
        for rival in {rival.quantizer: rival for rival in reversed(packed)}.values():
            naive = rival._replace(backend="naive")  # with one normalizer: it takes long
            layer = _layer(naive, shape, "naive").eval()
            timed[naive] = passes(layer, inputs(naive, shape), by_step=False)
        return in_turn(timed, repeats, torch.device("cpu"))
    finally:
        torch.set_num_threads(before)


def passes(layer: nn.Module, x: Tensor, by_step: bool = True) -> Callable[[], dict[str, float]]:
    """What times a sequence in one call, and in a call a step that goes on from the last state.

    Args:
        layer: A network in evaluation mode; its ``stream`` takes the single steps if it has one.
        x: The sequence.
        by_step: Whether single steps are timed too.
    """
    plain = type(layer) is nn.LSTM
    cell = nn.LSTMCell(layer.input_size, layer.hidden_size) if plain else None

    def in_calls():
        if hasattr(layer, "stream"):
            step = layer.stream(x.shape[1])
            for inputs in x.unbind():
                step(inputs)
            return
        state = None
        for inputs in x.split(1):
            if plain:
                state = cell(inputs[0], state)
            else:
                _, state = layer(inputs, state)

    work = {SEQUENCE: lambda: layer(x)} | (
        {BY_STEP: in_calls} if by_step and x.shape[1] == 1 else {})

    @torch.no_grad()
    def once():
        seconds = {}
        for name, do in work.items():
            started = time.perf_counter()
            do()
            seconds[name] = time.perf_counter() - started
        return seconds

    return once


def memory_mb(shape: Shape, rival: Rival, path: Path) -> float | None:
    """The memory of this process alone that a network holds, once it is loaded and has computed a
    sequence, in MB; None where the system does not tell.

    What loading it needed and left free is first given back to the system: where nobody asks for
    that, glibc keeps up to some tens of MB for what the process allocates next.

    Args:
        shape, rival, path: As in the module's legend.
    """
    with TemporaryDirectory() as folder:  # what the first network loads is not a network's
        tiny = shape._replace(d=16)
        small = load(rival, save(rival, tiny, Path(folder, "tiny")))
        x, large = inputs(rival, tiny), inputs(rival, shape)
        with torch.no_grad():
            small(x)
            before = _private_mb()
            network = load(rival, path)
            network(large)
    after = _private_mb()
    return None if before is None or after is None else max(0.0, after - before)


def _private_mb() -> float | None:
    smaps = Path("/proc/self/smaps_rollup")
    if not smaps.exists():
        return None
    gc.collect()
    if give_back := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        give_back(0)
    lines = smaps.read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024
