"""The kernels of :mod:`qlstm.recurrence.triton`, which says how they play together.

A tile of gates has samples as rows and, as columns, units times gates with the gate running
fastest: column 4 j + g is gate g of unit j. So normalizers act on the four gates at once, and only
the cell's equations take them apart. All tensors in memory are as the naive backend has them, (...,
4, d) and (..., d), contiguous, float32; padding of a tile reads as zero and is not written. Where a
name stands for a size, N, d and T have their meaning of everywhere; ``BN`` is the samples of a
tile, ``BJ`` its hidden units, ``BK`` and ``BQ`` the length of a piece of a sum.
"""

import triton
import triton.language as tl
from triton import knobs

INTERPRETED = tl.constexpr(knobs.runtime.interpret)
NONE, LAYER, BATCH, FIXED = (
    tl.constexpr(kind) for kind in range(4)
)  # FIXED: batch norm with given statistics
EPS = tl.constexpr(1e-5)
TERMS = tl.constexpr(3)


@triton.jit
def _dot(a, b, acc):
    """acc + a b for bfloat16 ``a`` and ``b``: each product is exact."""
    exact = (
        tl.float32 if INTERPRETED else tl.bfloat16
    )  # the interpreter's products of bfloat16 are wrong
    return tl.dot(a.to(exact), b.to(exact), acc)


@triton.jit
def _split(a):
    """Float32 ``a`` as the sum of three bfloat16 numbers, the largest first."""
    first = a.to(tl.bfloat16)
    a -= first.to(tl.float32)
    second = a.to(tl.bfloat16)
    a -= second.to(tl.float32)
    return first, second, a.to(tl.bfloat16)


@triton.jit
def _split_dot(a, b, acc, TERMS: tl.constexpr):
    """acc + a b for float32 ``a``, its first TERMS bfloat16 numbers, and bfloat16 ``b``.

    The smallest first: tensor cores cut off what they add to ``acc``, so it should be small for
    long.
    """
    first, second, third = _split(a)
    if TERMS > 2:
        acc = _dot(third, b, acc)
    if TERMS > 1:
        acc = _dot(second, b, acc)
    return _dot(first, b, acc)


@triton.jit
def _matrix_dot(a, w, plane, mask, acc, PLANES: tl.constexpr):
    """acc + a W for float32 ``a`` and the sum W of PLANES bfloat16 tiles at ``w``, ``w + plane``,
    ...

    Products of the term of order p and the plane of order p' are left out where p + p' is TERMS or
    more. A sum of its own: tensor cores cut off what they add to ``acc``, while an addition outside
    them rounds.
    """
    part = tl.zeros_like(acc)
    for p in tl.static_range(PLANES - 1, -1, -1):
        part = _split_dot(a, tl.load(w + p * plane, mask=mask, other=0.0), part, TERMS - p)
    return acc + part


@triton.jit
def _planes_dot(a, plane_a, w, plane_w, acc, PLANES: tl.constexpr):
    """The same for a matrix of three bfloat16 tiles at ``a``, ``a + plane_a``, ...; nothing is
    masked."""
    part = tl.zeros_like(acc)
    for p in tl.static_range(PLANES - 1, -1, -1):
        w_p = tl.load(w + p * plane_w)
        for q in tl.static_range(TERMS - 1 - p, -1, -1):
            part = _dot(tl.load(a + q * plane_a, cache_modifier=".cg"), w_p, part)
    return acc + part


@triton.jit
def _store_planes(pointer, plane, value, mask):
    first, second, third = _split(value)
    tl.store(pointer, first, mask=mask)
    tl.store(pointer + plane, second, mask=mask)
    tl.store(pointer + 2 * plane, third, mask=mask)


@triton.jit
def _wait_for_all(counter, expected):
    """Until all programs of a cooperative launch have come here; what they have written before can
    be read after."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < expected:
        pass
    tl.debug_barrier()


@triton.jit
def _sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def _tanh(x):
    """To 2 units in the last place; near 0 the polynomial of Cephes' tanhf, where the quotient
    would cancel."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    z = tl.minimum(x * x, 1.0)
    p = -5.70498872745e-3 * z + 2.06390887954e-2
    p = p * z - 5.37397155531e-2
    p = p * z + 1.33314422036e-1
    p = p * z - 3.33332819422e-1
    return tl.where(tl.abs(x) < 0.625, x + x * z * p, tl.where(x < 0.0, -far, far))


@triton.jit
def _unstack(y, BN: tl.constexpr, BJ: tl.constexpr):
    """The tiles (BN, BJ) of i, f, a, o."""
    ia, fo = tl.split(tl.reshape(y, (BN, BJ, 2, 2)))
    i, a = tl.split(ia)
    f, o = tl.split(fo)
    return i, f, a, o


@triton.jit
def _stack(i, f, a, o, BN: tl.constexpr, BJ: tl.constexpr):
    return tl.reshape(tl.join(tl.join(i, a), tl.join(f, o)), (BN, 4 * BJ))


@triton.jit
def _gate_mean(y, d, BN: tl.constexpr, BJ: tl.constexpr):
    """Mean over the units, (BN, 4)."""
    return tl.sum(tl.reshape(y, (BN, BJ, 4)), 1) / d


