"""Quantizers: a weight matrix becomes code planes and their scales, W = sum_k scale_k * codes_k.

Each quantizer is a pure function of one matrix ``weight`` (d rows of one gate, n columns; leading
axes are batched, so the four stacked gates ``(4, d, n)`` are four matrices) and returns a
:class:`Quantized` of the same shape. The loss-aware ones also take Adam's second moment, the
stochastic ones a generator. In the formulas w is an entry of the weight, w_hat of the result; sums
and means are over one matrix. The gradient is *straight-through*: computed with respect to the
quantized weight and applied to the full-precision (latent) weight (:func:`straight_through`),

    dl/dw = dl/dw_hat,

and alpha, the scale, is a constant to it.

>>> w = torch.tensor([[0.9, -0.1], [-0.5, 0.3]], requires_grad=True)
>>> bwn(w.detach()).dense()                              # alpha sign(w), alpha = mean |w| = 0.45
tensor([[ 0.4500, -0.4500],
        [-0.4500,  0.4500]])
>>> straight_through(w, bwn(w).dense()).mul(torch.tensor([[1., 2.], [3., 4.]])).sum().backward()
>>> w.grad                                               # the gradient of the quantized weight, unchanged
tensor([[1., 2.],
        [3., 4.]])
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qlstm.errors import lookup


class Quantized(NamedTuple):
    """A quantized weight: k code planes and their scales.

    ``codes``: (k, ..., d, n), values in {-1, +1} or {-1, 0, +1} (full precision: the weight
    itself). ``scales``: broadcasts against ``codes``, (k, ..., 1, 1) for one scale a matrix, (k,
    ..., d, 1) for one a row.
    """

    codes: Tensor
    scales: Tensor

    def dense(self) -> Tensor:
        """The matrix that is multiplied with, sum_k scale_k * codes_k, shape (..., d, n)."""
        return (self.scales * self.codes).sum(0)


QUANTIZERS: dict[str, Callable[..., Quantized]] = {}
"""The table from a quantizer's name to its function, in the order of the paper's tables."""


def quantizer(bits: int, scales: str | None = None, stochastic: bool = False):
    """Enter a function in the table :data:`QUANTIZERS`, with what its size and its network need to
    know of it.

    ``bits``: bits of one weight. ``scales``: which floats are stored beside the codes: ``None``,
    one a ``"matrix"``, or ``bits`` a ``"row"`` (one for each plane). ``stochastic``: whether it
    draws its codes at random (SBN, STN); networks of such a one are built as its authors build
    them.
    """

    def enter(function):
        function.bits, function.scales, function.stochastic = bits, scales, stochastic
        QUANTIZERS[function.__name__] = function
        return function

    return enter


def find_quantizer(name: str) -> Callable[..., Quantized]:
    """The quantizer of that ``name``, or of an importable ``"module:function"``. Raises
    ``ConfigError``."""
    return lookup("quantizer", name, QUANTIZERS)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, quantized):
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def straight_through(weight: Tensor, quantized: Tensor) -> Tensor:
    """Forward: ``quantized``. Backward: the gradient goes to ``weight`` unchanged (Bengio et al.,
    2013).

        dl/dw = dl/dw_hat

    Both of the same shape. Exact in the forward pass, unlike ``weight + (quantized -
    weight).detach()``.

    >>> w = torch.tensor([0.3, -0.2], requires_grad=True)
    >>> (straight_through(w, sign(w)) * torch.tensor([5.0, 7.0])).sum().backward()
    >>> w.grad
    tensor([5., 7.])
    """
    return _StraightThrough.apply(weight, quantized)


def sign(x: Tensor) -> Tensor:
    """+1, -1, or 0 where ``x`` is exactly 0, in training as in the paper's release; it passes no
    gradient.

    Such weights are there before training only: in sequential MNIST W_ha starts as the identity,
    whose d (d - 1) zeros would otherwise become a matrix of ones, of norm d in place of 1. One bit
    cannot hold them (:mod:`qlstm.packing`).

    >>> sign(torch.tensor([-0.5, 0.0, 2.0]))
    tensor([-1.,  0.,  1.])
    """
    return torch.sign(x.detach())


def _signs(positive: Tensor, dtype: torch.dtype) -> Tensor:
    """+1 where ``positive``, else -1."""
    # torch.where takes five times as long on the CPU
    return positive.to(dtype).mul_(2).sub_(1)


def _mean(x: Tensor) -> Tensor:
    return x.mean((-2, -1), keepdim=True)


def _sum(x: Tensor) -> Tensor:
    return x.sum((-2, -1), keepdim=True)


def _plane(codes: Tensor, scale: Tensor | float = 1.0) -> Quantized:
    if not isinstance(scale, Tensor):
        scale = codes.new_full((*codes.shape[:-2], 1, 1), scale)
    return Quantized(codes[None], scale[None])


@quantizer(bits=32)
def full_precision(weight: Tensor) -> Quantized:
    """No quantization: one plane that is the weight itself, scale 1.

    >>> full_precision(torch.tensor([[0.5, -2.0]])).dense()
    tensor([[ 0.5000, -2.0000]])
    """
    return _plane(weight)


@quantizer(bits=1)
def binary_connect(weight: Tensor) -> Quantized:
    """BinaryConnect (BC): the sign of the weight. Courbariaux, Bengio, David, NeurIPS 2015.

        w_hat = sign(w)

    >>> binary_connect(torch.tensor([[0.5, -2.0, 0.0]])).dense()
    tensor([[ 1., -1.,  0.]])
    """
    return _plane(sign(weight))


@quantizer(bits=1, scales="matrix")
def bwn(weight: Tensor) -> Quantized:
    """Binary-Weight-Network: the signs times one scale, that of least squared error.

        w_hat = alpha sign(w),    alpha = mean |w|

    Rastegari et al., XNOR-Net, ECCV 2016.

    >>> bwn(torch.tensor([[0.5, -2.0]])).dense()
    tensor([[ 1.2500, -1.2500]])
    """
    return _plane(sign(weight), _mean(weight.abs()))


def _diagonal(weight: Tensor, second_moment: Tensor | None) -> Tensor:
    """D = sqrt(v) + 1e-8, the diagonal approximation of the Hessian; D = 1 without a second
    moment."""
    return torch.ones_like(weight) if second_moment is None else second_moment.sqrt() + 1e-8


@quantizer(bits=1, scales="matrix")
def lab(weight: Tensor, second_moment: Tensor | None = None) -> Quantized:
    """Loss-aware binarization: the signs times the scale that a diagonal Hessian D weighs.

        w_hat = alpha sign(w),    alpha = sum(D |w|) / sum(D),    D = sqrt(v) + 10^{-8}

    ``second_moment``: v, Adam's raw running second moment of the gradient of the quantized weight
    (shape of ``weight``, not bias-corrected); None stands for D = 1, where the result is that of
    :func:`bwn`. Hou, Yao, Kwok, ICLR 2017.

    >>> lab(torch.tensor([[1.0, -3.0]]), second_moment=torch.tensor([[9.0, 1.0]])).scales.item()   # (3 + 3) / 4
    1.5
    """
    diagonal = _diagonal(weight, second_moment)
    # alpha = sum(D |w|) / sum(D)
    return _plane(sign(weight), _sum(diagonal * weight.abs()) / _sum(diagonal))


def _ternary(weight: Tensor, threshold: Tensor) -> Tensor:
    """+1 where w > t, -1 where w < -t, else 0."""
    return (weight > threshold).to(weight.dtype) - (weight < -threshold).to(weight.dtype)


@quantizer(bits=2)
def ter_connect(weight: Tensor) -> Quantized:
    """TerConnect (TC): the sign of the weight where its magnitude is above a threshold t, else 0.

        w_hat = +1 if w > t, -1 if w < -t, else 0;    t = 0.7 mean |w|

    Lin et al., ICLR 2016, with the threshold of Li, Zhang, Liu, 2016.

    >>> ter_connect(torch.tensor([[1.0, -2.0, 0.1]])).dense()
    tensor([[ 1., -1.,  0.]])
    """
    return _plane(_ternary(weight, 0.7 * _mean(weight.abs())))


@quantizer(bits=2, scales="matrix")
def twn(weight: Tensor) -> Quantized:
    """Ternary weight network: the codes b of :func:`ter_connect` times one scale, the mean of the
    weights it keeps.

        w_hat = alpha b,    alpha = sum(|b| |w|) / sum(|b|)

    An all-zero matrix gives 0. Li, Zhang, Liu, 2016.

    >>> twn(torch.tensor([[1.0, -2.0, 0.1]])).dense()
    tensor([[ 1.5000, -1.5000,  0.0000]])
    """
    codes = ter_connect(weight).codes[0]
    kept = codes.abs()
    return _plane(codes, _sum(kept * weight.abs()) / _sum(kept).clamp(min=1))


@quantizer(bits=2, scales="matrix")
def lat(weight: Tensor, second_moment: Tensor | None = None) -> Quantized:
    """Loss-aware ternarization: codes and scale of least error under a diagonal Hessian D, by
    alternation.

        w_hat = alpha b minimizes sum D (alpha b - w)^2,    b in {-1, 0, +1}
        alpha <- sum(|b D w|) / sum(|b D|)
        b <- +1 if w > alpha / 2, -1 if w < -alpha / 2, else 0

    From b = sign(w) until alpha moves by less than 1e-6, at most 100 rounds. ``second_moment`` and
    D as in :func:`lab`; an all-zero matrix gives 0. Hou, Kwok, ICLR 2018.

    >>> lat(torch.tensor([[1.0, -2.0, 0.1]])).dense()
    tensor([[ 1.5000, -1.5000,  0.0000]])
    """
    diagonal = _diagonal(weight, second_moment)

    def scale(codes):
        # alpha = sum(|b D w|) / sum(|b D|)
        weighted = codes.abs() * diagonal
        return _sum(weighted * weight.abs()) / _sum(weighted).clamp(
            min=torch.finfo(weight.dtype).tiny)

    codes = sign(weight)
    alpha = scale(codes)
    moving = torch.ones_like(
        alpha, dtype=torch.bool
    )  # matrices of the batch stop each on their own
    for _ in range(100):
        codes = torch.where(moving, _ternary(weight, alpha / 2), codes)
        previous, alpha = alpha, torch.where(moving, scale(codes), alpha)
        moving = (alpha - previous).abs() >= 1e-6
        if not moving.any():
            break
    return _plane(codes, alpha)


def stochastic_level(weight: Tensor) -> float:
    """A = sqrt(6 / (n_in + 4 d)) / 2, half the Glorot limit of the stacked 4d x n_in matrix."""
    rows, columns = weight.shape[-2:]
    return math.sqrt(6 / (columns + 4 * rows)) / 2


def _uniform(weight: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype)


@quantizer(bits=1, stochastic=True)
def sbn(weight: Tensor, generator: torch.Generator | None = None) -> Quantized:
    """Stochastic binarization: +A or -A, the likelier the nearer.

        P(w_hat = +A) = clip((w/A + 1) / 2, 0, 1),    A = sqrt(6 / (n + 4d)) / 2

    A fresh sample a call, from ``generator`` (None: torch's default one). Ardakani et al., ICLR
    2019.

    >>> w = torch.tensor([[5.0, -5.0]])                       # far outside [-A, A]: certain
    >>> torch.equal(sbn(w).codes[0], torch.sign(w))
    True
    """
    level = stochastic_level(weight)
    # P(+A) = clip((w/A + 1)/2, 0, 1)
    probability = ((weight / level + 1) / 2).clamp(0, 1)
    return _plane(_signs(_uniform(weight, generator) < probability, weight.dtype), level)


@quantizer(bits=2, stochastic=True)
def stn(weight: Tensor, generator: torch.Generator | None = None) -> Quantized:
    """Stochastic ternarization: A sign(w) or 0; A and ``generator`` as in :func:`sbn`.

        P(w_hat = A sign(w)) = min(|w| / A, 1),    else w_hat = 0

    Ardakani et al., ICLR 2019.

    >>> stn(torch.tensor([[5.0, 0.0]])).codes[0]
    tensor([[1., 0.]])
    """
    level = stochastic_level(weight)
    kept = _uniform(weight, generator) < weight.abs() / level
    return _plane(sign(weight) * kept.to(weight.dtype), level)


@quantizer(bits=2, scales="row")
def alternating(weight: Tensor, bits: int = 2) -> Quantized:
    """Alternating multi-bit: each row of ``weight`` as several binary planes, each with a scale.

        w_hat = sum_k alpha_k b_k,    b_k in {-1, +1}

    Greedy start (b_k = sign of the residual, alpha_k = its mean magnitude), then 2 rounds of least
    squares for the scales and the nearest code for each weight. ``bits``: the number of planes k.
    Xu et al., ICLR 2018.

    >>> alternating(torch.tensor([[3.0, 1.0, -1.0, -3.0]])).dense()          # 2 b_1 + 1 b_2: exact
    tensor([[ 3.,  1., -1., -3.]])
    """
    residual, planes, scales = weight, [], []
    for _ in range(bits):
        planes.append(_signs(residual >= 0, weight.dtype))  # no zeros: two levels a plane
        scales.append(residual.abs().mean(-1, keepdim=True))
        residual = residual - scales[-1] * planes[-1]
    codes = torch.stack(planes, -1)  # (..., d, n, k)
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits))).to(weight)  # (2^k, k)
    for _ in range(2):
        # alpha = (B' B)^+ B' w, a row at a time; the pseudo-inverse since two planes may coincide
        gram = codes.mT @ codes
        alpha = torch.linalg.pinv(gram, hermitian=True) @ (
            codes.mT @ weight[..., None]
        )  # (..., d, k, 1)
        # b = the nearest of the 2^k levels of its row
        levels = (signs @ alpha).mT  # (..., d, 1, 2^k)
        codes = signs[(weight[..., None] - levels).abs().argmin(-1)]
    return Quantized(codes.movedim(-1, 0), alpha.movedim(-2, 0))
