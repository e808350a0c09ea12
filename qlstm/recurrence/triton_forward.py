"""The kernels of the forward pass of :mod:`qlstm.recurrence.triton`, which says how they play
together.

A tile of gates has samples as rows and, as columns, units times gates with the gate running
fastest: column 4 j + g is gate g of unit j. So normalizers act on the four gates at once, and only
the cell's equations take them apart. All tensors in memory are as the naive backend has them, (...,
4, d) and (..., d), contiguous, float32; padding of a tile reads as zero and is not written. Where a
name stands for a size, N, d and T have their meaning of everywhere; ``BN`` is the samples of a
tile, ``BJ`` its hidden units, ``BK`` and ``BQ`` the length of a piece of a sum.
"""

import triton
import triton.language as tl

from qlstm.recurrence.triton_tiles import (
    LAYER,
    NONE,
    TERMS,
    _cell,
    _column_standardize,
    _planes_dot,
    _row_standardize,
    _split_dot,
    _store_planes,
    _tanh,
    _wait_for_all,
)


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
                 statistics, t, steps, N, d, ld, plane_h, saved_step, KEPT: tl.constexpr,
                 BN: tl.constexpr, BJ: tl.constexpr):
    """With LAYER: steps t, t + 1, ... for all units (BJ >= d) of BN samples, the codes of W_h kept;
    if not KEPT the product is read."""
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
        if KEPT:
            tl.store(saved + t * saved_step + at, product, mask=valid)
        moments = statistics + t * N * 16
        y = _row_standardize(y, valid, moments, at_s, (n < N)[:, None], d, BN, BJ)
        r = _row_standardize(product, valid, moments + 8, at_s, (n < N)[:, None], d, BN, BJ)
        y *= tl.load(gain_x + column, mask=j < d, other=0.0)[None, :]
        gates = y + r * tl.load(gain_h + column, mask=j < d, other=0.0)[None, :] + gates_offset
        c, o = _cell(gates, c, BN, BJ)
        tl.store(cells + t * N * d + at_c, c, mask=valid_c)
        # h_t = sig(o~) * tanh(c_t)
        h = tl.where(valid_c, o * _tanh(c), 0.0)
        tl.store(output + t * N * d + at_c, h, mask=valid_c)
        if not KEPT:
            after = h_planes + (t + 1) % 2 * 3 * plane_h + n[:, None] * ld + unit[None, :]
            _store_planes(after, plane_h, h, valid_c)
        t += 1
