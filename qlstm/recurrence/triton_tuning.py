"""Tiles of the triton backend's kernels by their time on the GPU that is there.

:func:`tune` measures and stores the fastest tiles for a shape in ``triton_tiles.json``, in the
folder of :mod:`qlstm.recurrence.cache`; it is to be asked for. :func:`chosen` gives the kernels
what is stored.

``T``, ``N``, ``d``: steps, samples, hidden units; ``kind``: of normalization, none, layer or batch;
``coded``: as in :func:`qlstm.recurrence.naive.recurrence`; ``device``: a GPU; ``tiles``:
:class:`~qlstm.recurrence.triton_tiling.Tiles`; ``report``: is called with a line of text at a time.
"""

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor

from qlstm.errors import first_line
from qlstm.normalizers import make_normalizer
from qlstm.recurrence import cache
from qlstm.recurrence import triton as backend
from qlstm.recurrence import triton_tiling as tiling
from qlstm.recurrence.triton_tiling import Tiles

FILE = "triton_tiles.json"
SHAPES = [(35, 20, 300), (100, 64, 512), (35, 20, 650), (784, 100, 100)]
"""(T, N, d) of the paper's experiments: words, characters, larger words, images."""
NORMALIZERS = {"layer": "layer", "batch": "batch_shared", "none": "none"}
"""A normalizer of each kind; without codes ``auto`` takes cuDNN for the last."""
AGREEMENT = 1e-3
"""Relative difference in norm that other tiles may make. Rounding makes up to 4e-5 (batch
normalization over 784 steps), on tensor cores some times more; a wrong sum makes about 1."""
GAIN = 0.1
"""Of normalization: with 1 the batch's recurrence is chaotic, and no two roundings agree."""
REPEATS = 20


@functools.cache
def chosen(device: torch.device, N: int, d: int, kind: str, coded: bool) -> Tiles:
    """The tiles stored for this shape, GPU and version of triton, else the default. The file is
    read once a process."""
    gpu = _gpu(device)
    try:
        tiles = Tiles(**_stored()[gpu][_shape(N, d, kind, coded)])
    except (KeyError, TypeError):  # nothing is stored, or not by this version of the code
        return Tiles()
    return tiles if tiles in tiling.CANDIDATES else Tiles()


def tune_all(shapes: list[tuple[int, int, int]] = SHAPES, device: torch.device | str = "cuda",
             report: Callable[[str], object] = print):
    """:func:`tune` for all kinds at each of the ``shapes`` (T, N, d), with codes first; what is
    found is stored at once, and what was stored before stays. Several processes compile all
    kernels beforehand, as that takes the most time."""
    device = torch.device(device)
    stored = _stored().get(_gpu(device), {})
    left = [(T, N, d, kind, coded)
            for coded, (T, N, d), kind in itertools.product((True, False), shapes, NORMALIZERS)
            if _shape(N, d, kind, coded) not in stored]
    if device.type == "cuda":
        _compile([(*shape, device, tiles) for shape in left for tiles in _offered(*shape, device)])
    for shape in left:
        tune(*shape, device, report)


def _compile(given: list[tuple]):
    """Compile the kernels for the arguments of :func:`measure`, into Triton's cache."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(given), os.cpu_count() or 1, 12) or 1, spawn) as pool:
        list(pool.map(_once, given))


def _once(given: tuple):
    with contextlib.suppress(Exception):  # tune says why it fails
        _step(*given)()


def _offered(T, N, d, kind, coded, device):
    offered = tiling.candidates(N, d, kind, coded, tiling.multiprocessors(device))
    return offered if len(offered) > 1 else []


def tune(T: int, N: int, d: int, kind: str, coded: bool, device: torch.device | str = "cuda",
         report: Callable[[str], object] = print) -> Tiles:
    """The fastest of the candidates, forward and backward together; it is stored.

    A candidate is left out if it fails, as with tiles that do not fit in shared memory, or if its
    results are not those of the default.
    """
    device = torch.device(device)
    name = _shape(N, d, kind, coded)
    seconds, expected = {}, None
    for tiles in _offered(T, N, d, kind, coded, device):
        try:
            seconds[tiles], results = measure(T, N, d, kind, coded, device, tiles)
        except Exception as error:  # compiler and driver raise anything
            report(f"{name}: {_words(tiles)} left out: {first_line(error)}")
            if expected is None:  # the default: there is nothing to compare with
                return Tiles()
            continue
        expected = results if expected is None else expected
        difference = torch.tensor(list(map(_difference, results, expected))).max().item()
        if not difference <= AGREEMENT:
            del seconds[tiles]
            report(f"{name}: {_words(tiles)} left out: results differ by {difference:.1e}")
            continue
        report(f"{name}: {_words(tiles)} {1e3 * seconds[tiles]:.3f} ms")
    if not seconds:
        report(f"{name}: nothing to choose, its kernels have sizes of their own")
        return Tiles()
    fastest = min(seconds, key=seconds.get)
    _store(_gpu(device), name, fastest)
    report(f"{name}: stored {_words(fastest)}")
    return fastest


def measure(T: int, N: int, d: int, kind: str, coded: bool, device: torch.device,
            tiles: Tiles) -> tuple[float, list[Tensor]]:
    """Seconds of a forward and a backward pass with random numbers, and their results."""
    step = _step(T, N, d, kind, coded, device, tiles)
    results = step()  # compiles
    return _seconds(step, device), results


def _step(T, N, d, kind, coded, device, tiles):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    norms = [make_normalizer(NORMALIZERS[kind], (4, d), d, T), make_normalizer("none", (d,), d, T)]
    norms = [norm.to(device) for norm in (norms[0], norms[0], norms[1])]
    if kind != "none":
        torch.nn.init.constant_(norms[0].gain, GAIN)
    w_h, x, w_x = random(4 * d, d) / d**0.5, random(T, N, 4), random(4 * d, 4) / 2
    if coded:
        w_h = w_h.sign() / d**0.5
    bias, state, along = random(4 * d), (random(N, d).tanh(), random(N, d)), random(T, N, d)
    variables = [w_h.requires_grad_(), bias.requires_grad_()]

    def step():
        output, _ = backend.recurrence(
            x, w_x, w_h, bias, state, norms, coded=coded, tiles=tiles)
        return [output.detach(), *torch.autograd.grad(output, variables, along)]

    return step


def _seconds(step, device):
    """The median time of a step recorded as a CUDA graph, as training runs it."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
        graph.replay()
        seconds = []
        for _ in range(REPEATS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def _difference(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def _words(tiles):
    return ", ".join(f"{name} {value or 'as fit'}" for name, value in tiles._asdict().items())


def _shape(N, d, kind, coded):
    return f"N {N}, d {d}, {kind}, {'coded' if coded else 'dense'}"


@functools.cache
def _gpu(device):
    """The GPU and what compiles for it; None for a CPU, with the interpreter."""
    if device.type != "cuda":
        return None
    import triton

    return f"{torch.cuda.get_device_name(device)}, triton {triton.__version__}"


@functools.cache
def _stored():
    return _read()


def _read():
    """Tiles by shape by GPU; a damaged file is as none."""
    try:
        content = json.loads((cache.folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _store(gpu, shape, tiles):
    content = _read()
    if not isinstance(content.get(gpu), dict):
        content[gpu] = {}
    content[gpu][shape] = tiles._asdict()
    with cache.replacing(cache.folder() / FILE) as path:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _stored.cache_clear()
    chosen.cache_clear()
