"""What the figures show of a network: gradient norms over time, scales alpha and gains g of W_h*."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.layer import QuantLSTM
from qlstm.normalizers import BatchNorm, LayerNorm, WeightNorm

SAMPLES = 10
"""Samples of a minibatch whose gradients are recorded, as in the paper's figures."""


def gradient_norms(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, list[list[float]]]:
    """||d loss / d h_t|| of the top layer, by sample and time step, for one minibatch (T, N) from the zero state.

    The model must take ``trace=`` as :class:`~qlstm.models.LanguageModel` does; it is not changed. Dropout and batch
    statistics as in training. Two losses: ``"training"``, the mean over samples and steps, and ``"last_step"``, the
    mean over samples at the last step alone (xi_m of the propositions, m = T). Returns for each a list of lines of T
    values, one for each of the first 10 samples; with batch normalization, where samples depend on each other, one
    line: the root mean square over all samples.
    """
    probe = copy.deepcopy(model).train()
    trace: list = []
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        logits, _ = probe(inputs, trace=trace)
    hidden = [h for h, _ in trace[-1]]
    coupled = any(isinstance(module, BatchNorm) for module in probe.modules())
    losses = {
        "training": F.cross_entropy(logits.flatten(0, 1), targets.flatten()),
        "last_step": F.cross_entropy(logits[-1], targets[-1]),
    }
    lines = {}
    for name, loss in losses.items():
        gradients = torch.stack(torch.autograd.grad(loss, hidden, retain_graph=name == "training"))  # (T, N, d)
        norms = torch.linalg.vector_norm(gradients.double(), dim=-1).T  # (N, T)
        norms = norms.square().mean(0, keepdim=True).sqrt() if coupled else norms[:SAMPLES]
        lines[name] = [rounded(line) for line in norms]
    return lines


def scales(lstm: QuantLSTM) -> list[list[float]] | None:
    """alpha of W_hi, W_hf, W_ha, W_ho for each layer; None for a quantizer without one scale a matrix (Figure 4)."""
    if getattr(lstm.quantizer, "scales", None) != "matrix":
        return None
    return [rounded(lstm.quantized(f"weight_hh_l{k}").scales) for k in range(lstm.num_layers)]


def gains(lstm: QuantLSTM) -> dict[str, list[list[float]]] | None:
    """g_* of the recurrent products by layer and gate (Figure 5), None without gains.

    Weight and layer normalization: g_* = max |g_j|. Batch normalization: (g_*, sigma_*) is the pair that maximizes
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
    """A flat list of numbers with 6 significant digits, as stored in records (JSON has no NaN: None)."""
    flat = values.detach().flatten().tolist()
    return [float(f"{x:.6g}") if abs(x) < float("inf") else None for x in flat]
