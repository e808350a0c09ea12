r"""The two sides of Propositions 2.1 and 3.1 to 3.4 in numbers.

Each proposition bounds how much the gradient of the loss xi_m of one time step m grows on its way
back through step t, 1 <= t <= m, in a single-layer network (or the top layer: from below it looks
the same):

    ||d xi_m / d h_{t-1}||  <=  lambda_1 ||d xi_m / d h_t||  +  lambda_2 ||d xi_m / d c_{t+1}||,    d xi_m / d c_{m+1} = 0

With K_* what a gate's product can multiply a gradient by, and gamma = max |c_{t-1}|:

    2.1 plain, 3.1 weight, 3.2 layer:    lambda_1 = K_i/4 + gamma K_f/4 + K_a + K_o/4,    lambda_2 = the same without K_o
    K = ||W||_2;    g_* ||D^-1 W||_2, D the row norms of the quantized W;    g_* / sigma ||W||_2;    g_* = max |g_j|

Over a minibatch, both sides as sums of squares over its N samples, gamma the largest of them (3.3
plain, 3.4 batch):

    lambda_1 = K_i^2/2 + gamma^2 K_f^2/2 + 8 K_a^2 + K_o^2/4,    lambda_2 = the same without K_o
    K = ||W||_2;    g_* / sigma_* ||W||_2 with (g_*, sigma_*) the pair that maximizes |g_j| / sigma_j

The constants: 4 (sum of four terms, squared) times the square of those above, times 2 where d xi_m
/ d c_t, a sum of two, comes in. sigma = sqrt(var + eps) of the products of that step (and sample);
batch statistics, as in training. The proofs: appendix F of the paper; its slips, and where the
propositions end: :mod:`qlstm.study.theory.slips`.

**GRU** (not in the paper). From h_t = (1 - z) n + z h_{t-1}, with p = N(W_hn h_{t-1}) and e = d
xi_m / d h_t,

    d xi_m / d h_{t-1} = e Diag(z) + e Diag((h_{t-1} - n) sig'(z~)) J_z + e Diag((1 - z) tanh'(n~) r) J_n
                         + e Diag((1 - z) tanh'(n~) p sig'(r~)) J_r,         J the Jacobians of N(W_{h*} h_{t-1})

where ||J|| <= K, sig' <= 1/4, |n| < 1 and all other factors but h_{t-1} and p are at most 1. With
gamma = max |p| and eta = max |h_{t-1}|, and for batch normalization with 4 (sum of four terms,
squared) times the squares, lambda_2 = 0 and

    lambda_1 = 1 + gamma K_r/4 + (1 + eta) K_z/4 + K_n,    4 + gamma^2 K_r^2/4 + (1 + eta)^2 K_z^2/4 + 4 K_n^2
"""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.errors import ConfigError
from qlstm.layer import QuantLSTM, QuantRNN, State
from qlstm.normalizers import BatchNorm, Identity, LayerNorm, WeightNorm
from qlstm.quantizers import Quantized

PROPOSITIONS = {Identity: ("2.1", "3.3"), WeightNorm: ("3.1",), LayerNorm: ("3.2",),
                BatchNorm: ("3.4",)}
"""What speaks of an LSTM with that normalizer, the default first."""
VANISHED = 1e-140
"""A left side below this counts as 0: squares of such numbers leave the range of float64."""


def vector_norms(x: Tensor) -> Tensor:
    """Euclidean norms over the last axis of ``x``, also where the squares leave the range of its
    type.

    >>> vector_norms(torch.tensor([[3e300, 4e300], [0.0, 0.0]], dtype=torch.float64)).tolist()
    [5e+300, 0.0]
    """
    largest = x.abs().amax(-1, keepdim=True)
    largest = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
    return largest.squeeze(-1) * torch.linalg.vector_norm(x / largest, dim=-1)


def spectral_norms(weight: Tensor) -> Tensor:
    """||W||_2, the largest singular value, of the matrices ``weight`` (gates, d, n): (gates,)."""
    return torch.linalg.matrix_norm(weight, 2)


