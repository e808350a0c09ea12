"""The kernels of the backward pass of :mod:`qlstm.recurrence.triton`.

Names and the layout of a tile are those of :mod:`~qlstm.recurrence.triton_forward`, groups of
arguments those of :mod:`~qlstm.recurrence.triton_arguments`.
"""

import triton
import triton.language as tl

from qlstm.recurrence.triton_tiles import (
    BATCH,
    EPS,
    GRU,
    NONE,
    TERMS,
    _accumulate,
    _cell_backward,
    _gate_mean,
    _gru_cell_backward,
    _matrix_dot,
    _of_columns,
    _of_units,
    _planes_dot,
    _sigmoid,
    _split_dot,
    _spread,
    _store_planes,
    _tanh,
    _tile,
    _unstack,
    _wait_for_all,
)


@triton.jit(do_not_specialize=["slot", "length"])
def backward_product(
    given,  # Given
    w,  # Planes (PLANES, 4 d, d): W_h
    grad,  # Gradients: ``h`` is written
    sizes,  # Sizes
    slot,  # of grad.product
    length,  # rows of W_h that a program sums over, a multiple of BQ
    PLANES: tl.constexpr,
    BN: tl.constexpr,
    BJ: tl.constexpr,
    BQ: tl.constexpr,
):
    """The gradient of h_{t-1}, W_h' times that of the product W_h h_{t-1}, in parts."""
    N, d = sizes.N, sizes.d
    tile = _tile(tl.program_id(0) * BJ, tl.program_id(1) * BN, N, d, BN, BJ)
    product = grad.product + slot * N * 4 * d
    start = tl.program_id(2) * length
    acc = tl.zeros((BN, BJ), tl.float32)
    for first in range(start, start + length, BQ):
        q = first + tl.arange(0, BQ)
        piece = tl.load(product + tile.n[:, None] * (4 * d) + q[None, :],
                        mask=(tile.n < N)[:, None] & (q < 4 * d)[None, :], other=0.0)
        if PLANES == 1:
            piece *= tl.load(given.magnitude + q, mask=q < 4 * d, other=0.0)[None, :]
        w_q = w.first + q[:, None] * w.length + tile.unit[None, :]
        acc = _matrix_dot(
            piece, w_q, w.plane, (q < 4 * d)[:, None] & tile.inside_c[None, :], acc, PLANES)
    tl.store(grad.h + tl.program_id(2) * N * d + tile.at_c, acc, mask=tile.valid_c)


