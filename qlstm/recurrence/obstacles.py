"""Why a backend cannot stand for the normalizers that are there: what all backends but ``naive``,
which calls them, have to look at.

They have the formulas of the study's normalizers, and read ``training``, ``eps``, gain, shift and
running statistics; whatever else a normalizer may have been given they would leave out in silence.
``norms``: as in :func:`qlstm.recurrence.naive.recurrence`.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm

KINDS = {Identity: "none", WeightNorm: "none", LayerNorm: "layer", BatchNorm: "batch"}
"""What products pass through in the loop; weights are normalized before it."""


class Fault(str):
    """An obstacle of this machine's, and of nothing that was asked for: ``auto`` tells it."""


def kind(norm) -> str | None:
    """One of :data:`KINDS`; None if ``norm`` computes something else, or something more."""
    more = (vars(norm).keys() & {"forward", "update", "running_statistics"}
            or norm._forward_hooks or norm._forward_pre_hooks
            or norm._backward_hooks or norm._backward_pre_hooks)
    return None if more else KINDS.get(type(norm))


def obstacle(w_h: Tensor, norms) -> str | None:
    """Why the formulas of :data:`KINDS` are not what ``norms`` compute, or None.

    ``w_h``: (gates d, d), the recurrent matrix.
    """
    d = w_h.shape[1]
    gates = len(w_h) // d
    for norm, features in zip(norms, ((gates, d), (gates, d), (d,)), strict=True):
        found = kind(norm)
        if found is None:
            return "it knows the study's normalizers only, without hooks"
        if found != "none" and not norm.eps > 0:
            return f"the eps of a normalizer is {norm.eps}, not a positive number"
        running = ["running_mean", "running_var"] if found == "batch" else []
        for name in ["gain", "shift", *running] if found != "none" else []:
            tensor = getattr(norm, name)
            if not isinstance(tensor, Tensor):
                return f"the {name} of a normalizer is {tensor}"
            shape = tensor.shape[name.startswith("running") :]
            if (shape, tensor.dtype, tensor.device) != (features, w_h.dtype, w_h.device):
                return (f"the {name} of a normalizer is {tuple(shape)}, {tensor.dtype}, on "
                        f"{tensor.device}, not {features}, {w_h.dtype}, on {w_h.device}")
    norm_x, norm_h, _ = norms
    if isinstance(norm_x, BatchNorm) and norm_x.training and (
            norm_x.running_mean is getattr(norm_h, "running_mean", None)):
        return "input and recurrent products share running statistics, which take turns in a step"
    return None


def check_types(dtype: torch.dtype, **tensors: Tensor):
    """Raises ``TypeError`` unless all ``tensors``, by name, are of the weights' ``dtype``."""
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name} is {tensor.dtype}, but the weights are {dtype}")


def first_order(backend: str) -> Callable:
    """A decorator of a ``backward`` of the ``backend`` that is no function of its inputs for torch:
    it refuses to be differentiated again, as by a penalty on gradients."""
    def decorate(backward):
        once = once_differentiable(backward)

        @functools.wraps(backward)
        def checked(ctx, *gradients):
            if torch.is_grad_enabled():  # create_graph=True
                raise RuntimeError(f"backend '{backend}' has no second derivative; take "
                                   "backend='naive'")
            return once(ctx, *gradients)
        return checked
    return decorate
