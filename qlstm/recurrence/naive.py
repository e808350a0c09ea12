"""The recurrence as the equations read, a step at a time: the ground truth for every faster one."""

from collections.abc import Callable

import torch
from torch import Tensor

from qlstm.recurrence.cell import gru_step, lstm_step
from qlstm.recurrence.linear import input_products


def obstacle(x: Tensor, w_h: Tensor, norms) -> str | None:
    """Why this backend cannot run inputs ``x`` through ``w_h`` with the normalizers ``norms``: it
    always can."""


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False, trace: list | None = None):
    r"""The pre-activations of a step, then one :func:`~qlstm.recurrence.cell.lstm_step`, T times.

    $$ \tilde g_t = N(W_x x_t) + N(W_h h_{t-1}) + b, \qquad g = i, f, a, o $$

    Args:
        x: The inputs, (T, N, D), or integers (T, N), which stand for one-hot vectors.
        w_x: (4d, D), the input matrix, quantized and weight-normalized.
        w_h: (4d, d), the recurrent matrix, likewise.
        bias: (4d).
        state: $h_0$ and $c_0$, each (N, d).
        norms: The normalizers of the input product, of the recurrent product and of the cell state,
            each called as ``norm(product, t)``.
        coded: Whether each row of ``w_h`` is one magnitude times codes of {-1, 0, +1}, which a
            faster backend may make use of.
        trace: A list that receives $(h_t, c_t)$ of each step, part of the autograd graph (this
            backend only).

    Returns:
        All hidden states, (T, N, d), and the last state.
    """
    return _loop(step_of_lstm(w_h, bias, norms), input_products(x, w_x), state, trace)


def gru_recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor], norms,
                   *, coded: bool = False, trace: list | None = None):
    """The same for a GRU, see :func:`~qlstm.recurrence.cell.gru_step`.

    Args:
        x: As in :func:`recurrence`.
        w_x: (3d, D): the gates r, z, n.
        w_h: (3d, d).
        bias: (4d): of r, z and n, and $b_{hn}$, which is added to the recurrent product of n.
        state: $h_0$ alone, a tuple of one.
        norms: As in :func:`recurrence`.
        coded: As in :func:`recurrence`.
        trace: As in :func:`recurrence`, of $(h_t,)$.

    Returns:
        All hidden states, (T, N, d), and the last state, a tuple of one.
    """
    return _loop(step_of_gru(w_h, bias, norms), input_products(x, w_x), state, trace)


def step_of_lstm(w_h: Tensor, bias: Tensor, norms) -> Callable:
    """The step that :func:`recurrence`, which explains ``w_h``, ``bias`` and ``norms``, takes: a
    function of the state, the input product (N, 4d) and t, which returns the next state."""
    (norm_x, norm_h, norm_c), d = norms, w_h.shape[1]

    def step(state, product_x, t):
        h, c = state
        # [i f a o]~_t = N(W_x x_t) + N(W_h h_{t-1}) + b
        product_x, product_h = product_x.view(-1, 4, d), (h @ w_h.T).view(-1, 4, d)
        gates = norm_x(product_x, t) + norm_h(product_h, t) + bias.view(4, d)
        return lstm_step(gates, c, norm_c, t)
    return step


def step_of_gru(w_h: Tensor, bias: Tensor, norms) -> Callable:
    """Likewise of :func:`gru_recurrence`, which explains ``w_h``, ``bias`` and ``norms``."""
    (norm_x, norm_h, _), d = norms, w_h.shape[1]
    bias_x, b_hn = bias.view(4, d).split([3, 1])
    bias_h = torch.cat([torch.zeros_like(bias_x[:2]), b_hn])

    def step(state, product_x, t):
        (h,) = state
        product_x, product_h = product_x.view(-1, 3, d), (h @ w_h.T).view(-1, 3, d)
        return (gru_step(norm_x(product_x, t) + bias_x, norm_h(product_h, t) + bias_h, h),)
    return step


def _loop(step, products, state, trace):
    outputs = []
    for t, product_x in enumerate(products.unbind(0)):
        state = step(state, product_x, t)
        outputs.append(state[0])
        if trace is not None:
            trace.append(state)
    return torch.stack(outputs), state
