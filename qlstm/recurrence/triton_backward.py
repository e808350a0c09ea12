"""The kernels of the backward pass of :mod:`qlstm.recurrence.triton`.

Names and the layout of a tile are those of :mod:`~qlstm.recurrence.triton_forward`.
"""

import triton
import triton.language as tl

from qlstm.recurrence.triton_tiles import (
    BATCH,
    EPS,
    NONE,
    TERMS,
    _accumulate,
    _cell_backward,
    _gate_mean,
    _matrix_dot,
    _planes_dot,
    _sigmoid,
    _split_dot,
    _spread,
    _store_planes,
    _tanh,
    _unstack,
    _wait_for_all,
)


@triton.jit(do_not_specialize=["slot", "length"])
def backward_product(grad_product, w, magnitude, partial, slot, length, N, d, ld, plane_w,
                     PLANES: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr, BQ: tl.constexpr):
    """The gradient of h_{t-1}, W_h' times that of the product W_h h_{t-1}; a program sums over
    ``length`` rows of W_h."""
    unit = tl.program_id(0) * BJ + tl.arange(0, BJ)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    valid = (n < N)[:, None] & (unit < d)[None, :]
    grad_product += slot * N * 4 * d
    start = tl.program_id(2) * length
    acc = tl.zeros((BN, BJ), tl.float32)
    for first in range(start, start + length, BQ):
        q = first + tl.arange(0, BQ)
        grad = tl.load(grad_product + n[:, None] * (4 * d) + q[None, :],
                       mask=(n < N)[:, None] & (q < 4 * d)[None, :], other=0.0)
        if PLANES == 1:
            grad *= tl.load(magnitude + q, mask=q < 4 * d, other=0.0)[None, :]
        w_q = w + q[:, None] * ld + unit[None, :]
        acc = _matrix_dot(
            grad, w_q, plane_w, (q < 4 * d)[:, None] & (unit < d)[None, :], acc, PLANES)
    tl.store(partial + tl.program_id(2) * N * d + n[:, None] * d + unit[None, :], acc, mask=valid)


