r"""One forward pass of a network in float64, and the gradients of its hidden and cell states.

``model``: a network with its :class:`~qlstm.lstm.QuantLSTM` as ``model.rnn``, called
``model(inputs, trace=trace)``, or such a layer itself.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN, State
from qlstm.normalizers import BatchNorm, LayerNorm, Normalizer, WeightNorm
from qlstm.quantizers import Quantized


class Run(NamedTuple):
    r"""A float64 copy of a model after one forward pass, as the propositions read it.

    ``rnn``, ``k``: the layers, and the number of the one that is looked at. ``weight``: its
    quantized $W_{h*}$, (gates, d, d). ``logits``: of all steps, (T, N, V), or of a classifier,
    (N, V). ``states``: $h_0, \ldots, h_T$ and (LSTM) $c_0, \ldots, c_T$, each (N, d).
    ``along_run``, ``printed``: as in :mod:`qlstm.study.theory.propositions`.
    """

    rnn: QuantRNN
    k: int
    weight: Tensor
    logits: Tensor
    states: list[tuple[Tensor, ...]]
    along_run: bool = False
    printed: bool = False

    @property
    def norm(self) -> Normalizer:
        """The normalizer of the recurrent products."""
        return getattr(self.rnn, f"norm_hh_l{self.k}")

    @property
    def h(self) -> Tensor:
        """$h_{t-1}$ of the steps t = 1 .. T: (T, N, d)."""
        return torch.stack(self.states[0][:-1]).detach()

    @property
    def c(self) -> Tensor:
        """$c_{t-1}$ of the steps t = 1 .. T: (T, N, d)."""
        return torch.stack(self.states[1][:-1]).detach()

    @property
    def W(self) -> Tensor:
        r"""$W_{h*}$; with weight normalization $D^{-1} W_{h*}$, D the norms of its rows."""
        if not isinstance(self.norm, WeightNorm):
            return self.weight
        row_norms = torch.linalg.vector_norm(self.weight, dim=-1, keepdim=True)
        return self.weight / (row_norms + self.norm.eps)

    @property
    def gain(self) -> Tensor:
        """g of each gate and unit, (gates, d); 1 without normalization."""
        return getattr(self.norm, "gain", self.weight.new_ones(())).detach()

    @property
    def g(self) -> Tensor:
        """$|g|$, or g itself as the appendix prints it."""
        return self.gain if self.printed else self.gain.abs()

    @property
    def products(self) -> Tensor:
        """$W_{h*} h_{t-1}$, before normalization: (T, N, gates, d)."""
        return (self.h @ self.W.flatten(0, 1).T).unflatten(-1, self.W.shape[:2])

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        r"""$\mu$ and $\sigma$ of the products, broadcasting against them; 0 and 1 if not used."""
        if not isinstance(self.norm, LayerNorm | BatchNorm):
            return self.weight.new_zeros(1, 1, 1, 1), self.weight.new_ones(1, 1, 1, 1)
        axis = 1 if isinstance(self.norm, BatchNorm) else -1
        var, mean = torch.var_mean(self.products, axis, correction=0, keepdim=True)
        # $\sigma = \sqrt{\mathrm{var} + \epsilon}$
        return mean, (var + self.norm.eps).sqrt()

    def largest(self, values: Tensor, over_minibatch: bool) -> Tensor:
        """The largest of the absolute ``values`` (T, N, d) by step and sample, (T, N).

        Args:
            values: Of every step, sample and unit, (T, N, d).
            over_minibatch: Whether to take the largest of all samples instead, (T, 1).
        """
        values = values.abs().amax(2)
        if over_minibatch:
            values = values.amax(1, keepdim=True)
        return values.amax(0, keepdim=True).expand_as(values) if self.along_run else values


def in_float64(model: nn.Module) -> tuple[nn.Module, QuantRNN]:
    """A float64 copy of ``model`` in training mode, and its layers. Its matrices are quantized once
    and for all, in the model's own precision: a quantizer of one's own may know no other."""
    probe = copy.deepcopy(model).train()
    rnn = probe if isinstance(probe, QuantRNN) else probe.rnn
    if rnn.bidirectional or rnn.batch_first:
        raise ConfigError("the propositions are of networks that read (T, N) forwards in time")
    names = [f"weight_{side}_l{k}" for k in range(rnn.num_layers) for side in ("ih", "hh")]
    fixed = {name: Quantized(*(part.double() for part in rnn.quantized(name)))
             for name in names if rnn.quantizes(name)}
    probe.double()
    rnn.freeze(fixed)
    return probe, rnn


def forward(model: nn.Module, inputs: Tensor, state: State | None = None, layer: int = -1, *,
            gate: int = 0, factor: float = 1.0, eps: float | None = None) -> Run:
    r"""Run a float64 copy of ``model`` in training mode; the model and the random state stay.

    Args:
        inputs: What the model takes, (T, N, ...).
        state: The initial state, (layers, N, d) each; None: the model's own.
        layer: The layer whose weight and states are kept.
        gate: Which gate's $W_{h*}$ is multiplied by ``factor`` after quantization.
        factor: See ``gate``.
        eps: Takes the place of the normalizers' epsilon, if given.
    """
    first, trace = [], []

    def start_from_leaves(rnn, arguments, keywords):
        # gradients can be taken of h_0 and c_0 too, also where the model makes them itself
        x, own = (*arguments, keywords.pop("hx", None))[:2]
        zero = x.new_zeros(rnn.num_layers, x.shape[1], rnn.hidden_size, dtype=torch.float64)
        given = state or rnn.as_parts(own) or (zero,) * rnn.states
        leaves = [[part.detach().double().requires_grad_() for part in kind] for kind in given]
        first.extend(kind[k] for kind in leaves)
        return (x, rnn.as_hx(tuple(torch.stack(kind) for kind in leaves))), keywords

    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        probe, rnn = in_float64(model)
        k = layer % rnn.num_layers
        weight = rnn.quantized(f"weight_hh_l{k}").dense().detach().clone()
        weight[gate] *= factor
        ones = weight.new_ones(1, rnn.gates, 1, 1)
        rnn.freeze({f"weight_hh_l{k}": Quantized(weight[None], ones)})
        for module in probe.modules():
            if eps is not None and isinstance(module, WeightNorm | LayerNorm | BatchNorm):
                module.eps = eps
        rnn.register_forward_pre_hook(start_from_leaves, with_kwargs=True)
        logits, _ = probe(inputs.double() if inputs.is_floating_point() else inputs, trace=trace)
    return Run(rnn, k, weight, logits, list(zip(first, *trace[k], strict=True)))


def gradients(run: Run, targets: Tensor, m: int | None = None, total: bool = False) -> Tensor:
    r"""$\partial \xi_m / \partial h_t$ and (LSTM) $\partial \xi_m / \partial c_t$, t = 0 .. T.

    Args:
        run: The forward pass.
        targets: The right answers, (T, N), or (N,) for a classifier, where m = T.
        m: The time step whose mean cross-entropy is the loss, 1 .. T; None: T.
        total: Whether the loss is the sum of all steps' instead.

    Returns:
        (states, T + 1, N, d).
    """
    sequence = run.logits.dim() == 3
    logits, targets = (run.logits, targets) if sequence else (run.logits[None], targets[None])
    steps = range(len(logits)) if total else [(len(logits) if m is None or not sequence else m) - 1]
    loss = sum(F.cross_entropy(logits[t], targets[t]) for t in steps)
    flat = [s for kind in run.states for s in kind]
    found = torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True)
    return torch.stack(found).unflatten(0, (len(run.states), -1))
