"""The recurrence as fused kernels for NVIDIA GPUs (Triton), with an explicit backward pass.

Float32 in and out, at float32's accuracy on tensor cores: a float32 number is the sum of three
bfloat16 numbers, and a product of two bfloat16 numbers, summed in float32, is exact. Codes
{-1, 0, +1} are bfloat16 numbers themselves, so h times codes is three products; the magnitude of a
row of W_h is multiplied afterwards. Other matrices are split too: six products, those below 2^-24
of the largest left out.

Normalizer, quantizer and size decide how a step is cut into kernels
(:mod:`~qlstm.recurrence.triton_forward`, :mod:`~qlstm.recurrence.triton_backward`), which
:mod:`~qlstm.recurrence.triton_launches` calls:

========================= ======= ======== =======================================================
what                      forward backward why; launches a step are counted
========================= ======= ======== =======================================================
none, weight, batch       0       0        a program has a few units of all samples: statistics and
                                           cell are its own, only h_{t-1} comes from the others, for
                                           which it waits; the GPU runs all programs at once
same, N d > 2^14          0       2        W_h' times gradients is cut into more programs
same, too many programs   1       1 or 2   for the GPU to run all at once
layer; codes; d <= 128    0       0        a program has all units of 8 samples, keeps the codes of
                                           W_h in registers and loops over time
layer                     2       2        a product; then whole rows, over which statistics go
========================= ======= ======== =======================================================

How many samples and units a program has is in :mod:`~qlstm.recurrence.triton_tiling`, and can be
chosen by time on the GPU that is there (:mod:`~qlstm.recurrence.triton_tuning`).

What a product reads, h or gradients, lies in memory as three bfloat16 numbers, split once by who
wrote it. Kept for the backward pass: the states, and the pre-activations, or with layer and batch
normalization the products and their statistics; the rest is computed again. After the loop the
gradient of W_h is one product of torch's (with layer and batch normalization four, each over a
quarter of the steps, so that no more than a quarter of the gradients of the recurrent products is
ever held). Nothing synchronizes, depends on values or is allocated outside torch, so that a whole
training step can be recorded as a CUDA graph (:mod:`qlstm.study.cuda_graphs`), after a first one
has compiled the kernels. Without one a launch costs some ten microseconds of the CPU.

``w_x``, ``w_h``, ``bias``, ``state``, ``norms`` and ``coded`` as in
:func:`qlstm.recurrence.naive.recurrence`; ``x``: the input products (T, N, 4d), in
:func:`recurrence`, :func:`gru_recurrence` and :func:`obstacle` the inputs; ``kind``: what
normalizes, ``d``: hidden units.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from qlstm.errors import ConfigError
from qlstm.recurrence import obstacles
from qlstm.recurrence import triton_tiling as tiling
from qlstm.recurrence.linear import input_products
from qlstm.recurrence.triton_arguments import Given, Kept, Setting


def _kind(norm) -> str | None:
    found = obstacles.kind(norm)
    return "fixed" if found == "batch" and not norm.training else found


def obstacle(x: Tensor, w_h: Tensor, norms) -> str | None:
    """Why this backend cannot run inputs ``x`` through ``w_h`` with the normalizers, or None."""
    interpreted = os.environ.get("TRITON_INTERPRET", "0") == "1"
    if find_spec("triton") is None:
        return "triton is not installed"
    if not interpreted:
        if w_h.device.type != "cuda" or torch.version.hip is not None:
            return "it needs an NVIDIA GPU"
        if torch.cuda.get_device_capability(w_h.device) < (8, 0):
            return "it needs a GPU of compute capability 8.0 or more"
    if w_h.dtype != torch.float32:
        return f"it computes in float32, not {w_h.dtype}"
    if x.shape[0] * x.shape[1] * 4 * w_h.shape[1] >= 1 << 31:  # a GRU's gates are four here
        return "it counts elements in 32 bits: fewer steps or samples at a time"
    reason = obstacles.obstacle(w_h, norms)
    if reason is not None:
        return reason
    kind_x, kind_h, kind_c = map(_kind, norms)
    if kind_x != kind_h or kind_c not in ("none", kind_x) or kind_c == "layer":
        return "its kernels have one kind of normalizer for all products"
    if kind_x == "batch" and x.shape[1] > tiling.MAX_SAMPLES:
        most = tiling.MAX_SAMPLES
        return f"batch normalization has at most {most} samples there, not {x.shape[1]}"
    other = [norm.eps for norm in norms if _kind(norm) != "none" and norm.eps != tiling.EPS]
    if other:
        return f"its kernels have eps {tiling.EPS}, not {other[0]}"
    return None


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False, trace: list | None = None,
               tiles: tiling.Tiles | None = None):
    """As :func:`qlstm.recurrence.naive.recurrence`, in float32; differentiable once, without
    ``trace``. ``tiles``: of the kernels; None: those of
    :func:`qlstm.recurrence.triton_tuning.chosen`."""
    _check(trace, w_h, bias=bias, h_0=state[0], c_0=state[1])
    output, c = _run(
        input_products(x, w_x), w_h, bias, state, norms, (None, None), coded, tiles)
    return output, (output[-1], c)


def gru_recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor], norms,
                   *, coded: bool = False, trace: list | None = None,
                   tiles: tiling.Tiles | None = None):
    r"""As :func:`qlstm.recurrence.naive.gru_recurrence`, without ``trace``, by the kernels of the
    LSTM.

    A gate is the sum of its input and its recurrent product there; so n is taken apart:

    $$ n_t = \tanh(\tilde n^x_t + r_t \odot \tilde n^h_t), \qquad
       \tilde n^x_t = N(W_{xn} x_t) + b_n, \qquad \tilde n^h_t = N(W_{hn} h_{t-1}) + b_{hn} $$

    That makes four gates, r, z, $n^x$ and $n^h$. The last has no part of x and the one before no
    part of h: rows of zeros there make ``w_x`` and ``w_h`` a third larger than a GRU needs.
    ``tiles``: as in :func:`recurrence`, by default those of an LSTM of this shape.
    """
    _check(trace, w_h, bias=bias, h_0=state[0])
    w_x, w_h = (_with_gap(w.unflatten(0, (3, -1)), gap).flatten(0, 1)
                for w, gap in zip((w_x, w_h), _GAPS, strict=True))
    output, _ = _run(
        input_products(x, w_x), w_h, bias, (*state, None), norms, _GAPS, coded, tiles)
    return output, (output[-1],)


_GAPS = 3, 2
"""Of a GRU's four gates the one without a part of x, and the one without a part of h."""


