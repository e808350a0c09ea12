"""The loop over time, the only place with several implementations of one thing.

Each is a module with a function ``recurrence`` of the one signature of
:func:`qlstm.recurrence.naive.recurrence`, and a function ``obstacle(products_x, norms)``: why it
cannot run these products (T, N, 4d) with these normalizers, or None.

======== ========================================================================================
naive    the equations, step by step, with autograd: the ground truth, everywhere
cpu      an explicit backward pass around a small C++ extension, compiled on first use
triton   fused kernels for NVIDIA GPUs
======== ========================================================================================
"""

from importlib import import_module
from types import ModuleType

from qlstm.errors import ConfigError, unknown

BACKENDS = ["naive", "cpu", "triton"]
"""The implementations by name."""
_FASTEST_FIRST = ["triton", "cpu", "naive"]


def check_backend(name: str):
    """Raises ``ConfigError`` if there is no backend of that ``name``."""
    if name != "auto" and name not in BACKENDS:
        raise ConfigError(unknown("backend", name, ["auto", *BACKENDS]))


def choose_backend(name: str, x, norms) -> ModuleType:
    """The implementation of that ``name`` for products ``x`` (T, N, 4d) and normalizers ``norms``;
    ``"auto"``: the fastest.

    Raises ``ConfigError`` if the named one cannot run them; its message says why.
    """
    check_backend(name)
    for candidate in _FASTEST_FIRST if name == "auto" else [name]:
        module = import_module(f"qlstm.recurrence.{candidate}")
        reason = module.obstacle(x, norms)
        if reason is None:
            return module
    raise ConfigError(f"backend {name!r} cannot run this: {reason}; take backend='auto'")
