r"""The two sides of Propositions 2.1 and 3.1 to 3.4, in numbers, on any network.

How much can a gradient grow on its way back through time? Let $\xi_m$ be the loss of time step $m$.
Each proposition bounds the gradient that leaves step $t$, $1 \le t \le m$, by those that arrive at
it, in a single-layer network (or in the top layer: from below it looks the same):

$$
\left\| \frac{\partial \xi_m}{\partial h_{t-1}} \right\| \le
\lambda_1 \left\| \frac{\partial \xi_m}{\partial h_t} \right\| +
\lambda_2 \left\| \frac{\partial \xi_m}{\partial c_{t+1}} \right\|,
\qquad \frac{\partial \xi_m}{\partial c_{m+1}} = 0.
$$

The factors $\lambda_1$ and $\lambda_2$ are made of $K_*$, what the normalized product of gate $*$
can multiply a gradient by, and of $\gamma = \max_j |c_{t-1,j}|$. Where 3.3 and 3.4 speak of a
minibatch, each norm is replaced by the sum of its squares over the samples, and $\gamma$ is the
largest of them. Statistics of a normalizer are those of the minibatch, as in training. The proofs
are in appendix F of the paper; their slips, and examples that no proposition covers, in
:mod:`qlstm.study.theory.slips`. The bound of a GRU, :func:`gru`, is not in the paper.

``run``: a :class:`~qlstm.study.theory.forward.Run`, the network after one forward pass. ``model``:
a network with its :class:`~qlstm.lstm.QuantLSTM` as ``model.rnn``, called ``model(inputs,
trace=trace)``; it is not changed. ``inputs``: what it takes, (T, N, ...). ``targets``: the right
answers, (T, N), or (N,) for a classifier. ``proposition``: the name of one, needed only for "3.3"
instead of 2.1. ``state``: the initial state, (layers, N, d) each, if not the model's own.
``along_run``: whether $\gamma$ is the largest $|c_{t-1}|$ of all steps, as in the paper, or that of
step t alone. ``printed``: whether to compute with the slips of the appendix, in constants and in
$g_*$.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN, State
from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm
from qlstm.quantizers import Quantized
from qlstm.study.theory.forward import Run, forward, gradients

VANISHED = 1e-140
"""A left side below this counts as 0: squares of such numbers leave the range of float64."""


def vector_norms(x: Tensor) -> Tensor:
    """Euclidean norms over the last axis of ``x``, even where the squares overflow or underflow.

    >>> vector_norms(torch.tensor([[3e300, 4e300], [0.0, 0.0]], dtype=torch.float64)).tolist()
    [5e+300, 0.0]
    """
    largest = x.abs().amax(-1, keepdim=True)
    largest = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    return largest.squeeze(-1) * torch.linalg.vector_norm(x / largest, dim=-1)


def spectral_norms(weight: Tensor) -> Tensor:
    r"""$\|W\|_2$, the largest singular value, of each matrix in ``weight`` (gates, d, n)."""
    return torch.linalg.matrix_norm(weight, 2)


def spectral_lower_bounds(quantized: Quantized) -> Tensor:
    r"""What the codes alone say of $\|W\|_2$: a lower bound for each gate.

    Let $s$ be the share of zeros of a (d, n) matrix and $B_1$ its smallest positive level. The
    $\min(d, n)$ squared singular values add up to $\|W\|_F^2 \ge (1 - s)\, d n B_1^2$, so

    $$
    \|W\|_2 \ge \sqrt{(1 - s) \max(d, n)}\, B_1 \ge (1 - s) \sqrt{\max(d, n)}\, B_1,
    $$

    the last of which is the paper's form for d = n. It is $\alpha \sqrt{d}$ for binary codes.

    Args:
        quantized: Codes and scales of the gates' matrices; the levels are those of their sum.

    Returns:
        The last expression, (gates,); 0 for a matrix of zeros.
    """
    levels = quantized.dense().abs()  # (gates, d, n)
    zeros = (levels == 0).to(levels.dtype).mean((-2, -1))
    smallest = levels.where(levels > 0, math.inf).amin((-2, -1))
    # $(1 - s) B_1 \sqrt{\max(d, n)}$
    return torch.where(zeros < 1, (1 - zeros) * smallest, 0) * math.sqrt(max(levels.shape[-2:]))


def proposition_2_1(run: Run) -> tuple[Tensor, Tensor]:
    r"""Proposition 2.1, plain LSTM: $\lambda_1$ and $\lambda_2$ by step and sample, each (T, N)."""
    # $K_* = \|W_{h*}\|_2$
    return _by_sample(run, spectral_norms(run.W))


def proposition_3_1(run: Run) -> tuple[Tensor, Tensor]:
    r"""Proposition 3.1, weight normalization: $\lambda_1$ and $\lambda_2$, each (T, N)."""
    # $K_* = g_* \|D^{-1} W_{h*}\|_2, \quad g_* = \max_j |g_j|$
    return _by_sample(run, run.g.amax(-1) * spectral_norms(run.W))


def proposition_3_2(run: Run) -> tuple[Tensor, Tensor]:
    r"""Proposition 3.2, layer normalization: $\lambda_1$ and $\lambda_2$, each (T, N)."""
    _, sigma = run.statistics
    # $K_* = \frac{g_*}{\sigma} \|W_{h*}\|_2, \quad g_* = \max_j |g_j|$
    return _by_sample(run, (run.g / sigma).amax(-1) * spectral_norms(run.W))


def proposition_3_3(run: Run) -> tuple[Tensor, Tensor]:
    r"""Proposition 3.3, a minibatch: $\lambda_1$ and $\lambda_2$ by step, each (T,)."""
    # $K_* = \|W_{h*}\|_2$
    K = spectral_norms(run.W)
    return _over_minibatch(run, K, output=1 / 2 if run.printed else 1 / 4)


def proposition_3_4(run: Run) -> tuple[Tensor, Tensor]:
    r"""Proposition 3.4, batch normalization: $\lambda_1$ and $\lambda_2$ by step, each (T,)."""
    _, sigma = run.statistics
    # $K_* = \max_j \frac{|g_j|}{\sigma_j} \|W_{h*}\|_2$
    K = (run.g / sigma).amax(-1) * spectral_norms(run.W)
    return _over_minibatch(run, K, forget=1 if run.printed else 1 / 2)


def _by_sample(run, K):
    """What 2.1, 3.1 and 3.2 share; sig' is at most 1/4, all other factors 1."""
    gamma = run.largest(run.c, over_minibatch=False)
    K_i, K_f, K_a, K_o = K.unbind(-1)
    # $\lambda_2 = \frac14 K_i + \frac14 \gamma K_f + K_a, \quad
    #  \lambda_1 = \lambda_2 + \frac14 K_o$
    lambda_2 = K_i / 4 + gamma * K_f / 4 + K_a
    return lambda_2 + K_o / 4, lambda_2


