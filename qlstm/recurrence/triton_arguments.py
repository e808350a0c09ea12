"""What a recurrence of the triton backend and its kernels are given: tensors and numbers in groups.

Triton takes a named tuple as one argument of a kernel. In the kernel a tensor is a pointer to its
first number and None a constant. Whether a number is 1, a multiple of 16 or neither is known when
the kernel is compiled: so those that change from launch to launch are in no group, but arguments of
their own with ``do_not_specialize``, which groups do not heed.

Tensors are contiguous and float32 where nothing else is said. T, N and d are steps, samples and
hidden units; the gates are i, f, a, o, of a GRU r, z, and n taken apart: its input product, and its
recurrent product. c_t of a GRU is h_t.
"""

from typing import NamedTuple

from torch import Tensor

from qlstm.recurrence.triton_tiling import Tiles


class Setting(NamedTuple):
    """What decides, with the sizes, which kernels run; a kind is one of
    :data:`qlstm.recurrence.triton_tiling.KINDS`."""

    kind: str  # of normalization of the products
    kind_c: str  # and of the cell state, in qlstm.recurrence.triton_tiling.CELLS
    coded: bool  # as in qlstm.recurrence.naive.recurrence
    keep: bool  # for a backward pass
    tiles: Tiles | None = None  # None: those chosen for the shape


class Given(NamedTuple):
    """What a layer computes with."""

    x: Tensor | None  # (T, N, 4, d), W_x x_t; backward without normalization: None
    offset: Tensor  # (4, d), what is added to the gates: bias and shifts
    magnitude: Tensor | None  # (4, d), of the rows of W_h; None without codes
    gain_x: Tensor | None  # (4, d), of the normalizer of W_x x_t
    gain_h: Tensor | None  # (4, d), of W_h h_{t-1}
    gain_c: Tensor | None  # (d), of c_t
    shift_c: Tensor | None  # (d)
    h_0: Tensor  # (N, d)
    c_0: Tensor  # (N, d); of a GRU h_0


class Kept(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    output: Tensor  # (T, N, d), h_t
    cells: Tensor  # (T, N, d), c_t; of a GRU the same tensor as ``output``
    saved: Tensor  # (T, N, 4, d), pre-activations, normalized: W_h h_{t-1}; (1, N, 4, d) of
    # the last step if there will be no backward pass
    # mean and variance of the input products, then of the recurrent ones
    statistics: Tensor | None  # (T, N, 4, 4) layer normalization, (T, 4, 4, d) batch normalization
    statistics_c: Tensor | None  # (T, 2, d), mean and variance of c_t
    step: int  # numbers from a step in ``saved`` to the next: 4 N d, or 0 if it has only one


class Planes(NamedTuple):
    """Matrices as the sum of one or three of bfloat16, the largest first; zeros make up each."""

    first: Tensor  # (..., 1 or 3, rows, length), bfloat16
    length: int  # of a row, with the zeros
    plane: int  # numbers from one matrix of a sum to the next


class Gradients(NamedTuple):
    """What the backward pass is given and makes."""

    output: Tensor  # (T, N, d), of h_t from outside the recurrence
    x: Tensor  # (T, N, 4, d), of W_x x_t; layer normalization: first of the pre-activations
    product: Tensor  # (slots, N, 4, d), of W_h h_{t-1}, at t modulo slots
    h: Tensor  # (splits, N, d), of h_t through step t + 1: parts of a sum
    h_before: Tensor  # (N, d), of the h before the steps of a launch
    c: Tensor  # (N, d), of c_t through step t + 1; of a GRU what no product has a part in
    c_before: Tensor  # (N, d), of the c before the steps of a launch
    # sums over steps and samples, a row for each program that takes some of them: of the gradient
    # of the pre-activations, of it times the standardized W_x x_t, and times that of W_h h_{t-1}
    sums: Tensor  # (rows, 3, 4, d)
    sums_c: Tensor  # (rows, 2, d), of the gradient of N(c_t), and of it times the standardized c_t
    slots: int
    splits: int


class Sizes(NamedTuple):
    """Of a minibatch and a layer."""

    T: int
    N: int
    d: int
