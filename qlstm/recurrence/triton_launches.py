"""The loops over time of :mod:`qlstm.recurrence.triton`: memory, and one launch of a kernel after
another.

Arguments are explained in :mod:`~qlstm.recurrence.triton_arguments`. ``given``, ``kept`` and
``setting``: a group each; ``t``: the first step of a launch to be computed; ``count``: its steps.
"""

import torch
from torch import Tensor

from qlstm.recurrence import triton_backward, triton_forward, triton_tuning
from qlstm.recurrence import triton_tiling as tiling
from qlstm.recurrence.triton_arguments import Given, Gradients, Kept, Planes, Setting, Sizes
from qlstm.recurrence.triton_tiling import ceil_div


class Forward:
    """A forward pass. After :meth:`all_steps` the attributes ``given``, ``w`` and ``kept`` have
    what the backward pass needs."""

    def __init__(self, given: Given, w_h: Tensor, statistics: Tensor | None,
                 statistics_c: Tensor | None, setting: Setting):
        """``w_h``: (4d, d); ``statistics``, ``statistics_c``: of :class:`Kept`, to be filled."""
        self.setting, x = setting, given.x
        self.steps, samples, d = *x.shape[:2], w_h.shape[1]
        self.blocks = blocks = _blocks(samples, d, setting, x.device)
        planes, magnitude = _weight_planes(w_h, setting.coded)
        self.given, self.w = given._replace(magnitude=magnitude), _planes(planes)
        h = planes.new_zeros(2, 3, blocks.samples * blocks.forward_grid[1], planes.shape[-1])
        _split(given.h_0, h[0, :, :samples, :d])
        self.h = _planes(h)
        saved = torch.empty_like(x) if setting.keep else x.new_empty(1, samples, 4 * d)
        output = x.new_empty(self.steps, samples, d)
        cells = output if setting.kind_c == "gru" else torch.empty_like(output)
        self.kept = Kept(output, cells, saved, statistics, statistics_c,
                         x[0].numel() if setting.keep else 0)
        self.sizes = Sizes(self.steps, samples, d)
        self.arrived = x.new_zeros(1, dtype=torch.int32)

    def all_steps(self):
        """Fill ``kept``."""
        with torch.cuda.device_of(self.given.x):
            if self.blocks.persistent:
                self.rows(0, self.steps)
                return
            together = self.steps if self.blocks.forward_together else 1
            for t in range(0, self.steps, together):
                self.columns(t, together)
                if self.setting.kind == "layer":
                    self.rows(t, 1)

    def columns(self, t: int, count: int):
        """A few units of all or some samples a program; layer normalization: their products."""
        blocks, setting = self.blocks, self.setting
        triton_forward.forward_columns[blocks.forward_grid](
            self.given, self.w, self.h, self.kept, self.arrived, self.sizes, t, count,
            tiling.KINDS[setting.kind], tiling.CELLS[setting.kind_c], len(self.w.first),
            blocks.samples, blocks.forward_units, blocks.piece,
            num_warps=blocks.warps, launch_cooperative_grid=count > 1)

    def rows(self, t: int, count: int):
        """All units of a few samples a program."""
        blocks = self.blocks
        triton_forward.forward_rows[blocks.row_grid](
            self.given, self.w, self.h, self.kept, self.sizes, t, count,
            tiling.CELLS[self.setting.kind_c], blocks.persistent, blocks.row_samples,
            blocks.row_units, num_warps=blocks.row_warps, num_stages=1)


