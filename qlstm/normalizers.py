r"""Normalizers of the products $W x_t$ and $W h_{t-1}$: none, weight, layer, batch.

Each of the eight products of an LSTM layer (four gates, input and recurrent) is normalized on its
own; a module here serves the four gates of one side, stacked as (4, d). ``normalize_weight`` acts
on the quantized matrices once, before the loop over time, ``forward(product, t)`` on the products
of one step. Gradients are those of the formulas, in which $y$ is a product, $g$ a gain and $\beta$
a shift. All classes are made with the same arguments:

``features``: the shape of what one sample has, (4, d) for products and (d,) for a cell state.
``columns``: n of the matrices, for initial values. ``max_steps``: the time steps with statistics of
their own. ``weight``: the quantized matrices (4, d, n). ``product``: ``(N, *features)``. ``t``: the
time step, from 0.

>>> norm = LayerNorm((4, 3), columns=5)
>>> norm(torch.tensor([1.0, 2.0, 6.0]).expand(2, 4, 3), 0)[0, 0]
tensor([-0.9258, -0.4629,  1.3887], grad_fn=<SelectBackward0>)
"""

import copy
import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.errors import ConfigError, lookup


class Normalizer(nn.Module):
    """What every normalizer shares: it leaves weights and products as they are."""

    def __init__(self, features: tuple[int, ...], columns: int, max_steps: int | None = None):
        super().__init__()
        self.features, self.columns = features, columns

    def normalize_weight(self, weight: Tensor) -> Tensor:
        """The matrices (4, d, n) that the products are taken with."""
        return weight

    def forward(self, product: Tensor, t: int) -> Tensor:
        """The normalized products of step ``t``, shape ``(N, *features)`` in and out."""
        return product

    def reset_parameters(self):
        """Initial values of the language models (the paper's release)."""


class Identity(Normalizer):
    """No normalization."""


class WeightNorm(Normalizer):
    r"""Each row of the *quantized* matrix gets the norm $g_j$ (Salimans, Kingma, NeurIPS 2016).

    $$ W_j \leftarrow \frac{g_j W_j}{\lVert W_j \rVert + 10^{-8}} \qquad \text{(paper, eq. 4)} $$

    The gradient passes the norm. The result does not depend on the scale of W: it is the same for
    $\mathrm{sign}(w)$ and $\alpha\,\mathrm{sign}(w)$. The gains start at the row norms of a fresh
    $U(-1/\sqrt d, 1/\sqrt d)$ matrix.
    """

    eps = 1e-8

    def __init__(self, features, columns, max_steps=None):
        super().__init__(features, columns)
        self.gain = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def normalize_weight(self, weight):
        """The matrices (4, d, n) with rows of norm g_j."""
        return self.rescale(weight, self.norms(weight))

    def norms(self, weight: Tensor) -> Tensor:
        """The norms of the rows, (4, d, 1)."""
        return torch.linalg.vector_norm(weight, dim=-1, keepdim=True)

    def rescale(self, values: Tensor, norms: Tensor) -> Tensor:
        """``values`` (..., 4, d, k) of rows that have the ``norms`` (4, d, 1)."""
        # g_j W_j / ||W_j||
        return self.gain[..., None] * values / (norms + self.eps)

    def reset_parameters(self):
        """g: row norms of a fresh U(-1/sqrt(d), 1/sqrt(d)) matrix."""
        bound = 1 / math.sqrt(self.features[-1])
        fresh = torch.empty(*self.features, self.columns, device=self.gain.device).uniform_(
            -bound, bound)
        with torch.no_grad():
            self.gain.copy_(torch.linalg.vector_norm(fresh, dim=-1))