def _with_gap(gates: Tensor, gap: int | None, dim: int = 0) -> Tensor:
    """Three gates along ``dim`` and zeros as the one of number ``gap``; None: all four are
    there."""
    if gap is None:
        return gates
    return torch.cat([gates.narrow(dim, 0, gap), torch.zeros_like(gates.narrow(dim, 0, 1)),
                      gates.narrow(dim, gap, 3 - gap)], dim)


def _without_gap(gates: Tensor, gap: int | None, dim: int = 0) -> Tensor:
    """The inverse."""
    if gap is None:
        return gates
    return torch.cat([gates.narrow(dim, 0, gap), gates.narrow(dim, gap + 1, 3 - gap)], dim)


def _check(trace: list | None, w_h: Tensor, **tensors: Tensor):
    """Raises if a ``trace`` is asked for, or one of the ``tensors`` has another precision than
    ``w_h``."""
    if trace is not None:
        raise ConfigError("backend 'triton' keeps no trace; take backend='naive'")
    obstacles.check_types(w_h.dtype, **tensors)


def _run(x, w_h, bias, state, norms, gaps, coded, tiles):
    """All hidden states, and the last cell state; ``gaps``: of input and recurrent products."""
    d = w_h.shape[1]
    steps, samples, _ = x.shape
    norm_x, norm_h, norm_c = norms
    gap_x, gap_h = gaps
    kind, kind_c = _kind(norm_h), _kind(norm_c) if gap_x is None else "gru"
    if kind == "batch" and samples < 2:
        raise ValueError("batch normalization needs at least two samples in training")
    offset, gains, statistics, statistics_c = bias, [None] * 4, None, None
    if kind != "none":
        # N(W_x x_t) + N(W_h h_{t-1}) + b = g_x y + g_h r + (beta_x + beta_h + b), y and r
        # standardized
        offset = bias + (_with_gap(norm_x.shift, gap_x) + _with_gap(norm_h.shift, gap_h)).flatten()
        gains[:2] = _with_gap(norm_x.gain, gap_x), _with_gap(norm_h.gain, gap_h)
    if kind_c not in ("none", "gru"):
        gains[2:] = norm_c.gain, norm_c.shift
    gains = [gain if gain is None else gain.flatten().contiguous() for gain in gains]
    if kind == "layer":
        statistics = x.new_empty(steps, samples, 4, 4)
    elif kind == "batch":
        statistics, statistics_c = x.new_empty(steps, 4, 4 * d), x.new_empty(steps, 2, d)
    elif kind == "fixed":
        statistics = torch.stack([
            _with_gap(part, gap, 1).flatten(1) for norm, gap in ((norm_x, gap_x), (norm_h, gap_h))
            for part in norm.running_statistics(steps)], 1)
        if kind_c not in ("none", "gru"):
            statistics_c = torch.stack(norm_c.running_statistics(steps), 1)
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, w_h, offset, *state, *gains))
    output, c = _Recurrence.apply(x, w_h, offset, *state, *gains, statistics, statistics_c,
                                  Setting(kind, kind_c, coded, keep, tiles))
    if kind == "batch":
        of_x, of_h = statistics.view(steps, 2, 2, 4, d).unbind(1)
        norm_x.update(*_without_gap(of_x, gap_x, 2).unbind(1), samples)
        norm_h.update(*_without_gap(of_h, gap_h, 2).unbind(1), samples)
        if kind_c not in ("none", "gru"):
            norm_c.update(statistics_c[:, 0], statistics_c[:, 1], samples)
    return output, c


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_h, offset, h_0, c_0, gain_x, gain_h, gain_c, shift_c, statistics,
                statistics_c, setting):
        from qlstm.recurrence.triton_launches import Forward

        h_0 = h_0.contiguous()
        given = Given(x.contiguous(), offset, None, gain_x, gain_h, gain_c, shift_c, h_0,
                      h_0 if c_0 is None else c_0.contiguous())
        run = Forward(given, w_h, statistics, statistics_c, setting)
        run.all_steps()
        if setting.keep:
            given = run.given._replace(x=None) if setting.kind == "none" else run.given
            ctx.setting = setting
            ctx.step = run.kept.step
            ctx.save_for_backward(run.w.first, *given, *run.kept[:-1])
        return run.kept.output, None if c_0 is None else run.kept.cells[-1].clone()

    @staticmethod
    @obstacles.first_order("triton")
    def backward(ctx, grad_output, grad_c_n):
        from qlstm.recurrence.triton_launches import Backward

        w, *saved = ctx.saved_tensors
        own = len(Given._fields)
        given, kept = Given(*saved[:own]), Kept(*saved[own:], ctx.step)
        is_gru = ctx.setting.kind_c == "gru"
        run = Backward(given, w, kept, ctx.setting, grad_output,
                       torch.zeros_like(given.h_0) if is_gru else grad_c_n)
        run.all_steps()
        grad_h_0 = run.first_state() if ctx.needs_input_grad[3] else None
        grad_c_0 = None if is_gru else run.grad.c
        grad_offset, grad_gain_x, grad_gain_h, grad_gain_c, grad_shift_c = run.vectors()
        return (run.grad.x, run.grad_w, grad_offset, grad_h_0, grad_c_0, grad_gain_x, grad_gain_h,
                grad_gain_c, grad_shift_c, None, None, None)