def _over_minibatch(run, K, forget=1 / 2, output=1 / 4):
    """What 3.3 and 3.4 share: the squares, times 4 for a sum of four terms, times 2 where
    d xi_m / d c_t, a sum of two, comes in."""
    gamma = run.largest(run.c, over_minibatch=True)
    K_i, K_f, K_a, K_o = K.unbind(-1)
    # $\lambda_2 = \frac12 K_i^2 + \frac12 \gamma^2 K_f^2 + 8 K_a^2, \quad
    #  \lambda_1 = \lambda_2 + \frac14 K_o^2$
    lambda_2 = K_i**2 / 2 + (gamma * K_f) ** 2 * forget + 8 * K_a**2
    return (lambda_2 + K_o**2 * output).squeeze(1), lambda_2.squeeze(1)


def gru(run: Run) -> tuple[Tensor, Tensor]:
    r"""The same bound for a GRU (not in the paper), for each normalizer.

    From $h_t = (1 - z) n + z h_{t-1}$, with the normalized product $p = N(W_{hn} h_{t-1})$, the
    gradient $e = \partial \xi_m / \partial h_t$ and the Jacobians $J_*$ of $N(W_{h*} h_{t-1})$,

    $$
    \frac{\partial \xi_m}{\partial h_{t-1}} = e\, \mathrm{Diag}(z)
    + e\, \mathrm{Diag}((h_{t-1} - n)\, \sigma'(\tilde z))\, J_z
    + e\, \mathrm{Diag}((1 - z) \tanh'(\tilde n)\, r)\, J_n
    + e\, \mathrm{Diag}((1 - z) \tanh'(\tilde n)\, p\, \sigma'(\tilde r))\, J_r
    $$

    where $\|J_*\| \le K_*$, $\sigma' \le 1/4$, $|n| < 1$, and all other factors but
    $\eta = \max |h_{t-1}|$ and $\gamma = \max |p|$ are at most 1.

    Returns:
        $\lambda_1$ by step and sample, (T, N), with batch normalization by step, (T,); and
        $\lambda_2 = 0$, as there is no cell state.
    """
    (mean, sigma), squared = run.statistics, isinstance(run.norm, BatchNorm)
    p = run.gain * (run.products - mean) / sigma + getattr(run.norm, "shift", 0)
    gamma, eta = run.largest(p[:, :, 2].detach(), squared), run.largest(run.h, squared)
    # $K_* = \max_j \frac{|g_j|}{\sigma_j} \|W_{h*}\|_2$, where g = 1, $\sigma$ = 1 if not used
    K_r, K_z, K_n = ((run.g / sigma).amax(-1) * spectral_norms(run.W)).unbind(-1)
    if squared:
        # $\lambda_1 = 4 + \frac14 \gamma^2 K_r^2 + \frac14 (1 + \eta)^2 K_z^2 + 4 K_n^2$
        lambda_1 = 4 + ((gamma * K_r) ** 2 / 4 + ((1 + eta) * K_z) ** 2 / 4 + 4 * K_n**2)
        lambda_1 = lambda_1.squeeze(1)
    else:
        # $\lambda_1 = 1 + \frac14 \gamma K_r + \frac14 (1 + \eta) K_z + K_n$
        lambda_1 = 1 + (gamma * K_r / 4 + (1 + eta) * K_z / 4 + K_n)
    return lambda_1, torch.zeros_like(lambda_1)