class LayerNorm(Normalizer):
    r"""Mean $\mu$ and variance over the d units of a gate, per sample and step (Ba et al., 2016).

    $$ \mathrm{LN}(y) = g\,\frac{y - \mu}{\sqrt{\sigma^2 + 10^{-5}}} + \beta
       \qquad \text{(paper, eq. 5)} $$

    Gains start at 1, shifts at 0.
    """

    eps = 1e-5

    def __init__(self, features, columns, max_steps=None):
        super().__init__(features, columns)
        self.gain = nn.Parameter(torch.empty(features))
        self.shift = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def forward(self, product, t):
        """The products (N, 4, d), normalized over their last axis."""
        # g (y - mu) / sigma + beta
        return self.gain * F.layer_norm(product, product.shape[-1:], eps=self.eps) + self.shift

    def reset_parameters(self):
        """g = 1, beta = 0."""
        nn.init.ones_(self.gain)
        nn.init.zeros_(self.shift)


class BatchNorm(Normalizer):
    r"""Mean $\mu$ and variance over the N samples, per unit and step (Ioffe, Szegedy, ICML 2015).

    $$ \mathrm{BN}(y) = g\,\frac{y - \mu}{\sqrt{\sigma^2 + 10^{-5}}} + \beta
       \qquad \text{(paper, eq. 6)} $$

    At test time running statistics take their place. All time steps *share* them, or each of
    ``max_steps`` has *separate* ones, a later step taking the last (Cooijmans et al., ICLR 2017);
    gain and shift are shared over time in both. In training a minibatch needs two samples at least.
    Gains start at U(0, 1), shifts at 0. ``momentum`` is the part of a new statistic in a running
    one; SBN and STN have 0.05, and a ``biased`` variance.
    """

    eps, momentum, biased = 1e-5, 0.1, False

    def __init__(self, features, columns, max_steps=None):
        super().__init__(features, columns)
        self.gain = nn.Parameter(torch.empty(features))
        self.shift = nn.Parameter(torch.empty(features))
        steps = 1 if max_steps is None else max_steps
        self.register_buffer("running_mean", torch.empty(steps, *features))
        self.register_buffer("running_var", torch.empty(steps, *features))
        self.reset_parameters()

    def forward(self, product, t):
        """The products ``(N, *features)``, normalized over the samples; updates the running
        statistics in training."""
        mean, var = self._statistics(t)
        flat, gain, shift = product.flatten(1), self.gain.view(-1), self.shift.view(-1)
        if self.training and self.biased:
            with torch.no_grad():
                mean.lerp_(flat.mean(0), self.momentum)
                var.lerp_(flat.var(0, correction=0), self.momentum)
            mean = var = None
        # g (y - mu) / sigma + beta; running statistics: r <- 0.9 r + 0.1 batch
        normalized = F.batch_norm(
            flat, mean, var, gain, shift, self.training, self.momentum, self.eps)
        return normalized.view_as(product)

    def _statistics(self, t: int | Tensor) -> tuple[Tensor, Tensor]:
        last = len(self.running_mean) - 1
        if isinstance(t, Tensor):  # in an exported loop
            step = t.clamp(max=last).view(1)
            return tuple(running.index_select(0, step).view(-1)
                         for running in (self.running_mean, self.running_var))
        step = min(t, last)
        return self.running_mean[step].view(-1), self.running_var[step].view(-1)

    def fix_shift(self):
        """Let beta stay 0: a constant, no parameter, where something else has its place."""
        del self.shift
        self.register_buffer("shift", torch.zeros_like(self.gain))

    def running_statistics(self, steps: int) -> tuple[Tensor, Tensor]:
        """Running mean and variance of the first time steps.

        Args:
            steps: How many steps, T.

        Returns:
            Two tensors ``(T, *features)``.
        """
        index = torch.arange(steps, device=self.running_mean.device).clamp(
            max=len(self.running_mean) - 1)
        return self.running_mean[index], self.running_var[index]

    @torch.no_grad()
    def update(self, mean: Tensor, var: Tensor, samples: int):
        """Take the statistics of all steps at once into the running ones, as one :meth:`forward`
        after the other would.

        Args:
            mean: (T, features), the means of a minibatch.
            var: (T, features), its biased variances.
            samples: N, the samples of the minibatch.
        """
        own = len(self.running_mean) - 1  # so many steps have their own; all others share the last
        var = var if self.biased else var * (samples / (samples - 1))
        for running, batch in ((self.running_mean, mean), (self.running_var, var)):
            batch = batch.view(-1, *running.shape[1:])
            first = batch[:own]
            running[: len(first)].lerp_(first, self.momentum)
            if len(batch) > own:
                # r <- 0.9 r + 0.1 batch, k times: r <- 0.9^k r + sum_t 0.1 0.9^(k - 1 - t) batch_t
                rest = batch[own:]
                powers = (1 - self.momentum) ** torch.arange(
                    len(rest), -1, -1, device=rest.device, dtype=rest.dtype)
                running[own].mul_(powers[0]).add_(
                    torch.einsum("t,t...->...", self.momentum * powers[1:], rest))

    def reset_parameters(self):
        """g: U(0, 1), beta = 0; running mean 0 and variance 1."""
        nn.init.uniform_(self.gain)
        nn.init.zeros_(self.shift)
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)