def spectral_lower_bounds(quantized: Quantized) -> Tensor:
    """(1 - s) B_1 sqrt(max(d, n)) <= ||W||_2 by gate, s the share of zeros, B_1 the smallest
    positive level of ``quantized``: (gates,).

    Levels and zeros are those of the dense matrix, whatever the number of planes. min(d, n)
    singular values share
    ||W||_F^2 >= (1 - s) d n B_1^2, so the largest has ||W||_2^2 >= (1 - s) max(d, n) B_1^2; and sqrt(1 - s) >= 1 - s, the
    paper's form, d = n. Binary codes: s = 0, alpha sqrt(d). A matrix of zeros: 0.
    """
    levels = quantized.dense().abs()  # (gates, d, n)
    zeros = (levels == 0).to(levels.dtype).mean((-2, -1))
    smallest = levels.where(levels > 0, math.inf).amin((-2, -1))
    return torch.where(zeros < 1, (1 - zeros) * smallest, 0) * math.sqrt(max(levels.shape[-2:]))


class Bounds(NamedTuple):
    """Both sides for each step t = 1 .. m: (m, N), a sample each, or (m,) for sums over the
    minibatch (3.3, 3.4)."""

    proposition: str
    lhs: Tensor
    rhs: Tensor
    lambda_1: Tensor
    lambda_2: Tensor

    @property
    def ratio(self) -> Tensor:
        """Left side over right side, at most 1 where the proposition holds; 0 where both vanish."""
        return torch.where(self.lhs <= VANISHED, 0, self.lhs / self.rhs)


def find_proposition(rnn: QuantLSTM, wanted: str | None = None) -> str:
    """The proposition that speaks of the layer ``rnn``; "3.3" only if ``wanted``. Raises
    ``ConfigError`` if there is none."""
    possible = PROPOSITIONS.get(type(rnn.norm_hh_l0), ())
    if not possible or type(rnn.norm_c_l0) is not Identity:
        what = "a normalizer of your own" if not possible else "a normalized cell state (SBN, STN)"
        raise ConfigError(f"no proposition speaks of a network with {what}")
    if rnn.gates == 3:
        possible = ("GRU",)
    if wanted not in (None, *possible):
        raise ConfigError(
            f"proposition {wanted!r} does not speak of this network: possible is {' or '.join(possible)}"
        )
    return wanted or possible[0]


def applies(rnn: QuantLSTM) -> bool:
    """Whether some proposition (or the GRU's bound) speaks of the layer ``rnn``."""
    try:
        return bool(find_proposition(rnn))
    except ConfigError:
        return False


@torch.no_grad()
def lambdas(model: nn.Module, x: Tensor, state: State | None = None, *,
            proposition: str | None = None, along_run: bool = False,
            printed: bool = False) -> tuple[Tensor, Tensor]:
    """lambda_1 and lambda_2 of the top layer by time step t = 1 .. T: (T, N) by sample, (T,) for
    3.3 and 3.4.

    ``model``: a layer, or a model with one as ``rnn``; a float64 copy of it runs once, in training
    mode; it is not changed. ``x``, ``state``: what it takes (T, N, ...), and the layer's initial
    state if not the model's own. ``proposition``: "3.3" instead of 2.1. ``along_run``: the paper's
    gamma_1, gamma_2, the largest |c_{t-1}| of all steps, not of step t. ``printed``: with the
    appendix's slips in constants and in g_* (see :data:`SLIPS`).
    """
    run = _forward(model, x, state)
    return _lambdas(run, find_proposition(run.rnn, proposition), along_run, printed)


def bounds(model: nn.Module, inputs: Tensor, targets: Tensor, m: int | None = None,
           proposition: str | None = None, *, state: State | None = None, along_run: bool = False,
           printed: bool = False) -> Bounds:
    """Both sides of the proposition that speaks of ``model``, for xi_m, the mean cross-entropy of
    time step ``m``.

    ``model``: called ``model(inputs, trace=trace)``, returns logits (T, N, V), targets (T, N), or
    those of a classifier, (N, classes) and (N,), where m = T; its layer is ``model.rnn``. ``m``: 1
    .. T, default T. ``proposition``: "3.3" instead of 2.1. ``state``, ``along_run`` and ``printed``
    as in :func:`lambdas`. Raises ``ConfigError`` for a network no proposition speaks of.
    """
    found = sides(
        model, inputs, targets, m, proposition, state=state, along_run=along_run, printed=printed)
    return Bounds(found.proposition, *(side[:m] for side in found[1:]))


