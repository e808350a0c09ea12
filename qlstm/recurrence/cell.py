"""One step of the LSTM, and of the GRU: the equations, nothing else."""

import torch
from torch import Tensor


def lstm_step(gates: Tensor, c: Tensor, norm_c, t: int) -> tuple[Tensor, Tensor]:
    """From the pre-activations and the last cell state to the next hidden and cell state (paper,
    eq. 1).

        c_t = sig(i~) * tanh(a~) + sig(f~) * c_{t-1}
        h_t = sig(o~) * tanh(N(c_t))

    ``gates``: (N, 4, d), the pre-activations of i, f, a, o at step ``t``, normalized, bias added.
    ``c``: (N, d), the cell state c_{t-1}. ``norm_c``: normalizer of the cell state (the identity
    but for SBN, STN). Returns h_t and c_t, each (N, d).

    >>> h, c = lstm_step(torch.zeros(1, 4, 2), torch.ones(1, 2), lambda c, t: c, 0)
    >>> c, h                                                  # sig(0) = 1/2, tanh(0) = 0
    (tensor([[0.5000, 0.5000]]), tensor([[0.2311, 0.2311]]))
    """
    i, f, a, o = gates.unbind(1)
    # c_t = sig(i~) * tanh(a~) + sig(f~) * c_{t-1}
    c = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(f) * c
    # h_t = sig(o~) * tanh(N(c_t))
    h = torch.sigmoid(o) * torch.tanh(norm_c(c, t))
    return h, c


def gru_step(gates_x: Tensor, gates_h: Tensor, h: Tensor) -> Tensor:
    """The next hidden state of a gated recurrent unit (Cho et al., EMNLP 2014; the variant of
    ``torch.nn.GRU``).

        n_t = tanh(N(W_xn x_t) + b_n + r_t * N(W_hn h_{t-1}))
        h_t = (1 - z_t) * n_t + z_t * h_{t-1}

    ``gates_x``: (N, 3, d), normalized input products with the bias added, gates r (reset), z
    (update), n (candidate). ``gates_h``: (N, 3, d), normalized recurrent products. ``h``: (N, d),
    h_{t-1}. Returns h_t, (N, d).

    >>> gru_step(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.ones(1, 2))
    tensor([[0.5000, 0.5000]])
    """
    r, z = torch.sigmoid(gates_x[:, :2] + gates_h[:, :2]).unbind(1)
    # n_t = tanh(N(W_xn x_t) + b_n + r_t * N(W_hn h_{t-1}))
    n = torch.tanh(gates_x[:, 2] + r * gates_h[:, 2])
    # h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    return (1 - z) * n + z * h
