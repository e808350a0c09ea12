"""What the kernels of the triton backend share: products, the cell, normalization, on one tile.

The layout of a tile is explained in :mod:`~qlstm.recurrence.triton_forward`.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from triton import knobs

from qlstm.recurrence import triton_tiling as tiling

INTERPRETED = tl.constexpr(knobs.runtime.interpret)
NONE, LAYER, BATCH, FIXED = (
    tl.constexpr(kind) for kind in range(4)
)  # FIXED: batch norm with given statistics
GRU = tl.constexpr(tiling.CELLS["gru"])
EPS = tl.constexpr(tiling.EPS)
TERMS = tl.constexpr(3)


class Tile(NamedTuple):
    """Where a program works: BJ units of BN samples, and the four gates of each unit."""

    n: tl.tensor  # (BN), samples
    unit: tl.tensor  # (BJ)
    column: tl.tensor  # (4 BJ), of a matrix with a column for each gate and unit
    inside: tl.tensor  # (4 BJ), whether the column's unit exists: the others are padding
    inside_c: tl.tensor  # (BJ), whether the unit exists
    valid: tl.tensor  # (BN, 4 BJ), whether sample and unit exist
    valid_c: tl.tensor  # (BN, BJ)
    at: tl.tensor  # (BN, 4 BJ), positions in a matrix (N, 4, d)
    at_c: tl.tensor  # (BN, BJ), in one (N, d)


@triton.jit
def _tile(first_unit, first_n, N, d, BN: tl.constexpr, BJ: tl.constexpr):
    """The tile that begins with unit ``first_unit`` and sample ``first_n``."""
    unit = first_unit + tl.arange(0, BJ)
    stacked = tl.arange(0, 4 * BJ)
    j = first_unit + stacked // 4
    column = stacked % 4 * d + j
    n = first_n + tl.arange(0, BN)
    valid = (n < N)[:, None] & (j < d)[None, :]
    valid_c = (n < N)[:, None] & (unit < d)[None, :]
    at = n[:, None] * (4 * d) + column[None, :]
    at_c = n[:, None] * d + unit[None, :]
    return Tile(n, unit, column, j < d, unit < d, valid, valid_c, at, at_c)


@triton.jit
def _of_columns(vector, tile):
    """A number for each column, (1, 4 BJ)."""
    return tl.load(vector + tile.column, mask=tile.inside, other=0.0)[None, :]


@triton.jit
def _of_units(vector, tile):
    """A number for each unit, (1, BJ)."""
    return tl.load(vector + tile.unit, mask=tile.inside_c, other=0.0)[None, :]


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
    """The tiles (BN, BJ) of i, f, a, o, or of the four of a GRU."""
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
def _visible(var):
    """A variance that has overflowed is none: divided by its root all would be 0, as if alive."""
    return tl.where(var < float("inf"), var, float("nan"))


@triton.jit
def _row_standardize(y, valid, statistics, at, store, d, BN: tl.constexpr, BJ: tl.constexpr):
    """Layer normalization without gain and shift; stores mean and variance (biased), each (N,
    4)."""
    mean = _gate_mean(y, d, BN, BJ)
    y = tl.where(valid, y - _spread(mean, BN, BJ), 0.0)
    var = _visible(_gate_mean(y * y, d, BN, BJ))
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
        var = _visible(tl.sum(y * y, 0) / N)
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
def _gru_cell(gates, h, BN: tl.constexpr, BJ: tl.constexpr):
    """The new hidden state."""
    r, z, n_x, n_h = _unstack(gates, BN, BJ)
    z = _sigmoid(z)
    # n_t = tanh(N(W_xn x_t) + b_n + r_t * (N(W_hn h_{t-1}) + b_hn))
    n = _tanh(n_x + _sigmoid(r) * n_h)
    # h_t = (1 - z_t) * n_t + z_t * h_{t-1}
    return (1.0 - z) * n + z * h


@triton.jit
def _gru_cell_backward(gates, h, grad_h, BN: tl.constexpr, BJ: tl.constexpr):
    """Gradients of the stacked pre-activations and, without those of the products, of ``h``, the
    last hidden state, from that of h_t."""
    r, z, n_x, n_h = _unstack(gates, BN, BJ)
    r, z = _sigmoid(r), _sigmoid(z)
    n = _tanh(n_x + r * n_h)
    grad_z = grad_h * (h - n) * z * (1.0 - z)
    grad_n_x = grad_h * (1.0 - z) * (1.0 - n * n)
    grad_r = grad_n_x * n_h * r * (1.0 - r)
    return _stack(grad_r, grad_z, grad_n_x, grad_n_x * r, BN, BJ), grad_h * z


@triton.jit
def _accumulate(pointer, value, mask, first):
    """Add ``value`` to what is there, unless it is the first: memory is not zeroed."""
    if first:
        tl.store(pointer, value, mask=mask)
    else:
        tl.store(pointer, value + tl.load(pointer, mask=mask, other=0.0), mask=mask)
