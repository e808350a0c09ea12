"""The kernels of the forward pass of :mod:`qlstm.recurrence.triton`, which says how they play
together.

A tile of gates has samples as rows and, as columns, units times gates with the gate running
fastest: column 4 j + g is gate g of unit j. So normalizers act on the four gates at once, and only
the cell's equations take them apart. What an LSTM's c_t is here, h_t is for a GRU, too: what a
program keeps of its own units. All tensors in memory are as the naive backend has them, (...,
4, d) and (..., d), contiguous, float32; padding of a tile reads as zero and is not written.

Groups of arguments are explained in :mod:`~qlstm.recurrence.triton_arguments`. ``NORM`` and
``CELL``: what normalizes the products, and the cell state (GRU: there is none); ``PLANES``: how
many matrices sum up to W_h, 1 with codes, else 3; ``BN``: samples of a tile, ``BJ``: its units,
``BK`` and ``BQ``: the length of a piece of a sum.
"""

import triton
import triton.language as tl

from qlstm.recurrence.triton_tiles import (
    GRU,
    LAYER,
    NONE,
    TERMS,
    _cell,
    _column_standardize,
    _gru_cell,
    _of_columns,
    _of_units,
    _planes_dot,
    _row_standardize,
    _split_dot,
    _store_planes,
    _tanh,
    _tile,
    _wait_for_all,
)


@triton.jit(do_not_specialize=["t"], do_not_specialize_on_alignment=["steps"])
def forward_columns(
    given,  # Given
    w,  # Planes (PLANES, 4 d, d): W_h
    h,  # Planes (2, 3, N, d): h_{t-1}, at t modulo 2
    kept,  # Kept: written
    arrived,  # (1), int32: counts the programs that have done a step
    sizes,  # Sizes
    t,  # the first step of this launch
    steps,  # how many
    NORM: tl.constexpr,
    CELL: tl.constexpr,
    PLANES: tl.constexpr,
    BN: tl.constexpr,
    BJ: tl.constexpr,
    BK: tl.constexpr,
):
    """Steps t, t + 1, ... for BJ units of BN samples (with BATCH: of all); several need a
    cooperative launch.

    With LAYER only the product of one step.
    """
    N, d = sizes.N, sizes.d
    tile = _tile(tl.program_id(0) * BJ, tl.program_id(1) * BN, N, d, BN, BJ)
    c_before = given.c_0 if t == 0 else kept.cells + (t - 1) * N * d
    c = tl.zeros((BN, BJ), tl.float32)
    if NORM != LAYER:
        c = tl.load(c_before + tile.at_c, mask=tile.valid_c, other=0.0)
    programs = tl.num_programs(0) * tl.num_programs(1)
    for step in range(steps):
        y = tl.zeros((BN, 4 * BJ), tl.float32)
        if NORM != LAYER:
            y = tl.load(given.x + t * N * 4 * d + tile.at, mask=tile.valid, other=0.0)
        # W_h h_{t-1}
        h_before = h.first + t % 2 * 3 * h.plane + tile.n[:, None] * h.length
        product = tl.zeros((BN, 4 * BJ), tl.float32)
        for first in range(0, w.length, BK):
            k = first + tl.arange(0, BK)
            w_k = w.first + tile.column[None, :] * w.length + k[:, None]
            product = _planes_dot(h_before + k[None, :], h.plane, w_k, w.plane, product, PLANES)
        if PLANES == 1:
            product *= _of_columns(given.magnitude, tile)
        product = tl.where(tile.valid, product, 0.0)
        saved = kept.saved + t * kept.step + tile.at
        if NORM == LAYER:
            tl.store(saved, product, mask=tile.valid)
        else:
            offset = _of_columns(given.offset, tile)
            if NORM == NONE:
                gates = y + product + offset
                tl.store(saved, gates, mask=tile.valid)
            else:
                tl.store(saved, product, mask=tile.valid)
                moments = kept.statistics + t * 16 * d
                y = _column_standardize(
                    y, tile.valid, moments, tile.column, tile.inside, 4 * d, N, NORM)
                r = _column_standardize(
                    product, tile.valid, moments + 8 * d, tile.column, tile.inside, 4 * d, N, NORM)
                y *= _of_columns(given.gain_x, tile)
                gates = y + r * _of_columns(given.gain_h, tile) + offset
            if CELL == GRU:
                c = _gru_cell(gates, c, BN, BJ)
                h_t = c
            else:
                c, o = _cell(gates, c, BN, BJ)
                tl.store(kept.cells + t * N * d + tile.at_c, c, mask=tile.valid_c)
                opened = c
                if CELL != NONE:
                    opened = tl.where(tile.valid_c, c, 0.0)
                    opened = _column_standardize(
                        opened, tile.valid_c, kept.statistics_c + t * 2 * d, tile.unit,
                        tile.inside_c, d, N, CELL)
                    opened *= _of_units(given.gain_c, tile)
                    opened += _of_units(given.shift_c, tile)
                # h_t = sig(o~) * tanh(N(c_t))
                h_t = o * _tanh(opened)
            tl.store(kept.output + t * N * d + tile.at_c, h_t, mask=tile.valid_c)
            after = h.first + (t + 1) % 2 * 3 * h.plane + tile.n[:, None] * h.length
            _store_planes(after + tile.unit[None, :], h.plane, h_t, tile.valid_c)
            if step < steps - 1:
                _wait_for_all(arrived, (step + 1) * programs)
        t += 1


