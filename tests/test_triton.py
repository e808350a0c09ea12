"""The triton backend without a GPU: equal to naive in the interpreter, compiled for GPUs that are
not there."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from qlstm import ConfigError, QuantGRU, QuantLSTM
from qlstm.normalizers import make_normalizer
from qlstm.recurrence import triton as backend
from qlstm.recurrence import triton_tiling as tiling

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
SHARED_MEMORY = {90: 227 << 10, 80: 163 << 10}
"""Bytes a program can have, by compute capability."""
FUSION = {"TRITON_DEFAULT_FP_FUSION": "1"}  # as ever; 3.9 warns that this will change
KERNELS = ["forward_columns", "forward_rows", "backward_product", "backward_columns",
           "backward_rows", "layer_gradients"]
WITHOUT_CELL = ["backward_product", "layer_gradients"]
"""Those that are the same for an LSTM and a GRU."""


@needs_triton
def test_it_equals_naive():
    """See triton_equality.py; on a GPU where there is one, else in Triton's interpreter."""
    if not torch.cuda.is_available():
        pytest.importorskip(
            "triton", "3.7", reason="before 3.7 the interpreter fails with numpy 2.4")
    environment = (
        os.environ | FUSION | {"TRITON_INTERPRET": "0" if torch.cuda.is_available() else "1"})
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider",
               "triton_equality.py"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d\d passed", done.stdout)


class Recorder:
    """Stands in for a kernel and keeps what it was launched with."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append((self.kernel, args, kwargs))


def launches(monkeypatch, N, d, normalizer, coded, T=3, cell=False, multiprocessors=0, gates=4):
    """All launches of a forward and a backward pass, on a GPU of so many multiprocessors; nothing
    is computed. ``gates``: 4 of an LSTM, 3 of a GRU."""
    modules = [pytest.importorskip(f"qlstm.recurrence.triton_{name}")
               for name in ("forward", "backward")]
    recorded = []
    with monkeypatch.context() as patch:
        patch.setattr(tiling, "multiprocessors", lambda device: multiprocessors)
        for module in modules:
            for name in set(KERNELS) & set(dir(module)):
                patch.setattr(module, name, Recorder(getattr(module, name), recorded))
        norms = [make_normalizer(normalizer, (gates, d), d, T) for _ in range(2)]
        norms.append(make_normalizer(normalizer if cell else "none", (d,), d, T))
        state = (torch.zeros(N, d),) * (2 if gates == 4 else 1)
        x, w_x = torch.zeros(T, N, 1), torch.ones(gates * d, 1)
        w_h, bias = torch.ones(gates * d, d), torch.zeros(4 * d)
        loop = backend.recurrence if gates == 4 else backend.gru_recurrence
        output, _ = loop(x, w_x, w_h.requires_grad_(), bias, state, norms, coded=coded)
        output.sum().backward()
    return recorded


def of_each_kernel(recorded):
    """One launch of each kernel: all have the same blocks."""
    return {
        kernel.fn.__name__: (kernel, args, kwargs) for kernel, args, kwargs in recorded}.values()


def compiled(kernel, args, kwargs, capability, monkeypatch, tmp_path):
    """The kernel compiled as its launch would on such a GPU, its registers, and the bytes that a
    thread spills of them."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    gpu = SimpleNamespace(get_current_device=lambda: capability,
                          get_current_stream=lambda device: 0,
                          get_current_target=lambda: GPUTarget("cuda", capability, 32))
    monkeypatch.setattr(driver, "_active", gpu)
    result = kernel.warmup(*args, grid=(1,), **kwargs)
    (tmp_path / "cubin").write_bytes(result.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", tmp_path / "cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", said).groups()
    return result, int(registers), int(stack)


# ``spills``: bytes of registers that a thread may spill; those of Triton 3.6, 3.7 and 3.9 are at
# most 184
@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="ptxas comes with triton for Linux")
@pytest.mark.parametrize(
    ("N", "d", "normalizer", "gates", "capability", "multiprocessors", "spills", "kernels"),
    [
        (64, 512, "batch_shared", 4, 90, 132, 8,
         "forward_columns backward_columns backward_product"),
        (64, 512, "layer", 4, 90, 132, 0,
         "forward_columns forward_rows backward_rows backward_product layer_gradients"),
        (100, 100, "layer", 4, 80, 108, 400, "forward_rows backward_rows layer_gradients"),
        (20, 300, "none", 4, 80, 108, 0, "forward_columns backward_columns"),
        (20, 300, "none", 4, 80, 0, 0, "forward_columns backward_columns"),
        (64, 512, "batch_shared", 3, 90, 132, 8,
         "forward_columns backward_columns backward_product"),
        (100, 100, "layer", 3, 80, 108, 400, "forward_rows backward_rows layer_gradients"),
    ],
)
def test_kernels_compile_for_gpus(N, d, normalizer, gates, capability, multiprocessors, spills,
                                  kernels, monkeypatch, tmp_path):
    for name, value in (FUSION | {"TRITON_CACHE_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    found = of_each_kernel(launches(
        monkeypatch, N, d, normalizer, coded=True, multiprocessors=multiprocessors, gates=gates))
    assert {kernel.fn.__name__ for kernel, _, _ in found} == set(kernels.split())
    for kernel, args, kwargs in found:
        name = kernel.fn.__name__
        if gates == 3 and name in WITHOUT_CELL:
            continue  # compiled above
        result, registers, spilled = compiled(
            kernel, args, kwargs, capability, monkeypatch, tmp_path)
        assert result.metadata.shared <= SHARED_MEMORY[capability], name
        assert registers * kwargs.get("num_warps", 4) * 32 <= 1 << 16, name
        assert spilled <= spills, name
        products = re.search(r"wgmma\.mma_async|mma\.sync", result.asm["ptx"])
        kept = name.endswith("_rows") and d <= tiling.PERSISTENT_UNITS
        fused = name == "backward_columns" and N * d <= tiling.FUSED_GRADIENTS
        takes_product = kept or fused or name in ("forward_columns", "backward_product")
        assert (products is not None) == takes_product, name