@triton.jit(do_not_specialize=["t", "steps", "T", "slots", "splits"])
def backward_columns(x, w, magnitude, offset, gain_x, gain_h, gain_c, shift_c, c_0, cells, saved,
                     statistics, statistics_c, grad_output, g_planes, partial, grad_c,
                     grad_c_before, grad_x, grad_product, sums, sums_c, arrived, t, steps, T, slots,
                     splits, N, d, ld, lq, plane_g, plane_w, NORM: tl.constexpr, CELL: tl.constexpr,
                     PLANES: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr, BQ: tl.constexpr):
    """Steps t, t - 1, ... back for BJ units of BN samples (with BATCH: of all); several need a
    cooperative launch.

    ``g_planes``: (2, 3, N', lq), the gradient of the recurrent product of step t + 1, times the
    rows' magnitudes, as the sum of three at (t + 1) modulo 2. With PLANES = 0 there are none, and
    the gradient of h_t through step t + 1 is the sum of ``splits`` parts that
    :func:`backward_product` left. ``grad_product`` holds the last ``slots`` steps. ``sums``:
    (programs over samples, 3, 4d), sums over samples and steps of the gradient of the
    pre-activations, of it times the standardized input product, and of it times the standardized
    recurrent product.
    """
    unit = tl.program_id(0) * BJ + tl.arange(0, BJ)
    stacked = tl.arange(0, 4 * BJ)
    j = tl.program_id(0) * BJ + stacked // 4
    column = stacked % 4 * d + j
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    valid = (n < N)[:, None] & (j < d)[None, :]
    valid_c = (n < N)[:, None] & (unit < d)[None, :]
    at = n[:, None] * (4 * d) + column[None, :]
    at_c = n[:, None] * d + unit[None, :]
    newest = t == T - 1
    programs = tl.num_programs(0) * tl.num_programs(1)
    grad_c_t = tl.load(grad_c + at_c, mask=valid_c, other=0.0)
    c = tl.load(cells + t * N * d + at_c, mask=valid_c, other=0.0)
    total, total_x, total_h = (tl.zeros((4 * BJ,), tl.float32), tl.zeros((4 * BJ,), tl.float32),
                               tl.zeros((4 * BJ,), tl.float32))
    total_c, total_gain = tl.zeros((BJ,), tl.float32), tl.zeros((BJ,), tl.float32)
    for step in range(steps):
        grad_h = tl.zeros((BN, BJ), tl.float32)
        if PLANES > 0:
            following = g_planes + (t + 1) % 2 * 3 * plane_g + n[:, None] * lq
            for first in range(0, tl.where(t == T - 1, 0, lq), BQ):
                q = first + tl.arange(0, BQ)
                w_q = w + q[:, None] * ld + unit[None, :]
                grad_h = _planes_dot(following + q[None, :], plane_g, w_q, plane_w, grad_h, PLANES)
        else:
            for s in range(splits):
                grad_h += tl.load(partial + s * N * d + at_c, mask=valid_c, other=0.0)
        grad_h += tl.load(grad_output + t * N * d + at_c, mask=valid_c, other=0.0)
        # the step once more
        gates = tl.load(saved + t * N * 4 * d + at, mask=valid, other=0.0)
        y = tl.zeros((BN, 4 * BJ), tl.float32)
        r = tl.zeros((BN, 4 * BJ), tl.float32)
        slope_x = tl.zeros((1, 4 * BJ), tl.float32)
        slope_h = tl.zeros((1, 4 * BJ), tl.float32)
        if NORM != NONE:
            moments = statistics + t * 16 * d + column
            y = tl.load(x + t * N * 4 * d + at, mask=valid, other=0.0)
            sigma_x = tl.sqrt(tl.load(moments + 4 * d, mask=j < d, other=1.0) + EPS)[None, :]
            sigma_h = tl.sqrt(tl.load(moments + 12 * d, mask=j < d, other=1.0) + EPS)[None, :]
            mean_x = tl.load(moments, mask=j < d, other=0.0)[None, :]
            mean_h = tl.load(moments + 8 * d, mask=j < d, other=0.0)[None, :]
            y = tl.where(valid, (y - mean_x) / sigma_x, 0.0)
            r = tl.where(valid, (gates - mean_h) / sigma_h, 0.0)
            g_x = tl.load(gain_x + column, mask=j < d, other=0.0)[None, :]
            g_h = tl.load(gain_h + column, mask=j < d, other=0.0)[None, :]
            gates = y * g_x + r * g_h + tl.load(offset + column, mask=j < d, other=0.0)[None, :]
            slope_x, slope_h = g_x / sigma_x, g_h / sigma_h
        before = c_0 if t == 0 else cells + (t - 1) * N * d
        c_before = tl.load(before + at_c, mask=valid_c, other=0.0)
        _, _, _, o = _unstack(gates, BN, BJ)
        o = _sigmoid(o)
        if CELL != NONE:
            moments_c = statistics_c + t * 2 * d + unit
            mean_c = tl.load(moments_c, mask=unit < d, other=0.0)[None, :]
            sigma_c = tl.sqrt(tl.load(moments_c + d, mask=unit < d, other=1.0) + EPS)[None, :]
            standard = tl.where(valid_c, (c - mean_c) / sigma_c, 0.0)
            gain = tl.load(gain_c + unit, mask=unit < d, other=0.0)[None, :]
            tanh_c = _tanh(
                standard * gain + tl.load(shift_c + unit, mask=unit < d, other=0.0)[None, :])
            grad = grad_h * o * (1.0 - tanh_c * tanh_c)
            sum_c, sum_gain = tl.sum(grad, 0), tl.sum(grad * standard, 0)
            if CELL == BATCH:
                grad = grad - (sum_c[None, :] + standard * sum_gain[None, :]) / N
            grad = grad * gain / sigma_c
            total_c += sum_c
            total_gain += sum_gain
        else:
            tanh_c = _tanh(c)
            grad = grad_h * o * (1.0 - tanh_c * tanh_c)
        grad, grad_c_t = _cell_backward(gates, c_before, tanh_c, grad_h, grad + grad_c_t, BN, BJ)
        if NORM == NONE:
            tl.store(grad_x + t * N * 4 * d + at, grad, mask=valid)
        else:
            grad = tl.where(valid, grad, 0.0)
            sum_t, sum_x, sum_h = tl.sum(grad, 0), tl.sum(grad * y, 0), tl.sum(grad * r, 0)
            total += sum_t
            total_x += sum_x
            total_h += sum_h
            grad_y = grad
            if NORM == BATCH:
                grad_y = grad - (sum_t[None, :] + y * sum_x[None, :]) / N
                grad = grad - (sum_t[None, :] + r * sum_h[None, :]) / N
            tl.store(grad_x + t * N * 4 * d + at, grad_y * slope_x, mask=valid)
            grad *= slope_h
            tl.store(grad_product + t % slots * N * 4 * d + at, grad, mask=valid)
        if PLANES == 1:
            grad *= tl.load(magnitude + column, mask=j < d, other=0.0)[None, :]
        if PLANES > 0:
            own = g_planes + t % 2 * 3 * plane_g + n[:, None] * lq + column[None, :]
            _store_planes(own, plane_g, grad, valid)
        if step < steps - 1:
            _wait_for_all(arrived, (step + 1) * programs)
        c = c_before
        t -= 1
    tl.store(grad_c_before + at_c, grad_c_t, mask=valid_c)
    if NORM != NONE:
        sums += tl.program_id(1) * 12 * d + column
        _accumulate(sums, total, j < d, newest)
        _accumulate(sums + 4 * d, total_x, j < d, newest)
        _accumulate(sums + 8 * d, total_h, j < d, newest)
    if CELL != NONE:
        sums_c += tl.program_id(1) * 2 * d + unit
        _accumulate(sums_c, total_c, unit < d, newest)
        _accumulate(sums_c + d, total_gain, unit < d, newest)


