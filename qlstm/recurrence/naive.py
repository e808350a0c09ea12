"""The recurrence as the equations read, a step at a time: the ground truth for every faster one."""

import torch
from torch import Tensor

from qlstm.recurrence.cell import gru_step, lstm_step


def obstacle(x: Tensor, norms) -> str | None:
    """Why this backend cannot run products ``x`` with normalizers ``norms``: it always can."""


def recurrence(x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor], norms, *,
               coded: bool = False, trace: list | None = None):
    """The pre-activations of a step, then one :func:`~qlstm.recurrence.cell.lstm_step`, for t = 0
    .. T-1.

        g~_t = N(W_x x_t) + N(W_h h_{t-1}) + b,    g = i, f, a, o

    ``x``: (T, N, 4d), the input products W_x x_t of all steps. ``w_h``: (4d, d), quantized and
    weight-normalized. ``bias``: (4d). ``state``: h_0 and c_0, each (N, d). ``norms``: the
    normalizers of the input product, of the recurrent product and of the cell state, each called as
    ``norm(product, t)``. ``coded``: whether each row of ``w_h`` is one magnitude times codes of
    {-1, 0, +1}, which is known of the quantizer and which a faster backend may make use of.
    ``trace``: if given, receives (h_t, c_t) of each step, part of the autograd graph (this backend
    only). Returns all hidden states (T, N, d) and the last state.
    """
    norm_x, norm_h, norm_c = norms
    h, c = state
    n, d = h.shape
    outputs = []
    for t, x_t in enumerate(x.unbind(0)):
        # [i f a o]~_t = N(W_x x_t) + N(W_h h_{t-1}) + b
        products_x, products_h = x_t.view(n, 4, d), (h @ w_h.T).view(n, 4, d)
        gates = norm_x(products_x, t) + norm_h(products_h, t) + bias.view(4, d)
        h, c = lstm_step(gates, c, norm_c, t)
        outputs.append(h)
        if trace is not None:
            trace.append((h, c))
    return torch.stack(outputs), (h, c)


def gru_recurrence(x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor], norms, *,
                   coded: bool = False, trace: list | None = None):
    """The same for a GRU, see :func:`~qlstm.recurrence.cell.gru_step`; it has three gates and a
    ``state`` of h_0 alone.

    ``x`` (T, N, 3d), ``w_h`` (3d, d), ``bias`` (3d), ``norms``, ``coded`` and ``trace`` as in
    :func:`recurrence`. Returns all hidden states (T, N, d) and the last state, a tuple of one.
    """
    norm_x, norm_h, _ = norms
    (h,) = state
    n, d = h.shape
    outputs = []
    for t, x_t in enumerate(x.unbind(0)):
        products_x, products_h = x_t.view(n, 3, d), (h @ w_h.T).view(n, 3, d)
        h = gru_step(norm_x(products_x, t) + bias.view(3, d), norm_h(products_h, t), h)
        outputs.append(h)
        if trace is not None:
            trace.append((h,))
    return torch.stack(outputs), (h,)