@needs_triton
@pytest.mark.skipif(sys.platform != "linux", reason="ptxas comes with triton for Linux")
def test_a_kernel_is_compiled_once_for_all_steps(monkeypatch, tmp_path):
    """Triton compiles anew for a number that is 1 or a multiple of 16, if it is told nothing."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for normalizer in ("none", "layer"):
        versions = {}
        for kernel, args, kwargs in launches(monkeypatch, 4, 16, normalizer, coded=False, T=18):
            result, _, _ = compiled(kernel, args, kwargs, 80, monkeypatch, tmp_path)
            versions.setdefault(kernel.fn.__name__, set()).add(id(result))
        assert [name for name, found in versions.items() if len(found) > 1] == []


def test_kernels_take_few_arguments():
    modules = [pytest.importorskip(f"qlstm.recurrence.triton_{name}")
               for name in ("forward", "backward")]
    kernels = [getattr(module, name) for module in modules for name in KERNELS
               if hasattr(module, name)]
    assert len(kernels) == len(KERNELS)
    for kernel in kernels:
        assert len(kernel.arg_names) <= 15, kernel.fn.__name__


@pytest.mark.parametrize("normalizer", ["none", "layer", "batch_separate"])
@pytest.mark.parametrize("tiles", tiling.CANDIDATES)
@pytest.mark.parametrize(
    ("N", "d"), [(1, 1), (20, 300), (20, 650), (64, 512), (128, 2000), (100, 100)])
def test_blocks_cover_all(N, d, tiles, normalizer):
    """No sample, unit or row of a sum is left out or summed twice."""
    blocks = tiling.Blocks(
        N, d, {"batch_separate": "batch"}.get(normalizer, normalizer), coded=True, tiles=tiles)
    assert (blocks.forward_grid[0] * blocks.forward_units >= d
            > (blocks.forward_grid[0] - 1) * blocks.forward_units)
    assert blocks.backward_grid[0] * blocks.backward_units >= d
    assert blocks.forward_grid[1] * blocks.samples >= N
    assert blocks.row_grid[0] * blocks.row_samples >= N
    assert blocks.row_units >= d
    if normalizer == "batch_separate":
        assert blocks.forward_grid[1] == 1
    assert blocks.product_length % blocks.product_piece == 0
    assert (
        blocks.splits * blocks.product_length >= 4 * d > (blocks.splits - 1) * blocks.product_length
    )


@pytest.mark.parametrize("layer", [QuantLSTM, QuantGRU])
def test_on_the_cpu_it_says_why_not(layer):
    why = "(it needs an NVIDIA GPU|triton is not installed)"
    with pytest.raises(
            ConfigError, match=f"backend 'triton' cannot run this: {why}; take backend='auto'"):
        layer(3, 4, backend="triton")(torch.zeros(2, 3, 3))


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    norms = [QuantLSTM(3, 4).norm_hh_l0] * 3
    why = backend.obstacle(torch.zeros(2, 3, 1), torch.zeros(16, 4), norms)
    assert why == "triton is not installed"


def test_importing_the_backend_does_not_import_triton():
    code = "import sys, qlstm.recurrence.triton; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("loop", "gates", "states"), [("recurrence", 4, 2), ("gru_recurrence", 3, 1)])
def test_no_trace(loop, gates, states):
    norms = [QuantLSTM(3, 4).norm_hh_l0] * 3
    arguments = (torch.zeros(2, 3, 1), torch.zeros(4 * gates, 1), torch.zeros(4 * gates, 4),
                 torch.zeros(16), (torch.zeros(3, 4),) * states, norms)
    with pytest.raises(ConfigError, match="keeps no trace; take backend='naive'"):
        getattr(backend, loop)(*arguments, trace=[])
    with pytest.raises(TypeError, match=r"h_0 is torch.float64, but the weights are torch.float32"):
        getattr(backend, loop)(*arguments[:4], (torch.zeros(3, 4).double(),) * states, norms)
