"""One step of the LSTM: the equations, nothing else."""

import torch
from torch import Tensor


def lstm_step(gates: Tensor, c: Tensor, norm_c, t: int) -> tuple[Tensor, Tensor]:
    """From the pre-activations and the last cell state to the next hidden and cell state (paper, eq. 1).

    ``gates``: (N, 4, d), the pre-activations of i, f, a, o at step ``t``, normalized, bias added.
    ``c``: (N, d), the cell state c_{t-1}. ``norm_c``: normalizer of the cell state (the identity but for SBN, STN).
    Returns h_t and c_t, each (N, d).
    """
    i, f, a, o = gates.unbind(1)
    # c_t = sig(i~) * tanh(a~) + sig(f~) * c_{t-1}
    c = torch.sigmoid(i) * torch.tanh(a) + torch.sigmoid(f) * c
    # h_t = sig(o~) * tanh(N(c_t))
    h = torch.sigmoid(o) * torch.tanh(norm_c(c, t))
    return h, c
