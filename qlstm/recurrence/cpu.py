"""The recurrence on the CPU with an explicit backward pass.

Matrix products are :mod:`qlstm.recurrence.linear`'s; what is left of a time step (normalization,
gates, states and their gradients) is one pass over memory in ``cpu.cpp``, compiled on first use
with the machine's C++ compiler (``$CXX``, c++, g++ or clang++) and kept in
``$XDG_CACHE_HOME/qlstm``. The weight gradient is one product after the loop. Without a compiler
:func:`obstacle` says so.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from qlstm.errors import ConfigError
from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm
from qlstm.recurrence import cache
from qlstm.recurrence.linear import has_onednn, input_products, multiply

SOURCE = Path(__file__).with_name("cpu.cpp")
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-fPIC",
         "-shared"]
KINDS = {Identity: 0, WeightNorm: 0, LayerNorm: 1, BatchNorm: 2}
"""What the products pass through: nothing (weights are normalized before the loop), layer or batch
normalization."""

PARAMETERS = ["gain_x", "shift_x", "gain_h", "shift_h", "gain_c", "shift_c"]
_POINTERS = ["x", "y", "bias", "gain_x", "shift_x", "gain_h", "shift_h", "gain_c", "shift_c",
             "mean_x", "var_x", "mean_h", "var_h", "mean_c", "var_c", "act", "c", "h", "dh", "dc",
             "dx", "dy", "dz", "dbias", "dgain_x", "dgain_h", "dgain_c", "dshift_c"]


class _Pass(ctypes.Structure):
    """The struct of cpu.cpp, which explains the fields."""

    _fields_ = [
        *[(name, ctypes.c_long) for name in ("N", "d", "norm", "training", "cell", "parallel")],
        ("eps", ctypes.c_double), *[(name, ctypes.c_void_p) for name in _POINTERS]]


def obstacle(x: Tensor, w_h: Tensor, norms) -> str | None:
    """Why this backend cannot run inputs ``x`` through ``w_h`` with the normalizers ``norms``, or
    None."""
    if w_h.device.type != "cpu":
        return f"the weights are on {w_h.device}, not on the CPU"
    if w_h.dtype not in (torch.float32, torch.float64):
        return f"the weights are {w_h.dtype}, not float32 or float64"
    norm_x, norm_h, norm_c = norms
    if type(norm_x) not in KINDS or type(norm_x) is not type(norm_h):
        return "it knows the study's normalizers only"
    if type(norm_c) is not Identity and (type(norm_c), type(norm_x)) != (BatchNorm, BatchNorm):
        return "it normalizes cell states by batch normalization only"
    return library() if isinstance(library(), str) else None


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False, trace: list | None = None):
    """As :func:`qlstm.recurrence.naive.recurrence`: ``x``, ``w_x``, ``w_h``, ``bias``, ``state``
    and ``norms`` are explained there.

    ``coded`` makes no difference; gradients cannot be differentiated again. Raises ``ConfigError``
    for a ``trace``, which this backend does not keep.
    """
    if trace is not None:
        raise ConfigError("backend 'cpu' keeps no trace; take backend='naive'")
    # the gains of weight normalization are in w_h
    parameters = [getattr(norm, name) if isinstance(norm, LayerNorm | BatchNorm) else None
                  for norm in norms for name in ("gain", "shift")]
    tensors = [input_products(x, w_x), w_h, bias, *state, *parameters]
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors)
    output, c = _Recurrence.apply(norms, keep, *tensors)
    return output, (output[-1], c)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, norms, keep, x, w_h, bias, h_0, c_0, *parameters):
        (steps, n, gates), d, kind = x.shape, w_h.shape[1], KINDS[type(norms[0])]
        batch, cell = kind == KINDS[BatchNorm], isinstance(norms[2], BatchNorm)
        training = batch and norms[0].training
        if training and n < 2:
            raise ValueError(f"batch normalization in training needs two samples or more, got {n}")
        values = {
            name: None if value is None else value.contiguous()
            for name, value in zip(["x", "bias", *PARAMETERS], [x, bias, *parameters], strict=True)}
        values |= {"act": x.new_empty(steps, n, gates)} | {
            name: x.new_empty(steps + 1, n, d) for name in "ch"}
        for side, norm in zip("xhc", norms, strict=True):
            if isinstance(norm, BatchNorm) and not training:
                values[f"mean_{side}"], values[f"var_{side}"] = norm.running_statistics(steps)
            elif isinstance(norm, BatchNorm | LayerNorm):
                shape = (steps, *norm.gain.shape) if batch else (steps, n, 4)
                values |= {f"mean_{side}": x.new_empty(shape), f"var_{side}": x.new_empty(shape)}
        c, h = values["c"], values["h"]
        c[0], h[0] = c_0, h_0
        sizes = dict(N=n, d=d, norm=kind, training=training, cell=cell, parallel=n * d > 2000,
                     eps=getattr(norms[0], "eps", 0.0))
        step, products, product = (_stepper("forward", x.dtype, sizes, values), [],
                                   _multiply_by(w_h, n))
        for t in range(steps):
            # y_t = W_h h_{t-1}, then one step
            y = product(h[t])
            step(t, y=y)
            if kind and keep:  # a normalizer's backward pass needs the products again
                products.append(y)
        if training:
            for side, norm in zip("xhc", norms, strict=True):
                if isinstance(norm, BatchNorm):
                    norm.update(
                        values[f"mean_{side}"].flatten(1), values[f"var_{side}"].flatten(1), n)
        if keep:
            ctx.sizes, ctx.names = sizes, list(values)
            ctx.save_for_backward(w_h, *values.values(), *products)
            ctx.set_materialize_grads(False)
        return h[1:], c[-1].clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_output, d_c):
        w_h, *saved = ctx.saved_tensors
        values = dict(zip(ctx.names, saved, strict=False))
        products = saved[len(values) :]
        x, h, sizes = values["x"], values["h"], ctx.sizes
        (steps, n, gates), d = x.shape, h.shape[-1]
        if d_output is None:
            d_output = x.new_zeros(steps, n, d)
        dx = torch.empty_like(x)
        dy = torch.empty_like(x) if products else dx
        dc = x.new_zeros(n, d) if d_c is None else d_c.clone(memory_format=torch.contiguous_format)
        values |= {"dx": dx, "dy": dy, "dc": dc, "dz": x.new_empty(n, gates),
                   "dbias": x.new_zeros(gates)}
        values |= {f"d{name}": torch.zeros_like(values[name]) for name in PARAMETERS
                   if values[name] is not None}
        step, product = _stepper("backward", x.dtype, sizes, values), _multiply_by(w_h.t(), n)
        dh = d_output[-1].contiguous()
        for t in range(steps - 1, -1, -1):
            step(t, dh=dh, **({"y": products[t]} if products else {}))
            # d loss / d h_{t-1} = W_h' d loss / d y_t + its own part of the loss
            dh = product(dy[t])
            if t:
                dh += d_output[t - 1]
        d_w = multiply(h[:-1].flatten(0, 1).t(), dy.flatten(0, 1).t()).t()
        for name in ("shift_x", "shift_h"):  # added where the bias is
            if values[name] is not None:
                values[f"d{name}"] = values["dbias"].view_as(values[name]).clone()
        return (None, None, dx, d_w, values["dbias"], dh, dc,
                *(values.get(f"d{name}") for name in PARAMETERS))


def _stepper(
    direction: str, dtype: torch.dtype, sizes: dict[str, int], values: dict[str, Tensor | None]
):
    """One step of cpu.cpp as a function of t and of the tensors that change with it; it keeps all
    of them alive."""
    function = getattr(library(), f"{direction}_{str(dtype).removeprefix('torch.')}")
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_long], None
    fields = {name for name, _ in _Pass._fields_}
    argument = _Pass(
        **sizes,
        **{name: value.data_ptr() for name, value in values.items()
           if value is not None and name in fields},
    )
    pointer = ctypes.byref(argument)

    def step(t: int, **changing: Tensor):
        for name, value in changing.items():
            setattr(argument, name, value.data_ptr())
        function(pointer, t)

    step.keeps_alive = values
    return step


def _multiply_by(weight: Tensor, rows: int):
    """:func:`qlstm.recurrence.linear.multiply` for many a matrix (rows, n) and one weight, which is
    packed once."""
    if has_onednn(weight):
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)
    return functools.partial(multiply, weight=weight)


@functools.cache
def library() -> ctypes.CDLL | str:
    """The compiled extension, or why there is none."""
    compiler = next(
        filter(None, map(shutil.which, [os.environ.get("CXX", ""), "c++", "g++", "clang++"])), None)
    if compiler is None:
        return "there is no C++ compiler (c++, g++, clang++ or $CXX)"
    described = "\n".join(
        [SOURCE.read_text(encoding="utf-8"), compiler, *FLAGS, platform.platform(), processor()])
    name = f"recurrence-{hashlib.sha256(described.encode()).hexdigest()[:16]}.so"
    cached = cache.folder() / name
    try:
        if not cached.exists():
            with cache.replacing(cached) as path:
                _compile(compiler, path)
        return ctypes.CDLL(str(cached))
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no message"])[0]
        return f"{compiler} cannot compile {SOURCE.name}: {said}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the C++ extension cannot be built or loaded: {error}"


def _compile(compiler: str, target: Path):
    """With threads where the compiler has OpenMP. Raises ``CalledProcessError`` with the compiler's
    words."""
    command = [compiler, *FLAGS, str(SOURCE), "-o", str(target)]
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(
            [*command, "-fopenmp"], check=True, capture_output=True, text=True, timeout=120)
        return
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)


def processor() -> str:
    """The processor's name and what it can do: what -march=native depends on, and the last bits of
    a sum."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "\n".join(
            sorted({line for line in lines if line.startswith(("model name", "flags"))}))
    return platform.processor()
