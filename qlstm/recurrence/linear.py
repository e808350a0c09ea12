"""Matrix products with a weight, on the CPU by oneDNN: it has float32 only, and there took half of
MKL's time on an AMD EPYC."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.tracing import is_transformed

_OPERATORS = all(hasattr(torch.ops.mkldnn, name)
                 for name in ("_linear_pointwise", "_reorder_linear_weight"))
"""Whether torch has its products by oneDNN under these names, which are not public."""


class Linear(nn.Linear):
    """``torch.nn.Linear`` by way of :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (..., n) times weight' (n, k), plus bias (k,)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x`` (..., n) times ``weight``' (n, k), plus ``bias`` (k,), as
    ``torch.nn.functional.linear``.

    >>> linear(torch.ones(2, 3), torch.ones(4, 3)).tolist()
    [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    if not (x.dtype == weight.dtype and has_onednn(weight)) or x.device != weight.device:
        return F.linear(x, weight, bias)
    product = _Product.apply(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], len(weight))
    return product if bias is None else product + bias


def input_products(x: Tensor, w_x: Tensor) -> Tensor:
    """The products $W_x x_t$ of all steps at once, (T, N, gates d).

    Args:
        x: (T, N, D), or integers (T, N), each of which stands for a one-hot vector and picks a
            column of the matrix.
        w_x: (gates d, D).

    Raises:
        IndexError: An integer is not from 0 to D - 1 (on the CPU; a GPU stops by itself).
    """
    return linear(x, w_x) if x.is_floating_point() else pick(x, w_x.T)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """The ``rows`` (V, n) whose numbers are the integers ``x`` (...), (..., n)."""
    x = x.long()
    try:
        return F.embedding(x, rows)
    except IndexError:
        raise out_of_range(x, len(rows)) from None


def out_of_range(x: Tensor, count: int) -> IndexError:
    """What is raised for integers ``x`` of which some are not from 0 to ``count`` - 1."""
    return IndexError(f"expected integers from 0 to {count - 1}, got {x.min().item()} to "
                      f"{x.max().item()}")


def has_onednn(tensor: Tensor) -> bool:
    """Whether oneDNN multiplies a ``tensor`` of its type, on its device; it can neither be compiled
    nor transformed."""
    return (not torch.compiler.is_compiling()  # first: the others cannot be
            and tensor.device.type == "cpu" and tensor.dtype == torch.float32
            and _OPERATORS and torch.backends.mkldnn.is_available() and not is_transformed())


def multiply(matrix: Tensor, weight: Tensor) -> Tensor:
    """``matrix`` (m, n) times ``weight``' (n, k), without a gradient; ``weight`` may be packed for
    oneDNN."""
    if not has_onednn(weight) or not matrix.numel():
        return matrix @ weight.t()
    return torch.ops.mkldnn._linear_pointwise(matrix, weight, None, "none", [], "")


class _Product(torch.autograd.Function):
    """x (m, n) times weight' (n, k); its gradients are products of the same kind, so it can be
    differentiated again."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return multiply(x, weight)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        d_x = _Product.apply(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        d_weight = _Product.apply(gradient.t(), x.t()) if ctx.needs_input_grad[1] else None
        return d_x, d_weight