@triton.jit(do_not_specialize=["t", "steps", "slots", "splits"])
def backward_rows(x, w, magnitude, offset, gain_x, gain_h, c_0, cells, saved, statistics,
                  grad_output, partial, grad_h_0, grad_c, grad_c_0, grad_gates, grad_product, t,
                  steps, slots, splits, N, d, ld, KEPT: tl.constexpr,
                  BN: tl.constexpr, BJ: tl.constexpr):
    """With LAYER: steps t, t - 1, ... back for all units (BJ >= d) of BN samples, the codes of W_h
    kept; if not KEPT a single step.

    ``partial``, ``grad_c``: gradients of h_t through step t + 1 (``splits`` parts) and of c_t;
    ``grad_h_0``, ``grad_c_0`` receive those of the state before the first of these steps.
    """
    unit = tl.arange(0, BJ)
    stacked = tl.arange(0, 4 * BJ)
    j = stacked // 4
    column = stacked % 4 * d + j
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    valid = (n < N)[:, None] & (j < d)[None, :]
    valid_c = (n < N)[:, None] & (unit < d)[None, :]
    at = n[:, None] * (4 * d) + column[None, :]
    at_c = n[:, None] * d + unit[None, :]
    at_s = n[:, None] * 16 + tl.arange(0, 4)[None, :]
    if KEPT:
        codes = tl.load(w + column[:, None] * ld + unit[None, :],
                        mask=(j < d)[:, None] & (unit < d)[None, :], other=0.0)
    grad_h = tl.zeros((BN, BJ), tl.float32)
    for s in range(splits):
        grad_h += tl.load(partial + s * N * d + at_c, mask=valid_c, other=0.0)
    grad_c_t = tl.load(grad_c + at_c, mask=valid_c, other=0.0)
    c = tl.load(cells + t * N * d + at_c, mask=valid_c, other=0.0)
    for _ in range(steps):
        gates = tl.load(saved + t * N * 4 * d + at, mask=valid, other=0.0)
        before = c_0 if t == 0 else cells + (t - 1) * N * d
        c_before = tl.load(before + at_c, mask=valid_c, other=0.0)
        grad_h += tl.load(grad_output + t * N * d + at_c, mask=valid_c, other=0.0)
        y = tl.load(x + t * N * 4 * d + at, mask=valid, other=0.0)
        moments = statistics + t * N * 16 + at_s
        some = (n < N)[:, None]
        mean_x = tl.load(moments, mask=some, other=0.0)
        mean_h = tl.load(moments + 8, mask=some, other=0.0)
        rate_x = 1.0 / tl.sqrt(tl.load(moments + 4, mask=some, other=1.0) + EPS)
        rate_h = _spread(
            1.0 / tl.sqrt(tl.load(moments + 12, mask=some, other=1.0) + EPS), BN, BJ)
        r = tl.where(valid, (gates - _spread(mean_h, BN, BJ)) * rate_h, 0.0)
        y = (y - _spread(mean_x, BN, BJ)) * _spread(rate_x, BN, BJ)
        gates = y * tl.load(gain_x + column, mask=j < d, other=0.0)[None, :]
        gates += r * tl.load(gain_h + column, mask=j < d, other=0.0)[None, :]
        gates += tl.load(offset + column, mask=j < d, other=0.0)[None, :]
        _, _, _, o = _unstack(gates, BN, BJ)
        tanh_c = _tanh(c)
        grad = grad_c_t + grad_h * _sigmoid(o) * (1.0 - tanh_c * tanh_c)
        grad, grad_c_t = _cell_backward(gates, c_before, tanh_c, grad_h, grad, BN, BJ)
        tl.store(grad_gates + t * N * 4 * d + at, grad, mask=valid)
        grad = (tl.where(valid, grad, 0.0)
                * tl.load(gain_h + column, mask=j < d, other=0.0)[None, :])
        mean, slope = _gate_mean(grad, d, BN, BJ), _gate_mean(grad * r, d, BN, BJ)
        grad = (grad - _spread(mean, BN, BJ) - r * _spread(slope, BN, BJ)) * rate_h
        tl.store(grad_product + t % slots * N * 4 * d + at, grad, mask=valid)
        if KEPT:
            grad = tl.where(
                valid, grad * tl.load(magnitude + column, mask=j < d, other=0.0)[None, :], 0.0)
            grad_h = _split_dot(grad, codes, tl.zeros((BN, BJ), tl.float32), TERMS)
        c = c_before
        t -= 1
    tl.store(grad_c_0 + at_c, grad_c_t, mask=valid_c)
    if KEPT:
        tl.store(grad_h_0 + at_c, grad_h, mask=valid_c)