@triton.jit(do_not_specialize=["t"], do_not_specialize_on_alignment=["steps"])
def backward_columns(
    given,  # Given
    w,  # Planes (PLANES, 4 d, d): W_h
    g,  # Planes (2, 3, N, 4 d): the gradient of the recurrent product of step t + 1 times the
    # magnitudes of the rows, at (t + 1) modulo 2
    kept,  # Kept
    grad,  # Gradients: ``c_before``, ``x``, ``product``, ``sums`` and ``sums_c`` are written
    arrived,  # (1), int32: counts the programs that have done a step
    sizes,  # Sizes
    t,  # the first step of this launch
    steps,  # how many
    NORM: tl.constexpr,
    CELL: tl.constexpr,
    PLANES: tl.constexpr,  # 0: no ``g``, the gradient of h_t through step t + 1 is in grad.h
    BN: tl.constexpr,
    BJ: tl.constexpr,
    BQ: tl.constexpr,
):
    """Steps t, t - 1, ... back for BJ units of BN samples (with BATCH: of all); several need a
    cooperative launch."""
    T, N, d = sizes
    tile = _tile(tl.program_id(0) * BJ, tl.program_id(1) * BN, N, d, BN, BJ)
    valid, valid_c, inside = tile.valid, tile.valid_c, tile.inside
    newest = t == T - 1
    programs = tl.num_programs(0) * tl.num_programs(1)
    grad_c = tl.load(grad.c + tile.at_c, mask=valid_c, other=0.0)
    c = tl.load(kept.cells + t * N * d + tile.at_c, mask=valid_c, other=0.0)
    total, total_x, total_h = (tl.zeros((4 * BJ,), tl.float32), tl.zeros((4 * BJ,), tl.float32),
                               tl.zeros((4 * BJ,), tl.float32))
    total_c, total_gain = tl.zeros((BJ,), tl.float32), tl.zeros((BJ,), tl.float32)
    for step in range(steps):
        grad_h = tl.zeros((BN, BJ), tl.float32)
        if PLANES > 0:
            following = g.first + (t + 1) % 2 * 3 * g.plane + tile.n[:, None] * g.length
            for first in range(0, tl.where(t == T - 1, 0, g.length), BQ):
                q = first + tl.arange(0, BQ)
                w_q = w.first + q[:, None] * w.length + tile.unit[None, :]
                grad_h = _planes_dot(following + q[None, :], g.plane, w_q, w.plane, grad_h, PLANES)
        else:
            for s in range(tl.where(t == T - 1, 0, grad.splits)):
                grad_h += tl.load(grad.h + s * N * d + tile.at_c, mask=valid_c, other=0.0)
        grad_h += tl.load(grad.output + t * N * d + tile.at_c, mask=valid_c, other=0.0)
        # the step once more
        gates = tl.load(kept.saved + t * N * 4 * d + tile.at, mask=valid, other=0.0)
        y = tl.zeros((BN, 4 * BJ), tl.float32)
        r = tl.zeros((BN, 4 * BJ), tl.float32)
        slope_x = tl.zeros((1, 4 * BJ), tl.float32)
        slope_h = tl.zeros((1, 4 * BJ), tl.float32)
        if NORM != NONE:
            moments = kept.statistics + t * 16 * d + tile.column
            y = tl.load(given.x + t * N * 4 * d + tile.at, mask=valid, other=0.0)
            sigma_x = tl.sqrt(tl.load(moments + 4 * d, mask=inside, other=1.0) + EPS)[None, :]
            sigma_h = tl.sqrt(tl.load(moments + 12 * d, mask=inside, other=1.0) + EPS)[None, :]
            mean_x = tl.load(moments, mask=inside, other=0.0)[None, :]
            mean_h = tl.load(moments + 8 * d, mask=inside, other=0.0)[None, :]
            y = tl.where(valid, (y - mean_x) / sigma_x, 0.0)
            r = tl.where(valid, (gates - mean_h) / sigma_h, 0.0)
            g_x, g_h = _of_columns(given.gain_x, tile), _of_columns(given.gain_h, tile)
            gates = y * g_x + r * g_h + _of_columns(given.offset, tile)
            slope_x, slope_h = g_x / sigma_x, g_h / sigma_h
        before = given.c_0 if t == 0 else kept.cells + (t - 1) * N * d
        c_before = tl.load(before + tile.at_c, mask=valid_c, other=0.0)
        if CELL == GRU:
            gradient, grad_c = _gru_cell_backward(gates, c_before, grad_h + grad_c, BN, BJ)
        else:
            _, _, _, o = _unstack(gates, BN, BJ)
            o = _sigmoid(o)
            if CELL != NONE:
                moments_c = kept.statistics_c + t * 2 * d + tile.unit
                mean_c = tl.load(moments_c, mask=tile.inside_c, other=0.0)[None, :]
                var_c = tl.load(moments_c + d, mask=tile.inside_c, other=1.0)
                sigma_c = tl.sqrt(var_c + EPS)[None, :]
                standard = tl.where(valid_c, (c - mean_c) / sigma_c, 0.0)
                gain = _of_units(given.gain_c, tile)
                tanh_c = _tanh(standard * gain + _of_units(given.shift_c, tile))
                gradient = grad_h * o * (1.0 - tanh_c * tanh_c)
                sum_c, sum_gain = tl.sum(gradient, 0), tl.sum(gradient * standard, 0)
                if CELL == BATCH:
                    gradient = gradient - (sum_c[None, :] + standard * sum_gain[None, :]) / N
                gradient = gradient * gain / sigma_c
                total_c += sum_c
                total_gain += sum_gain
            else:
                tanh_c = _tanh(c)
                gradient = grad_h * o * (1.0 - tanh_c * tanh_c)
            gradient, grad_c = _cell_backward(
                gates, c_before, tanh_c, grad_h, gradient + grad_c, BN, BJ)
        if NORM == NONE:
            tl.store(grad.x + t * N * 4 * d + tile.at, gradient, mask=valid)
        else:
            gradient = tl.where(valid, gradient, 0.0)
            sum_t = tl.sum(gradient, 0)
            sum_x, sum_h = tl.sum(gradient * y, 0), tl.sum(gradient * r, 0)
            total += sum_t
            total_x += sum_x
            total_h += sum_h
            grad_y = gradient
            if NORM == BATCH:
                grad_y = gradient - (sum_t[None, :] + y * sum_x[None, :]) / N
                gradient = gradient - (sum_t[None, :] + r * sum_h[None, :]) / N
            tl.store(grad.x + t * N * 4 * d + tile.at, grad_y * slope_x, mask=valid)
            gradient *= slope_h
            tl.store(grad.product + t % grad.slots * N * 4 * d + tile.at, gradient, mask=valid)
        if PLANES == 1:
            gradient *= _of_columns(given.magnitude, tile)
        if PLANES > 0:
            own = g.first + t % 2 * 3 * g.plane + tile.n[:, None] * g.length
            _store_planes(own + tile.column[None, :], g.plane, gradient, valid)
        if step < steps - 1:
            _wait_for_all(arrived, (step + 1) * programs)
        c = c_before
        t -= 1
    tl.store(grad.c_before + tile.at_c, grad_c, mask=valid_c)
    if NORM != NONE:
        sums = grad.sums + tl.program_id(1) * 12 * d + tile.column
        _accumulate(sums, total, inside, newest)
        _accumulate(sums + 4 * d, total_x, inside, newest)
        _accumulate(sums + 8 * d, total_h, inside, newest)
    if CELL != NONE and CELL != GRU:
        sums_c = grad.sums_c + tl.program_id(1) * 2 * d + tile.unit
        _accumulate(sums_c, total_c, tile.inside_c, newest)
        _accumulate(sums_c + d, total_gain, tile.inside_c, newest)


