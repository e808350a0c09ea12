r"""A plain recurrent network, $h_t = \tanh(W h_{t-1} + x_t)$, and the Jacobians of its steps: what
the page on backpropagation through time begins with."""

import torch
from torch import Tensor


def tanh_jacobians(weight: Tensor, inputs: Tensor) -> Tensor:
    r"""The Jacobian of each step, $J_t = \partial h_t / \partial h_{t-1}$, from $h_0 = 0$ on.

    $$ J_t = \mathrm{diag}(1 - h_t^2)\, W $$

    Args:
        weight: $W$, (d, d).
        inputs: $x_1, \dots, x_T$, (T, d).

    Returns:
        (T, d, d).

    Example:
        >>> tanh_jacobians(torch.tensor([[1.5]]), torch.zeros(2, 1)).flatten()   # h stays 0
        tensor([1.5000, 1.5000])
    """
    h, jacobians = torch.zeros_like(inputs[0]), []
    for x in inputs:
        h = torch.tanh(weight @ h + x)
        # J_t = diag(1 - h_t^2) W
        jacobians.append((1 - h**2)[:, None] * weight)
    return torch.stack(jacobians)


def product_norms(jacobians: Tensor) -> Tensor:
    r"""How much of a small change of an earlier state arrives at the last one, at most:
    $\lVert \partial h_T / \partial h_t \rVert_2 = \lVert J_T J_{T-1} \cdots J_{t+1} \rVert_2$.

    Args:
        jacobians: $J_1, \dots, J_T$, (T, d, d).

    Returns:
        The norms for $t = 0, \dots, T$, (T + 1,), the last of them 1.

    Example:
        >>> product_norms(torch.tensor([2.0, 3.0, 0.5]).view(3, 1, 1))
        tensor([3.0000, 1.5000, 0.5000, 1.0000])
    """
    products = [torch.eye(jacobians.shape[-1]).to(jacobians)]
    for jacobian in jacobians.flip(0):
        products.append(products[-1] @ jacobian)
    return torch.linalg.matrix_norm(torch.stack(products[::-1]), 2)
