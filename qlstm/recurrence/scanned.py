"""The recurrence as one operator of torch, which an exported program has in place of T copies of a
step: it is as large for any T, and T may be dynamic.

:func:`qlstm.recurrence.choose_backend` takes it for ``torch.export`` and ``torch.onnx.export``.
"""

import torch
from torch import Tensor

from qlstm.recurrence.linear import input_products
from qlstm.recurrence.naive import step_of_gru, step_of_lstm
from qlstm.recurrence.obstacles import kind


def obstacle(x: Tensor, w_h: Tensor, norms) -> str | None:
    """Why inputs ``x`` are better unrolled than scanned, through ``w_h`` with the normalizers
    ``norms``, or None."""
    if not isinstance(x.shape[0], torch.SymInt) and x.shape[0] == 1:
        return "a single step is no loop"
    if torch.is_grad_enabled():
        return "what is exported with gradients may be differentiated, which a scan cannot in ONNX"
    if None in map(kind, norms):
        return "a normalizer of one's own may want the number of the step as an integer"
    if any(norm.training for norm in norms):
        return "in training a normalizer updates its statistics, which a scan cannot"
    return None


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False):
    """As :func:`qlstm.recurrence.naive.recurrence`: ``x``, ``w_x``, ``w_h``, ``bias``, ``state``
    and ``norms`` are explained there; ``coded`` makes no difference."""
    return _scan(step_of_lstm(w_h, bias, norms), state, input_products(x, w_x))


def gru_recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor], norms,
                   *, coded: bool = False):
    """As :func:`qlstm.recurrence.naive.gru_recurrence`, ``x``, ``w_x``, ``w_h``, ``bias``,
    ``state``, ``norms`` and ``coded`` as above."""
    return _scan(step_of_gru(w_h, bias, norms), state, input_products(x, w_x))


def _scan(step, state: tuple[Tensor, ...], products: Tensor):
    """All hidden states and the last state. The operator takes no views of one tensor, which the
    parts of a ``state`` are."""
    from torch._higher_order_ops import scan  # seconds of imports, that an export makes anyway

    def once(state, now):
        state = step(state, *now)
        return state, state[0].clone()

    steps = torch.arange(products.shape[0], device=products.device)
    last, outputs = scan(once, tuple(part.clone() for part in state), (products, steps))
    return outputs, tuple(last)