class Own(Normalizer):
    """A user's function or module, called as ``norm(product, t)`` if it requires two arguments or
    has a ``t``."""

    def __init__(self, function: Callable, features, columns):
        super().__init__(features, columns)
        self.function = copy.deepcopy(function) if isinstance(function, nn.Module) else function
        try:
            signature = inspect.signature(
                function.forward if isinstance(function, nn.Module) else function)
            required = [p for p in signature.parameters.values() if p.default is p.empty]
            self.takes_step = "t" in signature.parameters or len(required) == 2
        except ValueError:  # a function of torch's own has no signature
            self.takes_step = False

    def normalize_weight(self, weight):
        """The matrices, by the module's own ``normalize_weight`` if it has one."""
        own = getattr(self.function, "normalize_weight", None)
        return weight if own is None else own(weight).to(weight.dtype)

    def forward(self, product, t):
        """The function of the products; its constants may be in another precision."""
        normalized = self.function(product, t) if self.takes_step else self.function(product)
        if getattr(normalized, "shape", None) != product.shape:
            got = getattr(normalized, "shape", type(normalized).__name__)
            raise ConfigError(f"the normalizer of one's own returned {got}, not the shape of the "
                              f"products, {tuple(product.shape)}")
        return normalized.to(product.dtype)


def _batch_shared(features, columns, max_steps=None):
    return BatchNorm(features, columns)


def _batch_separate(features, columns, max_steps=None):
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        raise ConfigError("normalizer 'batch_separate' keeps statistics for each time step: "
                          f"max_steps must be their number, got {max_steps!r}")
    return BatchNorm(features, columns, max_steps)


NORMALIZERS = {"none": Identity, "weight": WeightNorm, "layer": LayerNorm,
               "batch_shared": _batch_shared, "batch_separate": _batch_separate}
"""The table from a normalizer's name to what makes it."""


def make_normalizer(
        normalizer, features: tuple[int, ...], columns: int, max_steps: int | None) -> Normalizer:
    """The normalizer for one place of one layer: input product, recurrent product or cell state.

    Args:
        normalizer: A name of :data:`NORMALIZERS`; ``"module:name"``, which is imported; a function
            of the products (N, 4, d), called as ``f(product, t)`` or ``f(product)``; or a module
            that is called so. Each place gets its own copy of a module, which may define
            ``normalize_weight`` too.
        features: As above, like the others.
        columns: As above.
        max_steps: As above.

    Raises:
        ConfigError: There is no such normalizer.
    """
    if isinstance(normalizer, str):
        found = lookup("normalizer", normalizer, NORMALIZERS)
        if normalizer in NORMALIZERS:
            return found(features, columns, max_steps)
        normalizer = found
    if isinstance(normalizer, type) or not callable(normalizer):
        raise ConfigError("normalizer: expected a name, a function or a module (not a class), "
                          f"got {normalizer!r}")
    return Own(normalizer, features, columns)