@torch.enable_grad()
def scale_invariance(model: nn.Module, inputs: Tensor, targets: Tensor, gate: int, s: float,
                     state: State | None = None) -> tuple[float, float]:
    """Scale the (quantized) W_h* of one gate by ``s`` > 0: by how much do outputs and gradients
    change?

    ``model``, ``inputs``, ``targets`` as in :func:`bounds`. Returns the largest change of the top
    layer's h_t, and of d xi_T / d h_{t-1}, relative to the largest of its step. A normalized
    network, eps = 0, has none. eps is 1e-300 here, 0 beside any variance; the variance must not be
    0 itself, as at h_0 = 0: ``state`` is a fixed random one if left out. d >= 2 for layer
    normalization.
    """
    if state is None:
        generator, rnn = torch.Generator().manual_seed(0), model.rnn
        shape = (rnn.states, rnn.num_layers, inputs.shape[1], rnn.hidden_size)
        state = tuple(
            torch.randn(shape, generator=generator, dtype=torch.float64).to(inputs.device))
    changes = []
    runs = [_forward(model, inputs, state, scale={gate: factor}, eps=1e-300) for factor in (1.0, s)]
    for values in ([torch.stack(run.states[0]) for run in runs],
                   [_gradients(run, targets)[0] for run in runs]):
        size, change = (v.detach().abs().amax((1, 2)) for v in (values[0], values[1] - values[0]))
        changes.append((change / size.clamp(min=VANISHED)).max().item())
    return changes[0], changes[1]


class _Run(NamedTuple):
    """A float64 copy of a model after one pass: layer k, its W_h* (gates, d, d), the logits, h_0 ..
    h_T and c_0 .. c_T."""

    rnn: QuantLSTM
    k: int
    weight: Tensor
    logits: Tensor
    states: list[tuple[Tensor, ...]]


def _forward(model, inputs, initial=None, layer=-1, scale=None, eps=None) -> _Run:
    """Run a copy, from an initial state that gradients can be taken of. ``scale``: factors of W_h*
    by gate."""
    probe = copy.deepcopy(model).train()
    rnn = probe if isinstance(probe, QuantRNN) else probe.rnn
    k, start, trace = layer % rnn.num_layers, [], []
    forward, effective_weight = rnn.forward, rnn.effective_weight

    def from_leaves(x, state=None, **keywords):
        zero = x.new_zeros(rnn.num_layers, x.shape[1], rnn.hidden_size, dtype=torch.float64)
        given = initial or state or (zero,) * rnn.states
        leaves = [[part.detach().double().requires_grad_() for part in kind] for kind in given]
        start.extend(kind[k] for kind in leaves)
        return forward(x, tuple(torch.stack(kind) for kind in leaves), **keywords)

    def with_fixed(name):
        if name != f"weight_hh_l{k}":
            return effective_weight(name)
        return getattr(rnn, f"norm_hh_l{k}").normalize_weight(weight).flatten(0, 1)

    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        # once and for all: a stochastic quantizer samples at each call
        weight = rnn.quantized(f"weight_hh_l{k}").dense().detach().double()
        for gate, factor in (scale or {}).items():
            weight = torch.cat(
                [weight[:gate], factor * weight[gate : gate + 1], weight[gate + 1 :]])
        rnn.forward, rnn.effective_weight = from_leaves, with_fixed
        for module in probe.double().modules():
            if eps is not None and isinstance(module, WeightNorm | LayerNorm | BatchNorm):
                module.eps = eps
        logits, _ = probe(inputs.double() if inputs.is_floating_point() else inputs, trace=trace)
    return _Run(rnn, k, weight, logits, list(zip(start, *trace[k], strict=True)))


def _gradients(run: _Run, targets: Tensor, m: int | None = None, total: bool = False) -> Tensor:
    """d xi_m / d h_t and d c_t, t = 0 .. T: (states, T + 1, N, d). ``total``: of the loss summed
    over all steps."""
    sequence = run.logits.dim() == 3
    logits, targets = (run.logits, targets) if sequence else (run.logits[None], targets[None])
    steps = range(len(logits)) if total else [(len(logits) if m is None or not sequence else m) - 1]
    loss = sum(F.cross_entropy(logits[t], targets[t]) for t in steps)
    flat = [s for kind in run.states for s in kind]
    gradients = torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True)
    return torch.stack(gradients).unflatten(0, (len(run.states), -1))


def _squared(run: _Run, proposition: str) -> bool:
    """Whether both sides are sums of squares over the minibatch."""
    return proposition == "3.3" or isinstance(getattr(run.rnn, f"norm_hh_l{run.k}"), BatchNorm)