@triton.jit(do_not_specialize=["t"], do_not_specialize_on_alignment=["steps"])
def backward_rows(
    given,  # Given
    w,  # Planes (1, 4 d, d): the codes of W_h
    kept,  # Kept
    grad,  # Gradients: ``x``, ``product``, ``c_before`` and with KEPT ``h_before`` are written
    sizes,  # Sizes
    t,  # the first step of this launch
    steps,  # how many; 1 unless KEPT
    CELL: tl.constexpr,  # NONE or GRU
    KEPT: tl.constexpr,  # the codes of W_h stay in the program
    BN: tl.constexpr,
    BJ: tl.constexpr,
):
    """With LAYER: steps t, t - 1, ... back for all units (BJ >= d) of BN samples."""
    T, N, d = sizes
    tile = _tile(0, tl.program_id(0) * BN, N, d, BN, BJ)
    valid, valid_c, samples = tile.valid, tile.valid_c, (tile.n < N)[:, None]
    at_s = tile.n[:, None] * 16 + tl.arange(0, 4)[None, :]
    if KEPT:
        codes = tl.load(w.first + tile.column[:, None] * w.length + tile.unit[None, :],
                        mask=tile.inside[:, None] & tile.inside_c[None, :], other=0.0)
    grad_h = tl.zeros((BN, BJ), tl.float32)
    for s in range(tl.where(t == T - 1, 0, grad.splits)):
        grad_h += tl.load(grad.h + s * N * d + tile.at_c, mask=valid_c, other=0.0)
    grad_c = tl.load(grad.c + tile.at_c, mask=valid_c, other=0.0)
    c = tl.load(kept.cells + t * N * d + tile.at_c, mask=valid_c, other=0.0)
    for _ in range(steps):
        gates = tl.load(kept.saved + t * N * 4 * d + tile.at, mask=valid, other=0.0)
        before = given.c_0 if t == 0 else kept.cells + (t - 1) * N * d
        c_before = tl.load(before + tile.at_c, mask=valid_c, other=0.0)
        grad_h += tl.load(grad.output + t * N * d + tile.at_c, mask=valid_c, other=0.0)
        y = tl.load(given.x + t * N * 4 * d + tile.at, mask=valid, other=0.0)
        moments = kept.statistics + t * N * 16 + at_s
        mean_x = tl.load(moments, mask=samples, other=0.0)
        mean_h = tl.load(moments + 8, mask=samples, other=0.0)
        rate_x = 1.0 / tl.sqrt(tl.load(moments + 4, mask=samples, other=1.0) + EPS)
        rate_h = _spread(
            1.0 / tl.sqrt(tl.load(moments + 12, mask=samples, other=1.0) + EPS), BN, BJ)
        r = tl.where(valid, (gates - _spread(mean_h, BN, BJ)) * rate_h, 0.0)
        y = (y - _spread(mean_x, BN, BJ)) * _spread(rate_x, BN, BJ)
        gates = y * _of_columns(given.gain_x, tile)
        gates += r * _of_columns(given.gain_h, tile)
        gates += _of_columns(given.offset, tile)
        if CELL == GRU:
            gradient, grad_c = _gru_cell_backward(gates, c_before, grad_h + grad_c, BN, BJ)
        else:
            _, _, _, o = _unstack(gates, BN, BJ)
            tanh_c = _tanh(c)
            gradient = grad_c + grad_h * _sigmoid(o) * (1.0 - tanh_c * tanh_c)
            gradient, grad_c = _cell_backward(gates, c_before, tanh_c, grad_h, gradient, BN, BJ)
        tl.store(grad.x + t * N * 4 * d + tile.at, gradient, mask=valid)
        gradient = tl.where(valid, gradient, 0.0) * _of_columns(given.gain_h, tile)
        mean, slope = _gate_mean(gradient, d, BN, BJ), _gate_mean(gradient * r, d, BN, BJ)
        gradient = (gradient - _spread(mean, BN, BJ) - r * _spread(slope, BN, BJ)) * rate_h
        tl.store(grad.product + t % grad.slots * N * 4 * d + tile.at, gradient, mask=valid)
        if KEPT:
            gradient = tl.where(valid, gradient * _of_columns(given.magnitude, tile), 0.0)
            grad_h = _split_dot(gradient, codes, tl.zeros((BN, BJ), tl.float32), TERMS)
        c = c_before
        t -= 1
    tl.store(grad.c_before + tile.at_c, grad_c, mask=valid_c)
    if KEPT:
        tl.store(grad.h_before + tile.at_c, grad_h, mask=valid_c)