class Backward:
    """A backward pass. After :meth:`all_steps` ``grad.x``, ``grad.c`` and ``grad_w`` are the
    gradients of the input products, of c_0 and of W_h."""

    def __init__(self, given: Given, w: Tensor, kept: Kept, setting: Setting, grad_output: Tensor,
                 grad_c_n: Tensor):
        """``w``: the matrices of :attr:`Forward.w`; ``grad_output``, ``grad_c_n``: gradients of
        h_t (T, N, d), and of the last c_t (N, d), zeros of a GRU."""
        self.given, self.w, self.kept, self.setting = given, _planes(w), kept, setting
        self.steps, samples, d = kept.output.shape
        self.sizes = Sizes(self.steps, samples, d)
        self.blocks = blocks = _blocks(samples, d, setting, kept.saved.device)
        # without normalization the gradients of x, of the pre-activations and of the recurrent
        # product are the same
        grad_x = torch.empty_like(kept.saved)
        segment = max(2, ceil_div(self.steps, tiling.GRADIENT_SEGMENTS))
        self.slots = self.steps if setting.kind == "none" else segment
        splits = 1 if blocks.persistent else blocks.splits
        new = kept.saved.new_empty
        self.grad = Gradients(
            grad_output.contiguous(), grad_x,
            grad_x if setting.kind == "none" else new(segment, samples, 4 * d),
            new(splits, samples, d), new(samples, d),
            grad_c_n.clone(memory_format=torch.contiguous_format), new(samples, d),
            new(self._programs_of_sums(), 3, 4 * d), new(blocks.backward_grid[1], 2, d),
            self.slots, splits)
        self.grad_w, self.arrived = new(4 * d, d).zero_(), new(1, dtype=torch.int32)
        self.g = None
        if blocks.fused:
            self.g = _planes(w.new_zeros(2, 3, blocks.samples * blocks.backward_grid[1],
                                         ceil_div(4 * d, 128) * 128))

    def _programs_of_sums(self):
        """How many programs leave a row of ``grad.sums``."""
        if self.setting.kind != "layer":
            return self.blocks.backward_grid[1]
        return ceil_div(self.steps * self.sizes.N, self._rows_of_sums())

    def _rows_of_sums(self):
        """Layer normalization: the samples of all steps, as many as a program sums over."""
        tile = self.blocks.sum_rows
        return ceil_div(ceil_div(self.steps * self.sizes.N, tiling.PROGRAMS), tile) * tile

    def all_steps(self):
        """Fill ``grad`` and ``grad_w``, the latter from a segment of the steps after another."""
        blocks = self.blocks
        launch = self.rows if self.setting.kind == "layer" else self.columns
        with torch.cuda.device_of(self.kept.saved):
            for first in reversed(range(0, self.steps, self.slots)):
                last = min(first + self.slots, self.steps) - 1
                together = (last - first + 1
                            if blocks.persistent or blocks.backward_together else 1)
                for t in range(last, first - 1, -together):
                    if t < self.steps - 1 and not (blocks.persistent or blocks.fused):
                        self.product((t + 1) % self.slots)
                    launch(t, together)
                self.weight(first, last - first + 1)
            if self.setting.kind == "layer":
                self.sums()

    def product(self, slot: int):
        """From ``grad.product``, at ``slot``, to ``grad.h`` of the step before."""
        blocks = self.blocks
        triton_backward.backward_product[blocks.product_grid](
            self.given, self.w, self.grad, self.sizes, slot, blocks.product_length,
            len(self.w.first), blocks.product_samples, blocks.product_units, blocks.product_piece,
            num_warps=blocks.product_warps)

    def columns(self, t: int, count: int):
        """A few units of all or some samples a program, back from step ``t``."""
        blocks, setting = self.blocks, self.setting
        if count > 1:
            self.arrived.zero_()
        triton_backward.backward_columns[blocks.backward_grid](
            self.given, self.w, self.g, self.kept, self.grad, self.arrived, self.sizes, t, count,
            tiling.KINDS[setting.kind], tiling.CELLS[setting.kind_c],
            len(self.w.first) if blocks.fused else 0, blocks.samples, blocks.backward_units,
            blocks.piece,
            num_warps=blocks.warps, launch_cooperative_grid=count > 1)
        self.grad = self.grad._replace(c=self.grad.c_before, c_before=self.grad.c)

    def rows(self, t: int, count: int):
        """All units of a few samples a program, back from step ``t``."""
        blocks, grad = self.blocks, self.grad
        triton_backward.backward_rows[blocks.row_grid](
            self.given, self.w, self.kept, grad, self.sizes, t, count,
            tiling.CELLS[self.setting.kind_c], blocks.persistent, blocks.row_samples,
            blocks.row_units, num_warps=blocks.row_warps, num_stages=1)
        self.grad = grad._replace(c=grad.c_before, c_before=grad.c)
        if blocks.persistent:
            self.grad = self.grad._replace(h=grad.h_before, h_before=grad.h)

    def weight(self, first: int, count: int):
        """Add the products of gradient and h_{t-1}, of ``count`` steps from ``first`` on, to the
        gradient of W_h."""
        product, output = self.grad.product[:count], self.kept.output
        if first == 0:
            self.grad_w.addmm_(product[0].t(), self.given.h_0)
            product, first = product[1:], 1
        if len(product):
            before = output[first - 1 : first - 1 + len(product)]
            self.grad_w.addmm_(product.flatten(0, 1).t(), before.flatten(0, 1))

    def sums(self):
        """Layer normalization: the gradient of x in place, and ``grad.sums``."""
        triton_backward.layer_gradients[(len(self.grad.sums), 4)](
            self.given, self.kept, self.grad, self.sizes, self.steps * self.sizes.N,
            self._rows_of_sums(), self.blocks.sum_rows, self.blocks.row_units, num_warps=8)

    def first_state(self) -> Tensor:
        """The gradient of h_0."""
        if self.blocks.persistent:
            gradient = self.grad.h.view_as(self.given.h_0)
        else:
            with torch.cuda.device_of(self.kept.saved):
                self.product(0)
            gradient = self.grad.h.sum(0)
        return gradient + self.grad.c if self.setting.kind_c == "gru" else gradient

    def vectors(self) -> tuple[Tensor | None, ...]:
        """The gradients of the offset, of the gains of both products, and of gain and shift of
        N(c_t)."""
        if self.setting.kind == "none":
            return self.grad.x.sum((0, 1)), None, None, None, None
        offset, gain_x, gain_h = self.grad.sums.sum(0)
        shift_c, gain_c = ((None, None) if self.setting.kind_c in ("none", "gru")
                           else self.grad.sums_c.sum(0))
        return offset, gain_x, gain_h, gain_c, shift_c


def _blocks(samples, d, setting, device):
    tiles = setting.tiles
    if tiles is None:
        tiles = triton_tuning.chosen(device, samples, d, setting.kind, setting.coded)
    return tiling.Blocks(
        samples, d, setting.kind, setting.coded, tiling.multiprocessors(device), tiles)


def _planes(first: Tensor) -> Planes:
    return Planes(first, first.shape[-1], first.stride(-3))


def _weight_planes(w_h: Tensor, coded: bool) -> tuple[Tensor, Tensor | None]:
    """W_h as bfloat16 (1, rows, length) and the magnitudes of its rows (4d), or without codes as
    the sum of (3, rows, length).

    Zeros make up ``length``, a multiple of 128, and as many rows, with as many more as a tile may
    have beyond the last one.
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
