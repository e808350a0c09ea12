r"""Matrices of 1- and 2-bit weights that stay packed, and products with them (``codes.h``).

Such a matrix is a sum of *planes*, each row a magnitude times signs:

$$ W = \sum_p \mathrm{diag}(\alpha_p)\, B_p, \qquad B_p \in \{-1, +1\}^{m \times n} $$

A binary matrix is one plane. Codes of $\{-1, 0, +1\}$ are two of half the scale, which differ where
the code is 0. Those of ``alternating`` are planes as they come.

>>> signs = torch.tensor([[[True, False, True]]])                  # one plane, one row: + - +
>>> codes = pack(signs, torch.tensor([[0.5]]))
>>> codes.bits.flatten()[0].item(), codes.dense()                  # bits 101, the first input last
(5, tensor([[ 0.5000, -0.5000,  0.5000]]))
"""

import ctypes
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qlstm.quantizers import Quantized
from qlstm.recurrence.extension import library
from qlstm.recurrence.linear import out_of_range

ROWS, WORD = 16, 32
"""Rows of a block and signs of a word, as codes.h has them."""


class Struct(ctypes.Structure):
    """The struct Codes of codes.h, which explains the fields."""

    _fields_ = [*[(name, ctypes.c_long) for name in ("rows", "n", "planes", "share")],
                *[(name, ctypes.c_void_p) for name in ("bits", "pre", "post")]]


