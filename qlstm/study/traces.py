r"""What a training run records of its network, for the figures and for the propositions.

At three moments, before training, after the first epoch and with the best parameters, the record
keeps under ``traces`` what :func:`gradient_norms` and :func:`propositions` give of the first
minibatch of the training data. Before the first epoch and after each, its line under ``epochs`` has
:func:`spectral` of the same minibatch, and of the parameters alone ``alpha``, see :func:`scales`
(Figure 4), and :func:`gains` (Figure 5). Numbers have 6 significant digits; None stands for one
that is not finite.

``model``: one of :mod:`qlstm.models`, called ``model(inputs, trace=trace)``; it is not changed.
``inputs``, ``targets``: a minibatch as it is trained on. ``lstm``: the model's layers.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.layer import QuantRNN
from qlstm.normalizers import BatchNorm, LayerNorm, Own, WeightNorm
from qlstm.quantizers import QUANTIZERS
from qlstm.study.record_schema import SAMPLES
from qlstm.study.theory.forward import in_float64
from qlstm.study.theory.propositions import (
    applies,
    bounds,
    lambdas,
    spectral_lower_bounds,
    spectral_norms,
    vector_norms,
)


def gradient_norms(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, list]:
    r"""$\|\partial \ell / \partial h_t\|$ of the top layer by sample and time step.

    One minibatch, from the initial state, with dropout and batch statistics as in training; in
    float64, but for a normalizer of one's own in the model's precision.

    Returns:
        ``steps``: the time steps t that are kept, see :func:`shown_steps`. ``training``: the norms
        for the loss that is trained, the mean over samples and steps. ``last_step``: those for the
        mean over samples at the last step alone, the loss $\xi_T$ of the propositions; absent for a
        classifier, which has no other. Each a list of lines, one for each of the first 10 samples,
        with a value for each of ``steps``; with batch normalization, where samples depend on each
        other, one line, the root mean square over all samples.
    """
    trace = []
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        if any(isinstance(module, Own) for module in model.modules()):
            probe = copy.deepcopy(model).train()  # it may know the model's own precision alone
        else:  # exploding gradients leave the range of float32
            probe, _ = in_float64(model)
            inputs = inputs.double() if inputs.is_floating_point() else inputs
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
    """The time steps whose values a record keeps, counted from 1.

    All up to 200; of longer sequences every k-th, at most 100, the last among them.

    Args:
        steps: The number of time steps, T.

    Example:
        >>> shown_steps(3), len(shown_steps(784)), shown_steps(784)[-1]
        ([1, 2, 3], 98, 784)
    """
    stride = 1 if steps <= 200 else -(-steps // 100)
    return list(range(steps, 0, -stride))[::-1]


def propositions(model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Any] | None:
    r"""Both sides of the proposition that speaks of a network, in short, for $\xi_T$.

    Returns:
        ``proposition``: its name. ``steps``: as in :func:`gradient_norms`. ``lambda_1``,
        ``lambda_2``: for each of these steps the median over samples. ``ratio``: the largest of
        left side over right side, over all samples and steps; the bound holds if it is at most 1.
        ``median_ratio``: their median. None instead for a network that no proposition speaks of
        (SBN, STN, a normalizer of one's own).
    """
    if not applies(model.rnn):
        return None
    found = bounds(model, inputs, targets)
    steps = shown_steps(len(found.lambda_1))
    index = [step - 1 for step in steps]
    medians = {name: rounded(getattr(found, name).reshape(len(found.lambda_1), -1)
                             .median(-1).values[index]) for name in ("lambda_1", "lambda_2")}
    # NaN: both sides left the range of float64
    ratio = found.ratio[~found.ratio.isnan()].clamp(max=1e300)
    return {"proposition": found.proposition, "steps": steps, "ratio": rounded(ratio.max())[0],
            "median_ratio": rounded(ratio.median())[0], **medians}


@torch.no_grad()
def spectral(model: nn.Module, inputs: Tensor) -> dict[str, Any]:
    r"""Spectral norms and lambdas of the top layer, before and after quantization.

    Returns:
        ``before``: of the same network with its latent weights, ``after``: of the network itself.
        Each has ``norms``, $\|W_{h*}\|_2$ for each gate, of the matrices that the normalizer is
        given; ``lambda_1``, ``lambda_2``, medians over time steps and samples, if a proposition
        speaks of the network; and ``after`` alone ``bounds``, for each gate the lower bound that
        the codes alone give, see :func:`~qlstm.study.theory.propositions.spectral_lower_bounds`.
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
            for key, values in zip(("lambda_1", "lambda_2"), lambdas(probe, inputs), strict=True):
                result[name][key] = rounded(values.median())[0]
    return result


def full_precision_copy(rnn: QuantRNN) -> QuantRNN:
    """A copy of the layers ``rnn`` that computes with their latent weights."""
    copied = copy.deepcopy(rnn)
    del copied.quantizer  # it may be a module
    copied.quantizer = QUANTIZERS["full_precision"]
    return copied


def scales(lstm: QuantRNN) -> list[list[float]] | None:
    r"""$\alpha$ of the recurrent matrices $W_{h*}$, a list of (gates) for each layer.

    None for a quantizer without one scale for each matrix.
    """
    if getattr(lstm.quantizer, "scales", None) != "matrix":
        return None
    return [rounded(lstm.quantized(f"weight_hh_l{k}").scales) for k in range(lstm.num_layers)]


def gains(lstm: QuantRNN) -> dict[str, list[list[float]]] | None:
    r"""$g_*$ of the normalized recurrent products, as the propositions need it.

    Returns:
        ``g``: a list of (gates) for each layer. With weight and layer normalization it is
        $g_* = \max_j |g_j|$. With batch normalization $(g_*, \sigma_*)$ is the pair that maximizes
        $|g_j| / \sigma_j$ over the units (and time steps, if these have statistics of their own),
        $\sigma_j$ from the running variance; then there is a ``sigma`` of the same shape too. None
        for a network without gains.
    """
    norms = [getattr(lstm, f"norm_hh_l{k}") for k in range(lstm.num_layers)]
    if isinstance(norms[0], WeightNorm | LayerNorm):
        return {"g": [rounded(norm.gain.abs().amax(-1)) for norm in norms]}
    if not isinstance(norms[0], BatchNorm):
        return None
    found = {"g": [], "sigma": []}
    for norm in norms:
        # $\sigma = \sqrt{\mathrm{var} + \epsilon}$
        sigma = (norm.running_var + norm.eps).sqrt().transpose(0, 1).flatten(1)  # (gates, steps*d)
        gain = norm.gain.abs().repeat(1, len(norm.running_var))
        index = (gain / sigma).argmax(-1, keepdim=True)
        found["g"].append(rounded(gain.gather(-1, index)))
        found["sigma"].append(rounded(sigma.gather(-1, index)))
    return found


def rounded(values: Tensor) -> list[float | None]:
    """The numbers of ``values`` as a flat list, with the 6 significant digits of a record.

    None stands for a number that is not finite, as JSON has none.
    """
    flat = values.detach().flatten().tolist()
    return [float(f"{x:.6g}") if abs(x) < float("inf") else None for x in flat]
