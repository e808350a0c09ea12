"""What the figures show of a network: gradient norms over time, scales alpha and gains g of W_h*.

``model``: one of :mod:`qlstm.models`; ``inputs`` and ``targets``: a minibatch as it is trained on.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.layer import QuantLSTM
from qlstm.normalizers import BatchNorm, LayerNorm, WeightNorm
from qlstm.quantizers import QUANTIZERS
from qlstm.study.theory.propositions import (
    applies,
    bounds,
    lambdas,
    spectral_lower_bounds,
    spectral_norms,
    vector_norms,
)

SAMPLES = 10
"""Samples of a minibatch whose gradients are recorded, as in the paper's figures."""


def gradient_norms(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, list]:
    """||d loss / d h_t|| of the top layer, by sample and time step, for one minibatch from the
    initial state.

    The model must take ``trace=`` as those of :mod:`qlstm.models` do; it is not changed. Dropout
    and batch statistics as in training. Two losses: ``"training"``, the mean over samples and
    steps, and ``"last_step"``, the mean over samples at the last step alone (xi_m of the
    propositions, m = T; a classifier has no other). Returns for each a list of lines, one for each
    of the first 10 samples, with a value for each of ``"steps"`` (all up to T = 200, at most 100 of
    more); with batch normalization, where samples depend on each other, one line: the root mean
    square over all samples.
    """
    probe, trace = (
        copy.deepcopy(model).double().train(),
        [],
    )  # exploding gradients leave the range of 32 bits
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        logits, _ = probe(inputs, trace=trace)
    hidden = [h for h, *_ in trace[-1]]
    coupled = any(isinstance(module, BatchNorm) for module in probe.modules())
    losses = {"training": F.cross_entropy(logits.flatten(0, -2), targets.flatten())}
    if logits.dim() == 3:
        losses["last_step"] = F.cross_entropy(logits[-1], targets[-1])
    steps = shown_steps(len(hidden))
    lines: dict[str, list] = {"steps": steps}
    for name, loss in losses.items():
        gradients = torch.stack(torch.autograd.grad(loss, hidden, retain_graph=True))  # (T, N, d)
        norms = vector_norms(gradients).T  # (N, T)
        norms = norms.square().mean(0, keepdim=True).sqrt() if coupled else norms[:SAMPLES]
        lines[name] = [rounded(line[[step - 1 for step in steps]]) for line in norms]
    return lines


def shown_steps(steps: int) -> list[int]:
    """The time steps 1 .. T whose values a record keeps: all up to 200, else at most 100, the last
    among them.

    >>> shown_steps(3), len(shown_steps(784)), shown_steps(784)[-1]
    ([1, 2, 3], 98, 784)
    """
    stride = 1 if steps <= 200 else -(-steps // 100)
    return list(range(steps, 0, -stride))[::-1]


def propositions(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any] | None:
    """The bound of the proposition that speaks of this network
    (:func:`qlstm.study.theory.propositions.bounds`), for the last step's loss.

    ``"steps"`` as in :func:`gradient_norms`; by step, the median over samples of ``lambda_1`` and
    ``lambda_2``; ``ratio``, the largest of left side over right side (1 or less: the bound holds),
    and ``median_ratio``, both over all samples and steps. None for a network that no proposition
    speaks of (SBN, STN, a normalizer of one's own).
    """
    if not applies(model.rnn):
        return None
    found = bounds(model, inputs, targets)
    index = [step - 1 for step in shown_steps(len(found.lambda_1))]
    by_step = {name: getattr(found, name).reshape(len(found.lambda_1), -1).median(-1).values[index]
               for name in ("lambda_1", "lambda_2")}
    ratio = found.ratio[~found.ratio.isnan()].clamp(
        max=1e300
    )  # NaN: both sides left the range of 64 bits
    return {"proposition": found.proposition, "steps": shown_steps(len(found.lambda_1)),
            "ratio": rounded(ratio.max())[0], "median_ratio": rounded(ratio.median())[0],
            **{name: rounded(values) for name, values in by_step.items()}}


@torch.no_grad()
def spectral(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    """Spectral norms of the top layer's W_h* by gate, and lambda_1, lambda_2, before and after
    quantization.

    ``"before"``: the same network with its latent weights. ``norms``: of the matrices that the
    normalizer is given; ``bounds`` (after): the lower bounds that the codes alone give (B_1
    sqrt(d), times 1 - sparsity). The lambdas: medians over time steps and samples of a minibatch;
    left out where no proposition speaks of the network.
    """
    result = {}
    for name, rnn in (("before", full_precision_copy(model.rnn)), ("after", model.rnn)):
        top = f"weight_hh_l{rnn.num_layers - 1}"
        codes = rnn.quantized(top)
        result[name] = {"norms": rounded(spectral_norms(codes.dense().double()))}
        if name == "after" and rnn.quantizes(top):
            result[name]["bounds"] = rounded(spectral_lower_bounds(codes))
        if applies(rnn):
            probe = copy.deepcopy(model)
            probe.rnn = rnn
            found = lambdas(probe, inputs)
            result[name] |= {
                f"lambda_{i}": rounded(value.median())[0] for i, value in enumerate(found, start=1)}
    return result


def full_precision_copy(rnn: QuantLSTM) -> QuantLSTM:
    """The layers ``rnn`` with their latent weights."""
    copied = copy.deepcopy(rnn)
    del copied.quantizer  # it may be a module
    copied.quantizer = QUANTIZERS["full_precision"]
    return copied


def scales(lstm: QuantLSTM) -> list[list[float]] | None:
    """alpha of W_hi, W_hf, W_ha, W_ho for each layer of ``lstm``; None for a quantizer without one
    scale a matrix (Figure 4)."""
    if getattr(lstm.quantizer, "scales", None) != "matrix":
        return None
    return [rounded(lstm.quantized(f"weight_hh_l{k}").scales) for k in range(lstm.num_layers)]


def gains(lstm: QuantLSTM) -> dict[str, list[list[float]]] | None:
    """g_* of the recurrent products of ``lstm`` by layer and gate (Figure 5), None without gains.

    Weight and layer normalization: g_* = max |g_j|. Batch normalization: (g_*, sigma_*) is the pair
    that maximizes
    |g_j| / sigma_j over units (and steps, where statistics are separate), sigma from the running variance.
    """
    norms = [getattr(lstm, f"norm_hh_l{k}") for k in range(lstm.num_layers)]
    if isinstance(norms[0], WeightNorm | LayerNorm):
        return {"g": [rounded(norm.gain.abs().amax(-1)) for norm in norms]}
    if not isinstance(norms[0], BatchNorm):
        return None
    g, sigma = [], []
    for norm in norms:
        sigmas = (norm.running_var + norm.eps).sqrt().transpose(0, 1).flatten(1)  # (4, steps * d)
        gain = norm.gain.abs().repeat(1, len(norm.running_var))
        index = (gain / sigmas).argmax(-1, keepdim=True)
        g.append(rounded(gain.gather(-1, index)))
        sigma.append(rounded(sigmas.gather(-1, index)))
    return {"g": g, "sigma": sigma}


def rounded(values: Tensor) -> list[float | None]:
    """``values`` as a flat list of numbers with 6 significant digits, as stored in records (JSON
    has no NaN: None)."""
    flat = values.detach().flatten().tolist()
    return [float(f"{x:.6g}") if abs(x) < float("inf") else None for x in flat]
