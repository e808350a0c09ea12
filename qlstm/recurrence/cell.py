"""One step of the LSTM, and of the GRU: the equations, nothing else."""

import torch
from torch import Tensor


def lstm_step(gates: Tensor, c: Tensor, norm_c, t: int) -> tuple[Tensor, Tensor]:
    r"""The next hidden and cell state (paper, eq. 1).

    $$ c_t = \sigma(\tilde i) \odot \tanh(\tilde a) + \sigma(\tilde f) \odot c_{t-1} $$
    $$ h_t = \sigma(\tilde o) \odot \tanh(N(c_t)) $$

    Args:
        gates: (N, 4, d), the pre-activations of i, f, a, o, normalized, with the bias added.
        c: (N, d), the last cell state $c_{t-1}$.
        norm_c: The normalizer of the cell state; SBN and STN alone have one that does something.
        t: The time step, from 0.

    Returns:
        $h_t$ and $c_t$, each (N, d).

    Example:
        >>> h, c = lstm_step(torch.zeros(1, 4, 2), torch.ones(1, 2), lambda c, t: c, 0)
        >>> c, h                                              # sig(0) = 1/2, tanh(0) = 0
        (tensor([[0.5000, 0.5000]]), tensor([[0.2311, 0.2311]]))
    """
    i, f, a, o = gates.unbind(1)
    # c_t = sig(i~) * tanh(a~) + sig(f~) * c_{t-1}
    c = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(f) * c
    # h_t = sig(o~) * tanh(N(c_t))
    h = torch.sigmoid(o) * torch.tanh(norm_c(c, t))
    return h, c


def gru_step(gates_x: Tensor, gates_h: Tensor, h: Tensor) -> Tensor:
    r"""The next hidden state of a gated recurrent unit (Cho et al., 2014), as in ``torch.nn.GRU``.

    $$ n_t = \tanh\bigl(N(W_{xn} x_t) + b_n + r_t \odot (N(W_{hn} h_{t-1}) + b_{hn})\bigr) $$
    $$ h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1} $$

    Args:
        gates_x: (N, 3, d), the normalized input products, with the bias added, of the gates r
            (reset), z (update) and n (candidate).
        gates_h: (N, 3, d), the normalized recurrent products, with $b_{hn}$ added to that of n.
        h: (N, d), the last hidden state $h_{t-1}$.

    Returns:
        $h_t$, (N, d).

    Example:
        >>> gru_step(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.ones(1, 2))
        tensor([[0.5000, 0.5000]])
    """
    r, z = torch.sigmoid(gates_x[:, :2] + gates_h[:, :2]).unbind(1)
    # n_t = tanh(N(W_xn x_t) + b_n + r_t * (N(W_hn h_{t-1}) + b_hn))
    n = torch.tanh(gates_x[:, 2] + r * gates_h[:, 2])
    # h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    return (1 - z) * n + z * h
