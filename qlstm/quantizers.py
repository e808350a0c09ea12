r"""Quantizers: a weight matrix becomes planes of codes and their scales,
$\hat w = \sum_k \alpha_k b_k$.

Each quantizer is a pure function of one ``weight``, the matrix (d, n) of one gate, and returns a
:class:`Quantized` of the same shape. Axes in front are batched: the four stacked gates (4, d, n)
are four matrices. Loss-aware quantizers also take ``second_moment``, of the shape of the weight:
$v$, Adam's running second moment of the gradient, not corrected for bias. Stochastic ones take a
``generator`` of random numbers (None: torch's own), or the numbers of U(0, 1) as ``uniform``. In
the formulas $w$ is an entry of the weight and $\hat w$ that of the result; sums and means go over
one matrix. Where a weight is NaN the result is. The gradient is *straight-through*
(:func:`straight_through`); to it the scale $\alpha$ is a constant.

>>> w = torch.tensor([[0.9, -0.1], [-0.5, 0.3]], requires_grad=True)
>>> bwn(w.detach()).dense()                              # alpha sign(w), alpha = mean |w| = 0.45
tensor([[ 0.4500, -0.4500],
        [-0.4500,  0.4500]])
>>> loss = (straight_through(w, bwn(w).dense()) * torch.tensor([[1., 2.], [3., 4.]])).sum()
>>> loss.backward()
>>> w.grad                                               # that of the quantized weight, unchanged
tensor([[1., 2.],
        [3., 4.]])
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from qlstm.arguments import check_precision
from qlstm.errors import lookup
from qlstm.tracing import pseudo_inverse, repeat


class Quantized(NamedTuple):
    r"""A quantized weight: k planes of codes and their scales.

    Args:
        codes: (k, ..., d, n), of {-1, +1} or {-1, 0, +1}; in full precision the weight itself.
        scales: What each plane is multiplied with: (k, ..., 1, 1), one for a matrix, or
            (k, ..., d, 1), one for a row.
    """

    codes: Tensor
    scales: Tensor

    def dense(self) -> Tensor:
        r"""The matrix that products are taken with, $\sum_k \alpha_k b_k$, of shape (..., d, n)."""
        return (self.scales * self.codes).sum(0)


QUANTIZERS: dict[str, Callable[..., Quantized]] = {}
"""The table from a quantizer's name to its function, in the order of the paper's tables."""


def quantizer(bits: int, scales: str | None = None, stochastic: bool = False):
    """Enter a function in the table :data:`QUANTIZERS`, with what a network needs to know of it.

    Args:
        bits: Bits that one weight takes.
        scales: The floats that are stored beside the codes: ``None``; one for a ``"matrix"``; or,
            for a ``"row"``, one for each of ``bits`` planes.
        stochastic: Whether the codes are drawn at random (SBN, STN). A network of such a quantizer
            is built as its authors build it.
    """

    def enter(function):
        @functools.wraps(function)
        def entered(weight, *arguments, **keywords):
            check_precision(weight)
            return function(weight, *arguments, **keywords)

        entered.bits, entered.scales, entered.stochastic = bits, scales, stochastic
        QUANTIZERS[function.__name__] = entered
        return entered

    return enter


def find_quantizer(name: str) -> Callable[..., Quantized]:
    """The quantizer of a name.

    ``name`` is one of :data:`QUANTIZERS`, or ``"module:function"``, which is imported. Raises
    ``ConfigError`` for any other.
    """
    return lookup("quantizer", name, QUANTIZERS)


def straight_through(weight: Tensor, quantized: Tensor) -> Tensor:
    r"""The quantized weight, whose gradient goes to the latent weight (Bengio et al., 2013).

    $$ \frac{\partial\ell}{\partial w} = \frac{\partial\ell}{\partial \hat w} $$

    The forward pass is exact, unlike that of ``weight + (quantized - weight).detach()``.

    Args:
        weight: The latent weight, which receives the gradient.
        quantized: The quantized weight, of the same shape, which is returned.

    Example:
        >>> w = torch.tensor([0.3, -0.2], requires_grad=True)
        >>> (straight_through(w, sign(w)) * torch.tensor([5.0, 7.0])).sum().backward()
        >>> w.grad
        tensor([5., 7.])
    """
    return quantized.detach() + (weight - weight.detach())  # NaN where the weight is not finite


def sign(x: Tensor) -> Tensor:
    """+1, -1, or 0 for an exact zero, as in the paper's release; it passes no gradient.

    ``x`` has any shape; NaN stays NaN. There are zeros before training only: in sequential MNIST
    $W_{ha}$ starts as the identity, whose d (d - 1) zeros would else become a matrix of ones, of
    norm d, not 1. One bit cannot hold them (:mod:`qlstm.packing`).

    >>> sign(torch.tensor([-0.5, 0.0, 2.0]))
    tensor([-1.,  0.,  1.])
    """
    return torch.sign(x.detach()).masked_fill_(x.isnan(), math.nan)


def _signs(positive: Tensor, dtype: torch.dtype) -> Tensor:
    """+1 where ``positive``, else -1."""
    return positive.to(dtype).mul_(2).sub_(1)  # torch.where takes five times as long on the CPU


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
    """No quantization: one plane that is the weight itself, of scale 1.

    >>> full_precision(torch.tensor([[0.5, -2.0]])).dense()
    tensor([[ 0.5000, -2.0000]])
    """
    return _plane(weight)


@quantizer(bits=1)
def binary_connect(weight: Tensor) -> Quantized:
    r"""BinaryConnect (BC): the sign of the weight (Courbariaux et al., NeurIPS 2015).

    $$ \hat w = \mathrm{sign}(w) $$

    >>> binary_connect(torch.tensor([[0.5, -2.0, 0.0]])).dense()
    tensor([[ 1., -1.,  0.]])
    """
    return _plane(sign(weight))


@quantizer(bits=1, scales="matrix")
def bwn(weight: Tensor) -> Quantized:
    r"""Binary-Weight-Network: the sign times the scale of least error (Rastegari et al., 2016).

    $$ \hat w = \alpha\,\mathrm{sign}(w), \qquad \alpha = \mathrm{mean}\,|w| $$

    >>> bwn(torch.tensor([[0.5, -2.0]])).dense()
    tensor([[ 1.2500, -1.2500]])
    """
    return _plane(sign(weight), _mean(weight.abs()))


def _diagonal(weight: Tensor, second_moment: Tensor | None) -> Tensor:
    """D = sqrt(v) + 1e-8, a diagonal approximation of the Hessian; 1 without a second moment."""
    return torch.ones_like(weight) if second_moment is None else second_moment.sqrt() + 1e-8


@quantizer(bits=1, scales="matrix")
def lab(weight: Tensor, second_moment: Tensor | None = None) -> Quantized:
    r"""Loss-aware binarization: the Hessian's diagonal D weighs the scale (Hou, Yao, Kwok, 2017).

    $$ \hat w = \alpha\,\mathrm{sign}(w), \qquad \alpha = \frac{\sum D |w|}{\sum D}, \qquad
       D = \sqrt v + 10^{-8} $$

    Without a second moment D is 1, and this is :func:`bwn`.

    >>> v = torch.tensor([[9.0, 1.0]])
    >>> lab(torch.tensor([[1.0, -3.0]]), second_moment=v).scales.item()       # (3 + 3) / 4
    1.5
    """
    diagonal = _diagonal(weight, second_moment)
    # alpha = sum(D |w|) / sum(D)
    return _plane(sign(weight), _sum(diagonal * weight.abs()) / _sum(diagonal))


def _ternary(weight: Tensor, threshold: Tensor) -> Tensor:
    """+1 where w > t, -1 where w < -t, else 0; all NaN if t is not finite."""
    codes = (weight > threshold).to(weight.dtype) - (weight < -threshold).to(weight.dtype)
    return codes.add_(threshold - threshold)


@quantizer(bits=2)
def ter_connect(weight: Tensor) -> Quantized:
    r"""TerConnect (TC): the sign where the magnitude is above a threshold t (Lin et al., 2016).

    $$ \hat w = \begin{cases} +1 & w > t \\ -1 & w < -t \\ 0 & \text{else} \end{cases}
       \qquad t = 0.7\;\mathrm{mean}\,|w| $$

    The threshold is that of TWN (Li, Zhang, Liu, 2016).

    >>> ter_connect(torch.tensor([[1.0, -2.0, 0.1]])).dense()
    tensor([[ 1., -1.,  0.]])
    """
    return _plane(_ternary(weight, 0.7 * _mean(weight.abs())))


@quantizer(bits=2, scales="matrix")
def twn(weight: Tensor) -> Quantized:
    r"""Ternary weight network: the codes b of TerConnect times one scale (Li et al., 2016).

    $$ \hat w = \alpha b, \qquad \alpha = \frac{\sum |b|\,|w|}{\sum |b|}, \qquad
       t = 0.7\;\mathrm{mean}\,|w| $$

    The scale is the mean of the weights above the threshold t; a matrix of zeros gives 0.

    >>> twn(torch.tensor([[1.0, -2.0, 0.1]])).dense()
    tensor([[ 1.5000, -1.5000,  0.0000]])
    """
    codes = ter_connect(weight).codes[0]
    kept = codes.abs()
    return _plane(codes, _sum(kept * weight.abs()) / _sum(kept).clamp(min=1))


@quantizer(bits=2, scales="matrix")
def lat(weight: Tensor, second_moment: Tensor | None = None) -> Quantized:
    r"""Loss-aware ternarization: code and scale of least error under D (Hou, Kwok, ICLR 2018).

    $\hat w = \alpha b$ minimizes $\sum D (\alpha b - w)^2$, D as in :func:`lab`, over codes b of
    {-1, 0, +1} and scales by turns, from $b = \mathrm{sign}(w)$ until the scale moves by less than
    $10^{-6}$, at most 100 times; a matrix of zeros gives 0:

    $$ \alpha \leftarrow \frac{\sum |b D w|}{\sum |b D|}, \qquad b \leftarrow
       \begin{cases} +1 & w > \alpha/2 \\ -1 & w < -\alpha/2 \\ 0 & \text{else} \end{cases} $$

    >>> lat(torch.tensor([[1.0, -2.0, 0.1]])).dense()
    tensor([[ 1.5000, -1.5000,  0.0000]])
    """
    diagonal = _diagonal(weight, second_moment)

    def scale(codes):
        # alpha = sum(|b D w|) / sum(|b D|)
        weighted = codes.abs() * diagonal
        return _sum(weighted * weight.abs()) / _sum(weighted).clamp(
            min=torch.finfo(weight.dtype).tiny)

    def turn(codes, alpha, moving):
        codes = torch.where(moving, _ternary(weight, alpha / 2), codes)
        previous, alpha = alpha, torch.where(moving, scale(codes), alpha)
        return codes, alpha, (alpha - previous).abs() >= 1e-6

    codes = sign(weight)
    alpha = scale(codes)
    # the matrices of a batch stop each on their own
    moving = torch.ones_like(alpha, dtype=torch.bool)
    codes, alpha, _ = repeat(turn, (codes, alpha, moving), 100)
    return _plane(codes, alpha)


def stochastic_level(weight: Tensor) -> float:
    r"""$A = \frac12 \sqrt{6 / (n + 4d)}$, half the Glorot limit of the stacked matrix (4d, n)."""
    rows, columns = weight.shape[-2:]
    return math.sqrt(6 / (columns + 4 * rows)) / 2


def _uniform(weight: Tensor, generator: torch.Generator | None, uniform: Tensor | None) -> Tensor:
    if uniform is not None:
        return uniform
    return torch.rand(weight.shape, generator=generator, device=weight.device, dtype=weight.dtype)


@quantizer(bits=1, stochastic=True)
def sbn(weight: Tensor, generator: torch.Generator | None = None,
        uniform: Tensor | None = None) -> Quantized:
    r"""Stochastic binarization: +A or -A, the nearer the likelier (Ardakani et al., ICLR 2019).

    $$ P(\hat w = +A) = \mathrm{clip}\Bigl(\tfrac12 (w / A + 1), 0, 1\Bigr), \qquad
       A = \tfrac12 \sqrt{6 / (n + 4d)} $$

    >>> w = torch.tensor([[5.0, -5.0]])                       # far outside [-A, A]: certain
    >>> torch.equal(sbn(w).codes[0], torch.sign(w))
    True
    """
    level, uniform = stochastic_level(weight), _uniform(weight, generator, uniform)
    # P(+A) = clip((w/A + 1)/2, 0, 1)
    probability = ((weight.to(uniform.dtype) / level + 1) / 2).clamp(0, 1)
    codes = _signs(uniform < probability, weight.dtype)
    return _plane(codes.masked_fill_(weight.isnan(), math.nan), level)


@quantizer(bits=2, stochastic=True)
def stn(weight: Tensor, generator: torch.Generator | None = None,
        uniform: Tensor | None = None) -> Quantized:
    r"""Stochastic ternarization: A times the sign, or 0 (Ardakani et al., ICLR 2019).

    $$ P\bigl(\hat w = A\,\mathrm{sign}(w)\bigr) = \min(|w| / A, 1), \qquad
       \text{else } \hat w = 0 $$

    A as in :func:`sbn`.

    >>> stn(torch.tensor([[5.0, 0.0]])).codes[0]
    tensor([[1., 0.]])
    """
    level, uniform = stochastic_level(weight), _uniform(weight, generator, uniform)
    kept = uniform < weight.to(uniform.dtype).abs() / level
    return _plane(sign(weight) * kept.to(weight.dtype), level)


@quantizer(bits=2, scales="row")
def alternating(weight: Tensor, bits: int = 2) -> Quantized:
    r"""Alternating multi-bit: each row as several binary planes with scales (Xu et al., ICLR 2018).

    $$ \hat w = \sum_k \alpha_k b_k, \qquad b_k \in \{-1, +1\} $$

    It starts greedily, $b_k$ the sign of what is left and $\alpha_k$ its mean magnitude. Two rounds
    follow: least squares for the scales, then for each weight the nearest of the sums. ``bits``:
    the number of planes, k.

    >>> alternating(torch.tensor([[3.0, 1.0, -1.0, -3.0]])).dense()          # 2 b_1 + 1 b_2: exact
    tensor([[ 3.,  1., -1., -3.]])
    """
    residual, planes = weight, []
    for _ in range(bits):
        planes.append(_signs(residual >= 0, weight.dtype))  # no zeros: two levels a plane
        residual = residual - residual.abs().mean(-1, keepdim=True) * planes[-1]
    codes = torch.stack(planes)  # (k, ..., d, n)
    combinations = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=bits))).to(weight)
    for _ in range(2):
        # alpha = (B' B)^+ B' w, a row at a time; the pseudo-inverse since two planes may coincide
        gram = torch.einsum("k...n,l...n->...kl", codes, codes)
        sums = torch.einsum("k...n,...n->...k", codes, weight)
        scales = (pseudo_inverse(gram) @ sums[..., None]).movedim(-2, 0)  # (k, ..., d, 1)
        # b = the nearest of the 2^k levels of its row; lerp, as where and argmin are slow on a CPU
        nearest = torch.full_like(weight, math.inf)
        for signs in combinations.unflatten(-1, (bits, *[1] * weight.dim())):  # (k, 1, ..., 1)
            distance = (weight - (signs * scales).sum(0)).abs()
            codes = torch.lerp(codes, signs, (distance < nearest).to(weight.dtype))
            nearest = torch.minimum(nearest, distance)
    return Quantized(codes, scales)
