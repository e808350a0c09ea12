"""The recurrence of ``torch.nn.LSTM`` and ``torch.nn.GRU`` on the effective weights: cuDNN's on a
GPU, torch's own on a CPU.

Without normalization of products, that is with none and with weight normalization, the equations
are those of plain networks whose matrices are the quantized ones. A GPU's tensor cores would round
float32 to TF32 in it; as in torch's products, they do where
``torch.backends.cuda.matmul.allow_tf32`` says so. With up to 128 hidden units cuDNN's own kernels
are less exact than float32: on an H200 h was off by 4e-6 after a single step, relatively, and by
1.4e-7 with 200 units or more, or where torch computes it without cuDNN.
"""

import contextlib

import torch
from torch import Tensor
from torch.nn import functional as F

from qlstm.errors import ConfigError
from qlstm.recurrence import obstacles
from qlstm.recurrence.obstacles import first_order, kind


def obstacle(x: Tensor, w_h: Tensor, norms) -> str | None:
    """Why this backend cannot run inputs ``x`` through ``w_h`` with the normalizers ``norms``, or
    None."""
    reason = obstacles.obstacle(w_h, norms)
    if reason is not None:
        return reason
    if {kind(norm) for norm in norms} != {"none"}:
        return "a plain LSTM or GRU normalizes no products"
    if w_h.dtype not in (torch.float32, torch.float64):
        return f"the weights are {w_h.dtype}, not float32 or float64"
    return None


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False, trace: list | None = None):
    """As :func:`qlstm.recurrence.naive.recurrence`: ``x``, ``w_x``, ``w_h``, ``bias``, ``state``
    and ``norms`` are explained there.

    ``coded`` makes no difference; gradients cannot be differentiated again. Raises ``ConfigError``
    for a ``trace``, which this backend does not keep.
    """
    return _run(x, w_x, w_h, bias, state, trace)


def gru_recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor], norms,
                   *, coded: bool = False, trace: list | None = None):
    """As :func:`qlstm.recurrence.naive.gru_recurrence`: ``x``, ``w_x``, ``w_h``, ``bias``,
    ``state`` and ``norms`` are explained there; ``coded`` and ``trace`` as in :func:`recurrence`.
    """
    return _run(x, w_x, w_h, bias, state, trace)


def _run(x, w_x, w_h, bias, state, trace):
    if trace is not None:
        raise ConfigError("backend 'cudnn' keeps no trace; take backend='naive'")
    if not x.is_floating_point():
        x = F.one_hot(x.long(), w_x.shape[1]).to(w_x.dtype)
    tensors = x, w_x, w_h, bias, *state
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    output, *last = _Recurrence.apply(*tensors) if keep else _plain(*tensors)
    return output, tuple(last)


@contextlib.contextmanager
def _precision_of_products():
    products = torch.backends.cuda.matmul
    try:
        setting, name, value = torch.backends.cudnn, "allow_tf32", products.allow_tf32
        before = setting.allow_tf32
    except RuntimeError:  # the newer settings are in use, and the older ones must not be read
        setting, name = torch.backends.cudnn.rnn, "fp32_precision"
        before = setting.fp32_precision
        value = "tf32" if products.fp32_precision == "tf32" else "ieee"
    setattr(setting, name, value)
    try:
        yield
    finally:
        setattr(setting, name, before)


def _plain(x, w_x, w_h, bias, *state):
    """All hidden states and the last state, of an LSTM with two tensors of ``state``, of a GRU with
    one."""
    lstm = len(state) == 2
    # torch adds b_hn of a GRU where naive does, and any other of its second biases to the first
    bias, b_hn = (bias, bias[:0]) if lstm else bias.split(len(w_x))
    second = F.pad(b_hn, (len(bias) - len(b_hn), 0))
    # cuDNN reads all weights from one piece of memory, at the end its two vectors of biases
    parts = w_x, w_h, bias, second
    memory = torch.cat([part.flatten() for part in parts])
    weights = [flat.view_as(part) for flat, part in zip(
        memory.split([part.numel() for part in parts]), parts, strict=True)]
    state = [part[None].contiguous() for part in state]
    with _precision_of_products():
        run, first = (torch.lstm, state) if lstm else (torch.gru, *state)
        output, *last = run(x.contiguous(), first, weights, True, 1, 0.0,
                            torch.is_grad_enabled(), False, False)
    return output, *(part[0] for part in last)


class _Recurrence(torch.autograd.Function):
    """Torch's own graph inside one node, whose backward pass needs the precision set once more."""

    @staticmethod
    def forward(ctx, *tensors):
        ctx.set_materialize_grads(False)
        ctx.inputs = [tensor.detach().requires_grad_(needed)
                      for tensor, needed in zip(tensors, ctx.needs_input_grad, strict=True)]
        with torch.enable_grad():
            ctx.results = _plain(*ctx.inputs)
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    @first_order("cudnn")
    def backward(ctx, *gradients):
        given = [pair for pair in zip(ctx.results, gradients, strict=True) if pair[1] is not None]
        results, gradients = zip(*given, strict=True)
        needed = [tensor for tensor in ctx.inputs if tensor.requires_grad]
        with _precision_of_products():
            found = iter(torch.autograd.grad(results, needed, gradients, retain_graph=True))
        return tuple(next(found) if tensor.requires_grad else None for tensor in ctx.inputs)
