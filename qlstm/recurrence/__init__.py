"""The loop over time, the only place with several implementations of one thing.

Each is a module with a function ``recurrence`` of the one signature of
:func:`qlstm.recurrence.naive.recurrence`, ``gru_recurrence`` likewise, and a function
``obstacle(x, w_h, norms)``: why it cannot run inputs ``x`` through a matrix ``w_h`` (its shape says
of how many gates) with these normalizers, or None.

======== ========================================================================================
naive    the equations, step by step, with autograd: the ground truth, everywhere
cpu      an explicit backward pass in a C++ extension, compiled on first use; products with 1- and
         2-bit codes by lookup, which stay packed (:mod:`qlstm.recurrence.codes`)
cudnn    ``torch.nn.LSTM`` and ``GRU`` on the effective weights, without normalization of products
triton   fused kernels for NVIDIA GPUs, on which those of a GRU are still to be tried and timed
======== ========================================================================================
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType, SimpleNamespace

import torch

from qlstm.errors import ConfigError, unknown
from qlstm.recurrence import naive, scanned
from qlstm.recurrence.agreement import Layer, disagreement
from qlstm.recurrence.obstacles import Fault
from qlstm.tracing import between_graphs, is_transformed

BACKENDS = ["naive", "cpu", "cudnn", "triton"]
"""The implementations by name."""
_FASTEST_FIRST = {"cpu": ["cpu"], "cuda": ["cudnn", "triton"]}
_FEW_UNITS, _MEASURED = 128, 1 << 15
"""On a GPU ``triton`` comes first for codes with more hidden units than ``_FEW_UNITS``, up to which
cuDNN keeps W_h on its cores, and samples times units up to ``_MEASURED``, the most of what was
timed: on an H200 it took 0.6 to 0.7 of cuDNN's time there, with 100 units 2.4 times as long. Not
for a GRU, of which nothing was timed."""
_ON_TRIAL = _FASTEST_FIRST["cuda"]  # another on each kind of GPU, so tried before it is trusted


def check_backend(name: str):
    """Raises ``ConfigError`` if there is no backend of that ``name``."""
    if name != "auto" and name not in BACKENDS:
        raise ConfigError(unknown("backend", name, ["auto", *BACKENDS]))


def choose_backend(name: str, x, w_h, norms, *, coded: bool = False,
                   loop: str = "recurrence") -> ModuleType:
    """The implementation of a backend, for what it is to run.

    Args:
        name: One of :data:`BACKENDS`, or ``"auto"``: the fastest that can run it. A backend that
            this machine cannot build, or whose results on this GPU are not those of ``naive``, is
            left out, with a warning that says so.
        x: The inputs, (T, N, D) or integers (T, N); where N is 0, ``naive`` runs them.
        w_h: The recurrent matrix; its device and precision are those of the computation.
        norms: The normalizers of the input product, the recurrent product and the cell state.
        coded: As in :func:`qlstm.recurrence.naive.recurrence`.
        loop: The function that is to run, ``recurrence`` or ``gru_recurrence``.

    Raises:
        ConfigError: The named one cannot run them; the message says why.
    """
    check_backend(name)
    if x.shape[1] == 0:
        return naive
    if name == "auto" and torch.compiler.is_compiling():
        if scanned.obstacle(x, w_h, norms) is None:
            return scanned
        one_step = x.shape[0] == 1 and not torch.is_grad_enabled()
        return naive if one_step or torch.compiler.is_exporting() else _OUTSIDE
    chosen = [*_fastest_first(x, w_h, coded), "naive"] if name == "auto" else [name]
    for candidate in chosen:
        module = import_module(f"qlstm.recurrence.{candidate}")
        reason = module.obstacle(x, w_h, norms)
        if module is not naive and is_transformed():
            reason = "torch.func and torch.export know the naive recurrence only"
        if reason is None and name == "auto" and candidate in _ON_TRIAL:
            layer = Layer(tuple(type(norm) for norm in norms), norms[0].training, x.shape[1],
                          w_h.shape[1], coded, loop)
            reason = disagreement(candidate, w_h.device, layer)
        if isinstance(reason, Fault) and name == "auto":
            warnings.warn(f"backend {candidate!r} is not used: {reason}; another backend takes its "
                          "place", RuntimeWarning, stacklevel=2)
        if reason is None:
            return module
    raise ConfigError(f"backend {name!r} cannot run this: {reason}; take backend='auto'")


def _chosen(loop: str, x, w_x, w_h, bias, state, norms, coded):
    module = choose_backend("auto", x, w_h, norms, coded=coded, loop=loop)
    return getattr(module, loop)(x, w_x, w_h, bias, state, norms, coded=coded)


def _outside(loop: str) -> Callable:
    def run(x, w_x, w_h, bias, state, norms, *, coded=False):
        return between_graphs(_chosen, loop, x, w_x, w_h, bias, state, norms, coded)
    return run


_OUTSIDE = SimpleNamespace(
    __name__="outside", **{loop: _outside(loop) for loop in ("recurrence", "gru_recurrence")})
"""Between two graphs of ``torch.compile`` the backend that runs without it."""


def _fastest_first(x, w_h, coded) -> list[str]:
    names, (rows, units) = _FASTEST_FIRST.get(w_h.device.type, []), w_h.shape
    codes_are_faster = (coded and rows == 4 * units > 4 * _FEW_UNITS
                        and x.shape[1] * units <= _MEASURED)
    return sorted(names, key="triton".__ne__) if codes_are_faster else names