@triton.jit
def _spread(y, BN: tl.constexpr, BJ: tl.constexpr):
    """The inverse direction: (BN, 4) for all units."""
    return tl.reshape(tl.broadcast_to(y[:, None, :], (BN, BJ, 4)), (BN, 4 * BJ))


@triton.jit
def _row_standardize(y, valid, statistics, at, store, d, BN: tl.constexpr, BJ: tl.constexpr):
    """Layer normalization without gain and shift; stores mean and variance (biased), each (N,
    4)."""
    mean = _gate_mean(y, d, BN, BJ)
    y = tl.where(valid, y - _spread(mean, BN, BJ), 0.0)
    var = _gate_mean(y * y, d, BN, BJ)
    tl.store(statistics + at, mean, mask=store)
    tl.store(statistics + 4 + at, var, mask=store)
    return y * _spread(1.0 / tl.sqrt(var + EPS), BN, BJ)


@triton.jit
def _column_standardize(y, valid, statistics, column, inside, columns, N, NORM: tl.constexpr):
    """Batch normalization without gain and shift; stores mean and variance (biased), or with FIXED
    reads them."""
    if NORM == BATCH:
        mean = tl.sum(y, 0) / N
        y = tl.where(valid, y - mean[None, :], 0.0)
        var = tl.sum(y * y, 0) / N
        tl.store(statistics + column, mean, mask=inside)
        tl.store(statistics + columns + column, var, mask=inside)
    else:
        mean = tl.load(statistics + column, mask=inside, other=0.0)
        var = tl.load(statistics + columns + column, mask=inside, other=0.0)
        y = tl.where(valid, y - mean[None, :], 0.0)
    return y / tl.sqrt(var + EPS)[None, :]


@triton.jit
def _cell(gates, c, BN: tl.constexpr, BJ: tl.constexpr):
    """The new cell state, and the opened output gate sig(o~)."""
    i, f, a, o = _unstack(gates, BN, BJ)
    # c_t = sig(i~) * tanh(a~) + sig(f~) * c_{t-1}
    return _sigmoid(i) * _tanh(a) + _sigmoid(f) * c, _sigmoid(o)


@triton.jit
def _cell_backward(gates, c, tanh_c, grad_h, grad_c, BN: tl.constexpr, BJ: tl.constexpr):
    """Gradients of the stacked pre-activations and of ``c``, the last cell state, from those of h_t
    and c_t."""
    i, f, a, o = _unstack(gates, BN, BJ)
    i, f, a, o = _sigmoid(i), _sigmoid(f), _tanh(a), _sigmoid(o)
    grad_i = grad_c * a * i * (1.0 - i)
    grad_f = grad_c * c * f * (1.0 - f)
    grad_a = grad_c * i * (1.0 - a * a)
    grad_o = grad_h * tanh_c * o * (1.0 - o)
    return _stack(grad_i, grad_f, grad_a, grad_o, BN, BJ), grad_c * f


@triton.jit
def _accumulate(pointer, value, mask, first):
    """Add ``value`` to what is there, unless it is the first: memory is not zeroed."""
    if first:
        tl.store(pointer, value, mask=mask)
    else:
        tl.store(pointer, value + tl.load(pointer, mask=mask, other=0.0), mask=mask)


