"""The recurrence as fused kernels for NVIDIA GPUs (Triton), with an explicit backward pass.

Float32 in and out, at float32's accuracy on tensor cores: a float32 number is the sum of three
bfloat16 numbers, and a product of two bfloat16 numbers, summed in float32, is exact. Codes
{-1, 0, +1} are bfloat16 numbers themselves, so h times codes is three products; the magnitude of a
row of W_h is multiplied afterwards. Other matrices are split too: six products, those below 2^-24
of the largest left out.

Normalizer, quantizer and size decide how a step is cut into kernels
(:mod:`~qlstm.recurrence.triton_forward`,
:mod:`~qlstm.recurrence.triton_backward`):

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
:func:`recurrence` and :func:`obstacle` the inputs; ``kind``: what normalizes, ``d``: hidden units.
"""

import os
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qlstm.errors import ConfigError
from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm
from qlstm.recurrence import triton_tiling as tiling
from qlstm.recurrence.linear import input_products
from qlstm.recurrence.triton_tiling import ceil_div


def _kind(norm) -> str | None:
    kinds = {Identity: "none", WeightNorm: "none", LayerNorm: "layer",
             BatchNorm: "batch" if getattr(norm, "training", False) else "fixed"}
    return kinds.get(type(norm))


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
    if x.shape[0] * x.shape[1] * len(w_h) >= 1 << 31:
        return "it counts elements in 32 bits: fewer steps or samples at a time"
    kind_x, kind_h, kind_c = (_kind(norm) for norm in norms)
    if None in (kind_x, kind_h, kind_c):
        return "a normalizer of one's own is not in its kernels"
    if kind_x != kind_h or kind_c not in ("none", kind_x) or kind_c == "layer":
        return "its kernels have one kind of normalizer for all products"
    if kind_x == "batch" and x.shape[1] > tiling.MAX_SAMPLES:
        most = tiling.MAX_SAMPLES
        return f"batch normalization has at most {most} samples there, not {x.shape[1]}"
    return None


def recurrence(x: Tensor, w_x: Tensor, w_h: Tensor, bias: Tensor, state: tuple[Tensor, Tensor],
               norms, *, coded: bool = False, trace: list | None = None):
    """As :func:`qlstm.recurrence.naive.recurrence`, in float32; differentiable once, without
    ``trace``."""
    if trace is not None:
        raise ConfigError("backend 'triton' keeps no trace; take backend='naive'")
    x, d = input_products(x, w_x), w_h.shape[1]
    steps, samples, _ = x.shape
    norm_x, norm_h, norm_c = norms
    kind, kind_c = _kind(norm_h), _kind(norm_c)
    if kind == "batch" and samples < 2:
        raise ValueError("batch normalization needs at least two samples in training")
    offset, gains, statistics, statistics_c = bias, [None] * 4, None, None
    if kind != "none":
        # N(W_x x_t) + N(W_h h_{t-1}) + b = g_x y + g_h r + (beta_x + beta_h + b), y and r
        # standardized
        offset = bias + (norm_x.shift + norm_h.shift).flatten()
        gains = [norm_x.gain.flatten(), norm_h.gain.flatten(), None, None]
    if kind_c != "none":
        gains[2:] = norm_c.gain, norm_c.shift
    if kind == "layer":
        statistics = x.new_empty(steps, samples, 4, 4)
    elif kind == "batch":
        statistics, statistics_c = x.new_empty(steps, 4, 4 * d), x.new_empty(steps, 2, d)
    elif kind == "fixed":
        given = [*norm_x.running_statistics(steps), *norm_h.running_statistics(steps)]
        statistics = torch.stack([part.flatten(1) for part in given], 1)
        if kind_c != "none":
            statistics_c = torch.stack(norm_c.running_statistics(steps), 1)
    keep = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, w_h, offset, *state, *gains))
    output, c = _Recurrence.apply(x, w_h, offset, *state, *gains, statistics, statistics_c,
                                  _Setting(kind, kind_c, coded, keep))
    if kind == "batch":
        norm_x.update(statistics[:, 0], statistics[:, 1], samples)
        norm_h.update(statistics[:, 2], statistics[:, 3], samples)
        if kind_c != "none":
            norm_c.update(statistics_c[:, 0], statistics_c[:, 1], samples)
    return output, (output[-1], c)


class _Setting(NamedTuple):
    kind: str
    kind_c: str
    coded: bool
    keep: bool  # for a backward pass


def _planes(w_h: Tensor, coded: bool) -> tuple[Tensor, Tensor | None]:
    """W_h as bfloat16 (1, rows, ld) and the magnitudes of its rows (4d), or without codes as the
    sum of (3, rows, ld).

    Zeros make up ``ld``, a multiple of 128, and as many rows, with as many more as a tile may have
    beyond the last one.
    """
    rows, d = w_h.shape
    planes = w_h.new_zeros(
        1 if coded else 3, ceil_div(rows + 64, 128) * 128, ceil_div(d, 128) * 128,
        dtype=torch.bfloat16)
    if coded:
        planes[0, :rows, :d] = w_h.sign()
        return planes, w_h.abs().amax(1)
    _split(w_h, planes[:, :rows, :d])
    return planes, None