PROPOSITIONS = {
    Identity: {"2.1": proposition_2_1, "3.3": proposition_3_3},
    WeightNorm: {"3.1": proposition_3_1},
    LayerNorm: {"3.2": proposition_3_2},
    BatchNorm: {"3.4": proposition_3_4},
}
"""The propositions on an LSTM by the type of its normalizer, the default first."""


class Bounds(NamedTuple):
    """Both sides of a proposition for each step t = 1 .. m.

    ``proposition``: its name. ``lhs``, ``rhs``: the left and the right side of the inequality.
    ``lambda_1``, ``lambda_2``: its factors. Each of shape (m, N), a value for each sample, or (m,)
    where the sides are sums over the minibatch (3.3, 3.4).
    """

    proposition: str
    lhs: Tensor
    rhs: Tensor
    lambda_1: Tensor
    lambda_2: Tensor

    @property
    def ratio(self) -> Tensor:
        """Left side over right side, at most 1 where the proposition holds; 0 where both vanish."""
        return torch.where(self.lhs <= VANISHED, 0, self.lhs / self.rhs)


def find_proposition(rnn: QuantRNN, wanted: str | None = None) -> str:
    """The name of the proposition that speaks of a layer.

    Args:
        rnn: The layer; its normalizer and its cell decide.
        wanted: The one to take where there are several, "3.3" in place of 2.1.

    Raises:
        ConfigError: If none speaks of the layer, or not the wanted one.
    """
    possible = PROPOSITIONS.get(type(rnn.norm_hh_l0), {})
    if not possible or type(rnn.norm_c_l0) is not Identity:
        what = "a normalizer of your own" if not possible else "a normalized cell state (SBN, STN)"
        raise ConfigError(f"no proposition speaks of a network with {what}")
    names = ["GRU"] if rnn.gates == 3 else list(possible)
    if wanted not in (None, *names):
        raise ConfigError(f"proposition {wanted!r} does not speak of this network: "
                          f"possible is {' or '.join(names)}")
    return wanted or names[0]


def applies(rnn: QuantRNN) -> bool:
    """Whether some proposition, or the GRU's bound, speaks of the layer ``rnn``."""
    try:
        return bool(find_proposition(rnn))
    except ConfigError:
        return False


def _lambdas(run, proposition):
    return (gru if proposition == "GRU" else PROPOSITIONS[type(run.norm)][proposition])(run)


@torch.no_grad()
def lambdas(model: nn.Module, inputs: Tensor, state: State | None = None, *,
            proposition: str | None = None, along_run: bool = False,
            printed: bool = False) -> tuple[Tensor, Tensor]:
    r"""$\lambda_1$ and $\lambda_2$ of the top layer at the time steps t = 1 .. T.

    All parameters are described in the module; the model may be a layer itself.

    Returns:
        Both (T, N), a value for each sample, or (T,) for 3.3 and 3.4.

    Raises:
        ConfigError: For a network that no proposition speaks of.
    """
    run = forward(model, inputs, state)._replace(along_run=along_run, printed=printed)
    return _lambdas(run, find_proposition(run.rnn, proposition))