@triton.jit(do_not_specialize=["t", "steps"])
def forward_columns(x, w, magnitude, offset, gain_x, gain_h, gain_c, shift_c, h_planes, c_0, output,
                    cells, saved, statistics, statistics_c, arrived, t, steps, N, d, ld, plane_h,
                    plane_w, saved_step, NORM: tl.constexpr, CELL: tl.constexpr,
                    PLANES: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr, BK: tl.constexpr):
    """Steps t, t + 1, ... for BJ units of BN samples (with BATCH: of all). With LAYER only the
    product of one step.

    ``h_planes``: (2, 3, N', ld), h_{t-1} as the sum of three at t modulo 2. Several steps need a
    cooperative launch.
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
    c_before = c_0 if t == 0 else cells + (t - 1) * N * d
    c = tl.zeros((BN, BJ), tl.float32)
    if NORM != LAYER:
        c = tl.load(c_before + at_c, mask=valid_c, other=0.0)
    programs = tl.num_programs(0) * tl.num_programs(1)
    for step in range(steps):
        y = tl.zeros((BN, 4 * BJ), tl.float32)
        if NORM != LAYER:
            y = tl.load(x + t * N * 4 * d + at, mask=valid, other=0.0)
        # W_h h_{t-1}
        h = h_planes + t % 2 * 3 * plane_h + n[:, None] * ld
        product = tl.zeros((BN, 4 * BJ), tl.float32)
        for first in range(0, ld, BK):
            k = first + tl.arange(0, BK)
            w_k = w + column[None, :] * ld + k[:, None]
            product = _planes_dot(h + k[None, :], plane_h, w_k, plane_w, product, PLANES)
        if PLANES == 1:
            product *= tl.load(magnitude + column, mask=j < d, other=0.0)[None, :]
        product = tl.where(valid, product, 0.0)
        if NORM == LAYER:
            tl.store(saved + t * saved_step + at, product, mask=valid)
        else:
            gates_offset = tl.load(offset + column, mask=j < d, other=0.0)
            if NORM == NONE:
                gates = y + product + gates_offset[None, :]
                tl.store(saved + t * saved_step + at, gates, mask=valid)
            else:
                tl.store(saved + t * saved_step + at, product, mask=valid)
                moments = statistics + t * 16 * d
                y = _column_standardize(y, valid, moments, column, j < d, 4 * d, N, NORM)
                r = _column_standardize(
                    product, valid, moments + 8 * d, column, j < d, 4 * d, N, NORM)
                y *= tl.load(gain_x + column, mask=j < d, other=0.0)[None, :]
                gates = (y + r * tl.load(gain_h + column, mask=j < d, other=0.0)[None, :]
                         + gates_offset[None, :])
            c, o = _cell(gates, c, BN, BJ)
            tl.store(cells + t * N * d + at_c, c, mask=valid_c)
            opened = c
            if CELL != NONE:
                opened = tl.where(valid_c, c, 0.0)
                opened = _column_standardize(
                    opened, valid_c, statistics_c + t * 2 * d, unit, unit < d, d, N, CELL)
                opened *= tl.load(gain_c + unit, mask=unit < d, other=0.0)[None, :]
                opened += tl.load(shift_c + unit, mask=unit < d, other=0.0)[None, :]
            # h_t = sig(o~) * tanh(N(c_t))
            h_t = o * _tanh(opened)
            tl.store(output + t * N * d + at_c, h_t, mask=valid_c)
            after = h_planes + (t + 1) % 2 * 3 * plane_h + n[:, None] * ld + unit[None, :]
            _store_planes(after, plane_h, h_t, valid_c)
            if step < steps - 1:
                _wait_for_all(arrived, (step + 1) * programs)
        t += 1


@triton.jit(do_not_specialize=["t", "steps"])
def forward_rows(x, w, magnitude, offset, gain_x, gain_h, h_0, h_planes, c_0, output, cells, saved,
                 statistics, t, steps, N, d, ld, plane_h, saved_step, NORM: tl.constexpr,
                 KEPT: tl.constexpr, BN: tl.constexpr, BJ: tl.constexpr):
    """Steps t, t + 1, ... for all units (BJ >= d) of BN samples, W_h, its codes, kept; if not KEPT
    the product is read."""
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
    if t == 0:
        h_before, c_before = h_0, c_0
    else:
        h_before, c_before = output + (t - 1) * N * d, cells + (t - 1) * N * d
    c = tl.load(c_before + at_c, mask=valid_c, other=0.0)
    if KEPT:
        h = tl.load(h_before + at_c, mask=valid_c, other=0.0)
        codes = tl.load(w + column[None, :] * ld + unit[:, None],
                        mask=(j < d)[None, :] & (unit < d)[:, None], other=0.0)
    for _ in range(steps):
        y = tl.load(x + t * N * 4 * d + at, mask=valid, other=0.0)
        gates_offset = tl.load(offset + column, mask=j < d, other=0.0)[None, :]
        if KEPT:
            # W_h h_{t-1}
            product = _split_dot(h, codes, tl.zeros((BN, 4 * BJ), tl.float32), TERMS)
            product *= tl.load(magnitude + column, mask=j < d, other=0.0)[None, :]
        else:
            product = tl.load(saved + t * saved_step + at, mask=valid, other=0.0)
        if NORM == LAYER:
            if KEPT:
                tl.store(saved + t * saved_step + at, product, mask=valid)
            moments = statistics + t * N * 16
            y = _row_standardize(y, valid, moments, at_s, (n < N)[:, None], d, BN, BJ)
            r = _row_standardize(product, valid, moments + 8, at_s, (n < N)[:, None], d, BN, BJ)
            y *= tl.load(gain_x + column, mask=j < d, other=0.0)[None, :]
            gates = y + r * tl.load(gain_h + column, mask=j < d, other=0.0)[None, :] + gates_offset
        else:
            gates = y + product + gates_offset
            tl.store(saved + t * saved_step + at, gates, mask=valid)
        c, o = _cell(gates, c, BN, BJ)
        tl.store(cells + t * N * d + at_c, c, mask=valid_c)
        # h_t = sig(o~) * tanh(c_t)
        h = tl.where(valid_c, o * _tanh(c), 0.0)
        tl.store(output + t * N * d + at_c, h, mask=valid_c)
        if not KEPT:
            after = h_planes + (t + 1) % 2 * 3 * plane_h + n[:, None] * ld + unit[None, :]
            _store_planes(after, plane_h, h, valid_c)
        t += 1


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
                  steps, slots, splits, N, d, ld, NORM: tl.constexpr, KEPT: tl.constexpr,
                  BN: tl.constexpr, BJ: tl.constexpr):
    """Steps t, t - 1, ... back for all units (BJ >= d) of BN samples, W_h, its codes, kept; if not
    KEPT a single step.

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
        if NORM == LAYER:
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
        if NORM == LAYER:
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