def _split(matrix: Tensor, planes: Tensor):
    """Fill three ``planes`` of bfloat16, whose sum is the ``matrix``."""
    for plane in planes:
        plane.copy_(matrix)
        matrix = matrix - plane


def _multiprocessors(x: Tensor) -> int:
    """How many programs run at once for sure; 0 in the interpreter."""
    return (torch.cuda.get_device_properties(x.device).multi_processor_count
            if x.is_cuda and tiling.TOGETHER else 0)


def _add_weight_gradient(grad_w: Tensor, grad_product: Tensor, h_0: Tensor, output: Tensor,
                         first: int):
    """Add those steps' products of gradient and h_{t-1}, from step ``first`` on, to that of W_h."""
    if first == 0:
        grad_w.addmm_(grad_product[0].t(), h_0)
        grad_product, first = grad_product[1:], 1
    if len(grad_product):
        before = output[first - 1 : first - 1 + len(grad_product)]
        grad_w.addmm_(grad_product.flatten(0, 1).t(), before.flatten(0, 1))


def _layer_gradients(kernels, blocks, x, saved, statistics, gain_x, grad_x) -> Tensor:
    """Layer normalization: the gradient of x in place, and sums of the gains' and shifts'."""
    steps, samples, columns = x.shape
    count, tile = steps * samples, max(1, 2048 // blocks.row_units)
    rows_each = ceil_div(ceil_div(count, tiling.PROGRAMS), tile) * tile
    sums = saved.new_empty(ceil_div(count, rows_each), 3, columns)
    kernels.layer_gradients[(len(sums), 4)](
        x, saved, statistics, gain_x, grad_x, sums, count, rows_each, columns // 4, tile,
        blocks.row_units, num_warps=8)
    return sums


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_h, offset, h_0, c_0, gain_x, gain_h, gain_c, shift_c, statistics,
                statistics_c, setting):
        from qlstm.recurrence import triton_forward as kernels

        steps, samples, d = *x.shape[:2], w_h.shape[1]
        x, h_0, c_0 = x.contiguous(), h_0.contiguous(), c_0.contiguous()
        planes, magnitude = _planes(w_h, setting.coded)
        output, cells = x.new_empty(steps, samples, d), x.new_empty(steps, samples, d)
        saved = torch.empty_like(x) if setting.keep else x.new_empty(1, samples, 4 * d)
        blocks = tiling.Blocks(samples, d, setting.kind, setting.coded, _multiprocessors(x))
        norm, cell = tiling.KINDS[setting.kind], tiling.KINDS[setting.kind_c]
        inputs = x, planes, magnitude, offset, gain_x, gain_h
        h_planes = planes.new_zeros(2, 3, blocks.samples * blocks.forward_grid[1], planes.shape[-1])
        _split(h_0, h_planes[0, :, :samples, :d])
        arrived = x.new_zeros(1, dtype=torch.int32)
        sizes = samples, d, planes.shape[-1]
        saved_step = x[0].numel() if setting.keep else 0

        def columns(t, count):
            kernels.forward_columns[blocks.forward_grid](
                *inputs, gain_c, shift_c, h_planes, c_0, output, cells, saved, statistics,
                statistics_c, arrived, t, count, *sizes, h_planes.stride(1), planes.stride(0),
                saved_step, norm, cell, len(planes), blocks.samples, blocks.forward_units, BK=64,
                num_warps=blocks.warps, launch_cooperative_grid=count > 1)

        def rows(t, count, kept):
            kernels.forward_rows[blocks.row_grid](
                *inputs, h_0, h_planes, c_0, output, cells, saved, statistics, t, count, *sizes,
                h_planes.stride(1), saved_step, kept, blocks.row_samples, blocks.row_units,
                num_warps=blocks.row_warps, num_stages=1)

        with torch.cuda.device_of(x):
            if blocks.persistent:
                rows(0, steps, True)
            else:
                together = steps if blocks.forward_together else 1
                for t in range(0, steps, together):
                    columns(t, together)
                    if setting.kind == "layer":
                        rows(t, 1, False)
        if setting.keep:
            kept = None if setting.kind == "none" else x
            ctx.save_for_backward(kept, planes, magnitude, offset, h_0, c_0, gain_x, gain_h, gain_c,
                                  shift_c, statistics, statistics_c, output, cells, saved)
            ctx.setting = setting
        return output, cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output, grad_c_n):
        from qlstm.recurrence import triton_backward as kernels

        (x, planes, magnitude, offset, h_0, c_0, gain_x, gain_h, gain_c, shift_c, statistics,
         statistics_c, output, cells, saved) = ctx.saved_tensors
        setting = ctx.setting
        steps, samples, d = output.shape
        blocks = tiling.Blocks(samples, d, setting.kind, setting.coded, _multiprocessors(saved))
        norm, cell = tiling.KINDS[setting.kind], tiling.KINDS[setting.kind_c]
        grad_output = grad_output.contiguous()
        grad_x = torch.empty_like(saved)
        # without normalization the gradients of x, of the pre-activations and of the recurrent
        # product are the same
        segment = max(2, ceil_div(steps, tiling.GRADIENT_SEGMENTS))
        slots = steps if setting.kind == "none" else segment
        grad_product = grad_x if setting.kind == "none" else saved.new_empty(slots, samples, 4 * d)
        partial, other_partial = (
            saved.new_empty(1 if blocks.persistent else blocks.splits, samples, d),
            torch.empty_like(c_0))
        grad_c, grad_c_before = (grad_c_n.clone(memory_format=torch.contiguous_format),
                                 torch.empty_like(c_0))
        grad_w = saved.new_zeros(4 * d, d)
        sums, sums_c = (saved.new_empty(blocks.backward_grid[1], 3, 4 * d),
                        saved.new_empty(blocks.backward_grid[1], 2, d))
        inputs = x, planes, magnitude, offset, gain_x, gain_h
        sizes = samples, d, planes.shape[-1]
        g_planes, strides = None, (0, 0, 0)
        if blocks.fused:
            g_planes = planes.new_zeros(
                2, 3, blocks.samples * blocks.backward_grid[1], ceil_div(4 * d, 128) * 128)
            strides = g_planes.shape[-1], g_planes.stride(1), planes.stride(0)

        def product(slot):
            kernels.backward_product[blocks.product_grid](
                grad_product, planes, magnitude, partial, slot, blocks.product_length, *sizes,
                planes.stride(0), len(planes), blocks.product_samples, blocks.product_units, BQ=64,
                num_warps=4 if blocks.product_samples < 128 else 8)

        def columns(t, count):
            kernels.backward_columns[blocks.backward_grid](
                *inputs, gain_c, shift_c, c_0, cells, saved, statistics, statistics_c, grad_output,
                g_planes, partial, grad_c, grad_c_before, grad_x, grad_product, sums, sums_c,
                torch.zeros_like(arrived), t, count, steps, slots,
                blocks.splits if t < steps - 1 else 0, *sizes, *strides, norm, cell,
                len(planes) if blocks.fused else 0, blocks.samples, blocks.backward_units, BQ=64,
                num_warps=blocks.warps, launch_cooperative_grid=count > 1)

        def rows(t, count, kept, splits):
            kernels.backward_rows[blocks.row_grid](
                *inputs, c_0, cells, saved, statistics, grad_output, partial, other_partial, grad_c,
                grad_c_before, grad_x, grad_product, t, count, slots, splits, *sizes, kept,
                blocks.row_samples, blocks.row_units, num_warps=blocks.row_warps, num_stages=1)

        def weight(first):
            own = grad_product[: min(slots, steps - first)]
            _add_weight_gradient(grad_w, own, h_0, output, first)

        with torch.cuda.device_of(saved):
            arrived = torch.zeros(1, dtype=torch.int32, device=saved.device)
            if blocks.persistent:
                for first in reversed(range(0, steps, slots)):
                    count = min(slots, steps - first)
                    rows(first + count - 1, count, True, 0 if first + count == steps else 1)
                    grad_c, grad_c_before = grad_c_before, grad_c
                    partial, other_partial = other_partial, partial
                    weight(first)
                grad_h_0 = partial.view_as(c_0)
            elif setting.kind == "layer":
                for t in reversed(range(steps)):
                    if t < steps - 1:
                        product((t + 1) % slots)
                    rows(t, 1, False, blocks.splits if t < steps - 1 else 0)
                    grad_c, grad_c_before = grad_c_before, grad_c
                    if t % slots == 0:
                        weight(t)
            else:
                for first in reversed(range(0, steps, slots)):
                    count = min(slots, steps - first)
                    together = count if blocks.backward_together else 1
                    for t in reversed(range(first, first + count, together)):
                        if t < steps - 1 and not blocks.fused:
                            product((t + 1) % slots)
                        columns(t + together - 1, together)
                        grad_c, grad_c_before = grad_c_before, grad_c
                    weight(first)
            if not blocks.persistent:
                grad_h_0 = None
                if ctx.needs_input_grad[3]:
                    product(0)
                    grad_h_0 = partial.sum(0)
            if setting.kind == "layer":
                sums = _layer_gradients(kernels, blocks, x, saved, statistics, gain_x, grad_x)
        if setting.kind == "none":
            grad_offset, grad_gain_x, grad_gain_h = grad_x.sum((0, 1)), None, None
        else:
            grad_offset, grad_gain_x, grad_gain_h = sums.sum(0)
        grad_shift_c, grad_gain_c = (None, None) if setting.kind_c == "none" else sums_c.sum(0)
        return (grad_x, grad_w, grad_offset, grad_h_0, grad_c, grad_gain_x, grad_gain_h,
                grad_gain_c, grad_shift_c, None, None, None)
