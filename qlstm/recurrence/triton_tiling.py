"""How the work of a step is cut into the programs of a GPU: tiles and grids.

``samples``: of a minibatch; ``d``: hidden units; ``kind``: of normalization, in :data:`KINDS`;
``coded``: as in :func:`qlstm.recurrence.naive.recurrence`; ``multiprocessors``: of the GPU, 0 where
programs cannot wait for each other; ``tiles``: :class:`Tiles`.
"""

from typing import NamedTuple

import torch

KINDS = {"none": 0, "layer": 1, "batch": 2, "fixed": 3}
"""Of normalization, as the kernels know it; fixed: batch normalization with given statistics."""
CELLS = KINDS | {"gru": 4}
"""What normalizes the cell state; gru: there is none."""
EPS = 1e-5
"""Beside a variance."""
MAX_SAMPLES = 256
"""Samples of a minibatch that batch normalization can have: a program holds all of them."""
PERSISTENT_UNITS = 128
"""Hidden units up to which W_h stays in a program: 4 x 128 x 128 codes are 128 KB, half the
registers of a core."""
PROGRAMS = 128
"""About one for each multiprocessor (an A100 has 108, an H100 132)."""
GRADIENT_SEGMENTS = 4
"""Parts of the time axis of which the gradients of the recurrent products are held at once."""
FUSED_GRADIENTS = 1 << 14
"""N d up to which a backward step is one kernel, each program of which reads all 4 N d gradients of
the step after."""
TOGETHER = True
"""Whether a launch may take several steps, whose programs wait for each other, where the GPU runs
all of them at once."""


def ceil_div(a: int, b: int) -> int:
    """``a`` divided by ``b``, rounded up."""
    return -(-a // b)


def multiprocessors(device: torch.device) -> int:
    """How many programs run at once for sure on the ``device``; 0 in the interpreter."""
    return (torch.cuda.get_device_properties(device).multi_processor_count
            if device.type == "cuda" and TOGETHER else 0)


def _power(n: int, least: int, most: int) -> int:
    """The next power of two from ``n``, within limits."""
    return min(max(1 << (n - 1).bit_length(), least), most)


class Tiles(NamedTuple):
    """What was measured to matter, of the kernels with a few units a program.

    The default was chosen for all shapes together on an H200; for a single one, or on another GPU,
    one of :data:`CANDIDATES` may be faster (:mod:`qlstm.recurrence.triton_tuning`).
    """

    samples: int = 32  # of a tile, at most; batch normalization has all samples in one
    units: int = 0  # of a tile; 0: as few as let all programs run at once, but 4 at least
    warps: int = 4  # of a program; with 128 samples or more it has 8
    piece: int = 64  # of the sum over units, or over gates and units; 64 or 128


CANDIDATES = [Tiles(), Tiles(samples=16, units=16), Tiles(units=8), Tiles(piece=128),
              Tiles(units=8, piece=128), Tiles(warps=2)]
"""The default, and those that were faster for some shape on an H200."""


def candidates(samples: int, d: int, kind: str, coded: bool, multiprocessors: int) -> list[Tiles]:
    """Those of :data:`CANDIDATES` that make a difference for a shape, the default first."""
    found = {}
    for tiles in CANDIDATES:
        if kind == "batch" and tiles.samples != Tiles().samples:
            continue  # it has all samples in one tile
        blocks = Blocks(samples, d, kind, coded, multiprocessors, tiles)
        found.setdefault(None if blocks.persistent else tuple(vars(blocks).values()), tiles)
    return list(found.values())


class Blocks:
    """Tiles and grids for a shape on a GPU. Tensor cores take 16 rows and 8 columns at least."""

    def __init__(self, samples: int, d: int, kind: str, coded: bool, multiprocessors: int = 0,
                 tiles: Tiles = CANDIDATES[0]):
        self.persistent = coded and d <= PERSISTENT_UNITS and kind == "layer"
        self.fused = samples * d <= FUSED_GRADIENTS and kind != "layer"
        self.samples = _power(samples, 16, MAX_SAMPLES if kind == "batch" else tiles.samples)
        blocks = ceil_div(samples, self.samples)

        def units(least):
            if tiles.units:
                return max(tiles.units, least)
            fitting = (u for u in (4, 8) if u >= least and ceil_div(d, u) * blocks <= PROGRAMS)
            return next(fitting, 16)

        # 4 units are a sector of 16 of 32 bytes, so a kernel without a product takes 8
        self.forward_units, self.backward_units = units(4), units(4 if self.fused else 8)
        self.forward_grid = ceil_div(d, self.forward_units), blocks
        self.backward_grid = ceil_div(d, self.backward_units), blocks
        self.forward_together = kind != "layer" and self.forward_grid[0] * blocks <= multiprocessors
        self.backward_together = self.fused and self.backward_grid[0] * blocks <= multiprocessors
        self.warps = 8 if self.samples >= 128 else tiles.warps
        self.piece = tiles.piece
        # whole rows: 8 samples where W_h stays (16 spill twice as many registers), else one
        self.row_samples = 8 if self.persistent else 1
        self.row_units = _power(d, 16, 1 << 30)
        self.row_grid = (ceil_div(samples, self.row_samples),)
        self.row_warps = 16 if self.persistent else _power(self.row_units // 64, 4, 16)
        # after the loop: so many samples of all steps at once
        self.sum_rows = max(1, 2048 // self.row_units)
        # W_h' times the gradients of products: cut along the sum so that the programs fill a GPU
        self.product_samples, self.product_units = _power(samples, 16, 128), _power(d, 16, 64)
        self.product_piece = 64  # 128 spill
        self.product_warps = 4 if self.product_samples < 128 else 8
        grid = ceil_div(d, self.product_units), ceil_div(samples, self.product_samples)
        parts = min(16, max(1, PROGRAMS // (grid[0] * grid[1])))
        self.product_length = (
            ceil_div(ceil_div(4 * d, parts), self.product_piece) * self.product_piece)
        self.splits = ceil_div(4 * d, self.product_length)
        self.product_grid = *grid, self.splits