def bounds(model: nn.Module, inputs: Tensor, targets: Tensor, m: int | None = None,
           proposition: str | None = None, *, state: State | None = None, along_run: bool = False,
           printed: bool = False) -> Bounds:
    r"""Both sides of the proposition that speaks of a network, for the steps t = 1 .. m.

    Args:
        m: The time step whose mean cross-entropy is the loss $\xi_m$, 1 .. T; None: the last one,
            T, which is the only one of a classifier.

    The other parameters are described in the module.

    Raises:
        ConfigError: For a network that no proposition speaks of, and an m that is no step.
    """
    found = sides(
        model, inputs, targets, m, proposition, state=state, along_run=along_run, printed=printed)
    return Bounds(found.proposition, *(side[:m] for side in found[1:]))


@torch.enable_grad()
def sides(model: nn.Module, inputs: Tensor, targets: Tensor, m: int | None = None,
          proposition: str | None = None, *, state: State | None = None, layer: int = -1,
          total: bool = False, along_run: bool = False, printed: bool = False) -> Bounds:
    """As :func:`bounds`, also where the proposition says nothing: for all steps t = 1 .. T.

    Args:
        m: As in :func:`bounds`.
        layer: The layer to look at, the top one if left out.
        total: Whether the loss is the sum over all steps, not that of step m.

    The other parameters are described in the module.
    """
    proposition = find_proposition(model.rnn, proposition)
    run = forward(model, inputs, state, layer)._replace(along_run=along_run, printed=printed)
    last = len(run.states[0]) - 1
    first = 1 if run.logits.dim() == 3 else last  # a classifier has the loss of its last step only
    if m is not None and m not in range(first, last + 1):
        raise ConfigError(
            f"m, the time step of the loss, must be {first} to {last} for this network, got {m!r}")
    lambda_1, lambda_2 = _lambdas(run, proposition)
    norms = vector_norms(gradients(run, targets, m, total))  # (states, T + 1, N)
    if lambda_1.dim() == 1:  # 3.3, 3.4: sums over the minibatch
        norms = norms.square().sum(-1)
    # $\| \partial \xi_m / \partial h_t \|$, t = 0 .. T; $\| \partial \xi_m / \partial c_{t+1} \|$
    h, c_next = norms[0], torch.cat([norms[-1, 2:], torch.zeros_like(norms[-1, :1])])
    return Bounds(proposition, h[:-1], lambda_1 * h[1:] + lambda_2 * c_next, lambda_1, lambda_2)


@torch.enable_grad()
def scale_invariance(model: nn.Module, inputs: Tensor, targets: Tensor, gate: int, s: float,
                     state: State | None = None) -> tuple[float, float]:
    r"""By how much outputs and gradients change when the quantized $W_{h*}$ of a gate is scaled.

    A normalized network sees no scale, if no epsilon is added to its variance. So it is 1e-300
    here, 0 beside any variance; the variance must not be 0 itself, as it is at $h_0 = 0$, and at
    d = 1 with layer normalization.

    Args:
        gate: Index of the gate, in the order i, f, a, o or r, z, n.
        s: The factor, positive.
        state: The initial state; None: a random one, always the same.

    The other parameters are described in the module.

    Returns:
        The largest change of the top layer's $h_t$, and of $\partial \xi_T / \partial h_{t-1}$,
        relative to the largest of its step.
    """
    if state is None:
        generator, rnn = torch.Generator().manual_seed(0), model.rnn
        shape = (rnn.states, rnn.num_layers, inputs.shape[1], rnn.hidden_size)
        state = tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(inputs.device))
    runs = [forward(model, inputs, state, gate=gate, factor=x, eps=1e-300) for x in (1.0, s)]
    changes = []
    for before, after in ([torch.stack(run.states[0]) for run in runs],
                          [gradients(run, targets)[0] for run in runs]):
        size, change = (x.detach().abs().amax((1, 2)) for x in (before, after - before))
        changes.append((change / size.clamp(min=VANISHED)).max().item())
    return changes[0], changes[1]