@triton.jit(do_not_specialize=["rows", "length"])
def layer_gradients(x, saved, statistics, gain_x, grad_gates, sums, rows, length, d,
                    BR: tl.constexpr, BJ: tl.constexpr):
    """After the loop with LAYER: the gradient of x in place of that of the pre-activations, and
    ``sums``.

    Of one gate and ``length`` of the T N rows; ``sums`` (programs, 3, 4d) as in
    :func:`backward_columns`.
    """
    gate = tl.program_id(1)
    unit = tl.arange(0, BJ)
    column = gate * d + unit
    gain = tl.load(gain_x + column, mask=unit < d, other=0.0)[None, :]
    total, total_x, total_h = (tl.zeros((BR, BJ), tl.float32), tl.zeros((BR, BJ), tl.float32),
                               tl.zeros((BR, BJ), tl.float32))
    start = tl.program_id(0) * length
    for first in range(start, start + length, BR):
        row = first + tl.arange(0, BR)
        some = row < rows
        valid = some[:, None] & (unit < d)[None, :]
        at = row[:, None] * (4 * d) + column[None, :]
        moments = statistics + row * 16 + gate
        mean_x = tl.load(moments, mask=some, other=0.0)[:, None]
        mean_h = tl.load(moments + 8, mask=some, other=0.0)[:, None]
        rate_x = 1.0 / tl.sqrt(tl.load(moments + 4, mask=some, other=1.0) + EPS)[:, None]
        rate_h = 1.0 / tl.sqrt(tl.load(moments + 12, mask=some, other=1.0) + EPS)[:, None]
        grad = tl.load(grad_gates + at, mask=valid, other=0.0)
        y = tl.where(valid, (tl.load(x + at, mask=valid, other=0.0) - mean_x) * rate_x, 0.0)
        r = tl.where(valid, (tl.load(saved + at, mask=valid, other=0.0) - mean_h) * rate_h, 0.0)
        total, total_x, total_h = total + grad, total_x + grad * y, total_h + grad * r
        grad *= gain
        mean, slope = tl.sum(grad, 1) / d, tl.sum(grad * y, 1) / d
        tl.store(grad_gates + at, (grad - mean[:, None] - y * slope[:, None]) * rate_x, mask=valid)
    sums += tl.program_id(0) * 12 * d + column
    tl.store(sums, tl.sum(total, 0), mask=unit < d)
    tl.store(sums + 4 * d, tl.sum(total_x, 0), mask=unit < d)
    tl.store(sums + 8 * d, tl.sum(total_h, 0), mask=unit < d)