def _lambdas(run: _Run, proposition: str, along_run: bool, printed: bool) -> tuple[Tensor, Tensor]:
    """The formulas at the top of this file, for all gates and steps at once; (T, N, gates, d) where
    all of them vary."""
    h, c = (
        torch.stack(run.states[kind][:-1]).detach() for kind in (0, -1)
    )  # of step t - 1: (T, N, d)
    norm, weight, squared = (getattr(run.rnn, f"norm_hh_l{run.k}"), run.weight,
                             _squared(run, proposition))
    gain, shift = (
        getattr(norm, key, weight.new_tensor(v)).detach() for key, v in (("gain", 1), ("shift", 0)))
    mean, sigma = 0, weight.new_ones(1, 1, 1, 1)
    if isinstance(norm, WeightNorm):
        # D^-1 W
        weight = weight / (torch.linalg.vector_norm(weight, dim=-1, keepdim=True) + norm.eps)
    if run.rnn.gates == 3 or isinstance(norm, LayerNorm | BatchNorm):
        products = (h @ weight.flatten(0, 1).T).unflatten(-1, weight.shape[:2])
    if isinstance(norm, LayerNorm | BatchNorm):
        axis = 1 if isinstance(norm, BatchNorm) else -1
        var, mean = torch.var_mean(products, axis, correction=0, keepdim=True)
        sigma = (var + norm.eps).sqrt()
    # K = max_j |g_j| / sigma_j ||W||_2
    growth = ((gain if printed else gain.abs()) / sigma).amax(-1) * spectral_norms(weight)

    def largest(values):  # over the units (3.3, 3.4: and the minibatch) of each step, or of all
        values = values.abs().amax((1, 2) if squared else 2).view(len(h), -1)
        return values.amax(0, keepdim=True).expand_as(values) if along_run else values

    if run.rnn.gates == 3:
        gamma, eta = largest((gain * (products - mean) / sigma + shift)[:, :, 2]), largest(h)
        ones = torch.ones_like(gamma)
        factors, addends, through_c, direct = ([gamma / 4, (1 + eta) / 4, ones], [1, 1, 1],
                                               [0, 0, 0], 1)
    else:
        gamma = largest(c)
        ones = torch.ones_like(gamma)
        factors, addends, through_c, direct = ([ones / 4, gamma / 4, ones, ones / 4], [2, 2, 2, 1],
                                               [1, 1, 1, 0], 0)
        if printed:
            addends = {"3.3": [2, 2, 2, 2], "3.4": [2, 4, 2, 1]}.get(proposition, addends)
    terms = torch.stack(factors, -1) * growth  # (T, N, gates); 3.3, 3.4: (T, 1, gates)
    if squared:
        terms, direct = (4 * terms.new_tensor(addends) * terms.square()).squeeze(1), 4 * direct
    return direct + terms.sum(-1), (terms * terms.new_tensor(through_c)).sum(-1)


@torch.enable_grad()
def sides(model, inputs, targets, m=None, proposition=None, *, state=None, layer=-1, total=False,
          along_run=False, printed=False) -> Bounds:
    """As :func:`bounds`, but for all steps t = 1 .. T, any ``layer``, and the loss summed over all
    steps (``total``).

    ``model``, ``inputs``, ``targets``, ``m``, ``proposition``, ``state``, ``along_run`` and
    ``printed`` as there.
    """
    proposition = find_proposition(model.rnn, proposition)
    run = _forward(model, inputs, state, layer)
    last = len(run.states[0]) - 1
    first = 1 if run.logits.dim() == 3 else last  # a classifier has the loss of its last step only
    if m is not None and m not in range(first, last + 1):
        raise ConfigError(
            f"m, the time step of the loss, must be {first} to {last} for this network, got {m!r}")
    lambda_1, lambda_2 = _lambdas(run, proposition, along_run, printed)
    norms = vector_norms(_gradients(run, targets, m, total))  # (states, T + 1, N)
    if _squared(run, proposition):
        norms = norms.square().sum(-1)
    h, c_next = norms[0], torch.cat([norms[-1, 2:], torch.zeros_like(norms[-1, :1])])
    return Bounds(proposition, h[:-1], lambda_1 * h[1:] + lambda_2 * c_next, lambda_1, lambda_2)