@triton.jit(do_not_specialize=["rows", "length"])
def layer_gradients(
    given,  # Given
    kept,  # Kept
    grad,  # Gradients: ``x``, until now of the pre-activations, and ``sums`` are written
    sizes,  # Sizes
    rows,  # T N
    length,  # rows of a program, a multiple of BR
    BR: tl.constexpr,  # rows of a tile
    BJ: tl.constexpr,  # units of a tile, >= d
):
    """After the loop with LAYER: the gradient of x in place of that of the pre-activations, and
    ``sums``; a program has one gate and ``length`` rows."""
    d = sizes.d
    gate = tl.program_id(1)
    unit = tl.arange(0, BJ)
    column = gate * d + unit
    gain = tl.load(given.gain_x + column, mask=unit < d, other=0.0)[None, :]
    total, total_x, total_h = (tl.zeros((BR, BJ), tl.float32), tl.zeros((BR, BJ), tl.float32),
                               tl.zeros((BR, BJ), tl.float32))
    start = tl.program_id(0) * length
    for first in range(start, start + length, BR):
        row = first + tl.arange(0, BR)
        some = row < rows
        valid = some[:, None] & (unit < d)[None, :]
        at = row[:, None] * (4 * d) + column[None, :]
        moments = kept.statistics + row * 16 + gate
        mean_x = tl.load(moments, mask=some, other=0.0)[:, None]
        mean_h = tl.load(moments + 8, mask=some, other=0.0)[:, None]
        rate_x = 1.0 / tl.sqrt(tl.load(moments + 4, mask=some, other=1.0) + EPS)[:, None]
        rate_h = 1.0 / tl.sqrt(tl.load(moments + 12, mask=some, other=1.0) + EPS)[:, None]
        gates = tl.load(grad.x + at, mask=valid, other=0.0)
        y = tl.where(valid, (tl.load(given.x + at, mask=valid, other=0.0) - mean_x) * rate_x, 0.0)
        r = tl.where(
            valid, (tl.load(kept.saved + at, mask=valid, other=0.0) - mean_h) * rate_h, 0.0)
        total, total_x, total_h = total + gates, total_x + gates * y, total_h + gates * r
        gates *= gain
        mean, slope = tl.sum(gates, 1) / d, tl.sum(gates * y, 1) / d
        tl.store(grad.x + at, (gates - mean[:, None] - y * slope[:, None]) * rate_x, mask=valid)
    sums = grad.sums + tl.program_id(0) * 12 * d + column
    tl.store(sums, tl.sum(total, 0), mask=unit < d)
    tl.store(sums + 4 * d, tl.sum(total_x, 0), mask=unit < d)
    tl.store(sums + 8 * d, tl.sum(total_h, 0), mask=unit < d)