class Codes(NamedTuple):
    """A packed matrix (m, n).

    Args:
        bits: int32 (planes, ceil(m / 16), ceil(n / 32), 16): bit j of a word is 1 where the sign of
            a row for input 32 c + j is +1.
        scales: (planes, m), what the signs of each row are multiplied with, or (planes, m / k), of
            k neighbouring rows each.
        shape: m and n.
        by_column: Whether the ``scales`` are those of the columns, as in a transposed matrix.
    """

    bits: Tensor
    scales: Tensor
    shape: tuple[int, int]
    by_column: bool = False

    def struct(self) -> Struct:
        """What codes.h takes. It has addresses of the tensors, in float32, which it does not keep
        alive."""
        share = self.shape[self.by_column] // self.scales.shape[1]
        return Struct(*self.shape, len(self.bits), share, self.bits.data_ptr(),
                      **{"pre" if self.by_column else "post": self.scales.data_ptr()})

    def each_scale(self) -> Tensor:
        """The scales of all rows, (planes, m), or of all columns."""
        share = self.shape[self.by_column] // self.scales.shape[1]
        return self.scales.repeat_interleave(share, 1)

    def dense(self) -> Tensor:
        """The matrix, (m, n), in the precision of the scales."""
        signs = 2 * unpack(self.bits, self.shape).to(self.scales.dtype) - 1
        return self.each_scale().unsqueeze(1 if self.by_column else 2).mul(signs).sum(0)

    def transposed(self) -> "Codes":
        """The packed matrix (n, m)."""
        bits = _empty(len(self.bits), self.shape[::-1])
        library().transpose_codes(ctypes.byref(self.struct()), bits.data_ptr())
        return Codes(bits, self.scales, self.shape[::-1], not self.by_column)

    def products(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The products with ``x``, float32 (..., n), or with one-hot vectors, integers (...): (...,
        m), in ``out`` if it is given. Raises ``ValueError`` for tensors of other sizes, types or
        devices, ``IndexError`` for an integer that is not from 0 to n - 1."""
        (rows, n), integers = self.shape, not x.is_floating_point()
        if not integers and (x.shape[-1:], x.dtype) != ((n,), torch.float32):
            raise ValueError(f"expected {n} inputs in float32, got {tuple(x.shape)} in {x.dtype}")
        shape = (*(x.shape if integers else x.shape[:-1]), rows)
        out = self.scales.new_empty(shape) if out is None else out
        if ((out.shape, out.dtype, self.scales.dtype) != (shape, torch.float32, torch.float32)
                or not out.is_contiguous() or {x.device.type, out.device.type} != {"cpu"}
                or (integers and self.by_column)):
            raise ValueError(f"cannot multiply {self.shape} with {tuple(x.shape)} on {x.device} "
                             f"into {tuple(out.shape)}, {out.dtype}")
        x = (checked(x, n) if integers else x).contiguous()
        samples = out.numel() // rows
        if integers:
            library().pick_codes(ctypes.byref(self.struct()), x.data_ptr(), samples, out.data_ptr())
        else:
            library().multiply_codes(ctypes.byref(self.struct()), x.data_ptr(), samples,
                                     out.data_ptr(), torch.get_num_threads())
        return out


def pack(signs: Tensor, scales: Tensor) -> Codes:
    """The packed matrix of planes of signs.

    Args:
        signs: (planes, m, n), True for +1.
        scales: As in :class:`Codes`.
    """
    planes, rows, n = signs.shape
    blocks, words = -(-rows // ROWS), -(-n // WORD)
    packed = np.packbits(signs.cpu().numpy(), axis=-1, bitorder="little")
    padded = np.zeros((planes, blocks * ROWS, words * WORD // 8), np.uint8)
    padded[:, :rows, : packed.shape[-1]] = packed
    bits = padded.view("<u4").reshape(planes, blocks, ROWS, words).transpose(0, 1, 3, 2)
    bits = torch.from_numpy(np.ascontiguousarray(bits, np.int32)).to(signs.device)
    return Codes(bits, scales.contiguous(), (rows, n))


def unpack(bits: Tensor, shape: tuple[int, int]) -> Tensor:
    """The signs (planes, m, n), True for +1, of the ``bits`` of a matrix of a ``shape`` (m, n)."""
    words, n = words_by_row(bits, shape[0]), shape[1]
    each = 1 << torch.arange(WORD, device=bits.device, dtype=bits.dtype)  # ONNX shifts no int32
    return (words[..., None] & each).flatten(2)[..., :n].bool()


def words_by_row(bits: Tensor, rows: int) -> Tensor:
    """The words (planes, m, ceil(n / 32)) of ``bits``; ``rows``: m."""
    return bits.movedim(-1, 2).flatten(1, 2)[:, :rows]


def planes(quantized: Quantized) -> tuple[Tensor, Tensor] | None:
    """The planes of a quantized weight.

    Args:
        quantized: Codes (k, gates, d, n) and scales (k, gates, 1 or d, 1).

    Returns:
        Signs (planes, gates d, n), True for +1, and scales, as :func:`pack` takes them. None where
        a code is none of -1, 0, +1, or a scale is not finite: then a sum may be NaN, which signs
        cannot tell; and where scales are of columns.
    """
    k, gates, d, _ = quantized.codes.shape
    if quantized.scales.shape not in ((k, gates, 1, 1), (k, gates, d, 1)):
        return None
    codes = quantized.codes.flatten(1, 2)
    positive = codes > 0
    zero = codes == 0
    if not (zero | (codes.abs() == 1)).all() or not quantized.scales.isfinite().all():
        return None
    signs = torch.cat([positive, positive | zero]) if zero.any() else positive
    return signs, plane_scales(quantized.scales, signs)


def plane_scales(scales: Tensor, signs: Tensor) -> Tensor:
    """The scales of the planes of a quantized weight, as in :class:`Codes`.

    Args:
        scales: (k, gates, 1 or d, 1).
        signs: Those of k planes, or of 2 k of a ternary weight, (planes, m, n), or words of them,
            (planes, m, words). Where a row of both is the same the first has all of the scale.
    """
    each = scales.flatten(1)
    if len(each) == len(signs):
        return each
    half, zeros = each / 2, (signs[: len(each)] != signs[len(each) :]).any(-1)
    if not zeros.all():
        share = signs.shape[1] // each.shape[1]
        each, half = (part.repeat_interleave(share, 1) for part in (each, half))
        half = half.where(zeros, 0)
    return torch.cat([each - half, half])


def find(weight: Tensor) -> Codes | None:
    r"""The packed matrix of one each of whose rows has at most two magnitudes.

    The larger magnitude of a row is $\alpha_1 + \alpha_2$, the smaller $\alpha_1 - \alpha_2$.

    Args:
        weight: (m, n), float32.

    Returns:
        None if a row has more magnitudes, as in full precision, or one that is not finite; and for
        other types than float32.
    """
    if weight.dtype != torch.float32:
        return None
    weight = weight.detach().contiguous()
    bits, scales = _empty(2, weight.shape), weight.new_empty(2, len(weight))
    planes = library().find_codes(weight.data_ptr(), *weight.shape, bits.data_ptr(),
                                  scales.data_ptr())
    return Codes(bits[:planes], scales[:planes], tuple(weight.shape)) if planes else None


def _empty(planes: int, shape: tuple[int, int]) -> Tensor:
    rows, n = shape
    return torch.zeros(planes, -(-rows // ROWS), -(-n // WORD), ROWS, dtype=torch.int32)


def checked(symbols: Tensor, count: int) -> Tensor:
    """The ``symbols``, int64. Raises ``IndexError`` unless all are from 0 to ``count`` - 1."""
    symbols = symbols.long()
    if symbols.numel() and (symbols.min() < 0 or symbols.max() >= count):
        raise out_of_range(symbols, count)
    return symbols