@triton.jit(do_not_specialize=["t"], do_not_specialize_on_alignment=["steps"])
def forward_rows(
    given,  # Given
    w,  # Planes (1, 4 d, d): the codes of W_h
    h,  # Planes (2, 3, N, d): h_t is written at t + 1 modulo 2, unless KEPT
    kept,  # Kept: written; unless KEPT the product is read
    sizes,  # Sizes
    t,  # the first step of this launch
    steps,  # how many; 1 unless KEPT
    CELL: tl.constexpr,  # NONE or GRU
    KEPT: tl.constexpr,  # the codes of W_h stay in the program
    BN: tl.constexpr,
    BJ: tl.constexpr,
):
    """With LAYER: steps t, t + 1, ... for all units (BJ >= d) of BN samples."""
    N, d = sizes.N, sizes.d
    tile = _tile(0, tl.program_id(0) * BN, N, d, BN, BJ)
    samples = (tile.n < N)[:, None]
    at_s = tile.n[:, None] * 16 + tl.arange(0, 4)[None, :]
    if t == 0:
        h_before, c_before = given.h_0, given.c_0
    else:
        h_before, c_before = kept.output + (t - 1) * N * d, kept.cells + (t - 1) * N * d
    c = tl.load(c_before + tile.at_c, mask=tile.valid_c, other=0.0)
    if KEPT:
        h_t = tl.load(h_before + tile.at_c, mask=tile.valid_c, other=0.0)
        codes = tl.load(w.first + tile.column[None, :] * w.length + tile.unit[:, None],
                        mask=tile.inside[None, :] & tile.inside_c[:, None], other=0.0)
    for _ in range(steps):
        y = tl.load(given.x + t * N * 4 * d + tile.at, mask=tile.valid, other=0.0)
        offset = _of_columns(given.offset, tile)
        saved = kept.saved + t * kept.step + tile.at
        if KEPT:
            # W_h h_{t-1}
            product = _split_dot(h_t, codes, tl.zeros((BN, 4 * BJ), tl.float32), TERMS)
            product *= _of_columns(given.magnitude, tile)
            tl.store(saved, product, mask=tile.valid)
        else:
            product = tl.load(saved, mask=tile.valid, other=0.0)
        moments = kept.statistics + t * N * 16
        y = _row_standardize(y, tile.valid, moments, at_s, samples, d, BN, BJ)
        r = _row_standardize(product, tile.valid, moments + 8, at_s, samples, d, BN, BJ)
        y *= _of_columns(given.gain_x, tile)
        gates = y + r * _of_columns(given.gain_h, tile) + offset
        if CELL == GRU:
            c = tl.where(tile.valid_c, _gru_cell(gates, c, BN, BJ), 0.0)
            h_t = c
        else:
            c, o = _cell(gates, c, BN, BJ)
            tl.store(kept.cells + t * N * d + tile.at_c, c, mask=tile.valid_c)
            # h_t = sig(o~) * tanh(c_t)
            h_t = tl.where(tile.valid_c, o * _tanh(c), 0.0)
        tl.store(kept.output + t * N * d + tile.at_c, h_t, mask=tile.valid_c)
        if not KEPT:
            after = h.first + (t + 1) % 2 * 3 * h.plane + tile.n[:, None] * h.length
            _store_planes(after + tile.unit[None, :], h.plane, h_t, tile.valid_c)
        t += 1
