"""Why a backend cannot stand for the normalizers that are there: what all backends but ``naive``,
which calls them, have to look at.

They have the formulas of the study's normalizers, and read ``training``, ``eps``, gain, shift and
running statistics; whatever else a normalizer may have been given they would leave out in silence.
``norms``: as in :func:`qlstm.recurrence.naive.recurrence`.
"""

import torch
from torch import Tensor

from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm

KINDS = {Identity: "none", WeightNorm: "none", LayerNorm: "layer", BatchNorm: "batch"}
"""What products pass through in the loop; weights are normalized before it."""


class Fault(str):
    """An obstacle of this machine's, and of nothing that was asked for: ``auto`` tells it."""


def kind(norm) -> str | None:
    """One of :data:`KINDS`; None if ``norm`` computes something else, or something more."""
    more = ("forward" in vars(norm) or norm._forward_hooks or norm._forward_pre_hooks
            or norm._backward_hooks or norm._backward_pre_hooks)
    return None if more else KINDS.get(type(norm))


def obstacle(w_h: Tensor, norms) -> str | None:
    """Why the formulas of :data:`KINDS` are not what ``norms`` compute, or None.

    ``w_h``: (4d, d), the recurrent matrix.
    """
    d = w_h.shape[1]
    for norm, features in zip(norms, ((4, d), (4, d), (d,)), strict=True):
        found = kind(norm)
        if found is None:
            return "it knows the study's normalizers only, without hooks"
        if found != "none" and not norm.eps > 0:
            return f"the eps of a normalizer is {norm.eps}, not a positive number"
        for name in ("gain", "shift", "running_mean", "running_var") if found != "none" else ():
            tensor = getattr(norm, name, None)  # layer normalization has no running statistics
            if tensor is None:
                continue
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
