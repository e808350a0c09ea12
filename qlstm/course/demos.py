"""What the sliders of the lessons draw: each function shows one figure or text, with or without a
slider.

``weight`` is one matrix (d, n); ``quantizer`` and ``normalizer`` are names, ``hidden_size`` is d;
``vocabulary`` holds the symbols of a text, ``length`` is a number of them, ``temperature`` and
``seed`` are those of ``LanguageModel.sample``.
"""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from qlstm import quantizers
from qlstm.models import LanguageModel
from qlstm.report import verdicts
from qlstm.study import traces


def levels(weight: Tensor, factor: float = 0.7):
    """Lesson 1: thresholds of ``factor`` times mean |w| and the levels of least squared error that
    belong to them."""
    magnitude = weight.abs()
    threshold = factor * magnitude.mean().item()
    kept = magnitude > threshold
    alpha = magnitude[kept].mean().item() if kept.any() else 0.0
    quantized = alpha * quantizers.sign(weight) * kept
    error = ((quantized - weight).square().sum() / weight.square().sum()).item()
    axes = sns.histplot(weight.flatten().numpy(), bins=50, color="0.75", edgecolor="none")
    for k in (-1, 1):
        axes.axvline(
            k * threshold, color="C0", linestyle="--", label="threshold ± t" if k > 0 else None)
        axes.axvline(k * alpha, color="C1", linewidth=3, label="level ± α" if k > 0 else None)
    axes.set(
        xlabel="weight w",
        ylabel="number of weights",
        title=f"t = {factor:.2f} mean |w|: error {error:.3f}, {1 - kept.float().mean().item():.0%} zeros",
    )
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.legend(loc="lower center", framealpha=1)
    plt.show()


def memory(bias: float = 1.0, steps: int = 50):
    """Lesson 2: what is left of a cell state after t steps, when the forget gate's pre-activation
    is ``bias``."""
    gate = torch.sigmoid(torch.tensor(float(bias))).item()
    time = torch.arange(steps + 1)
    axes = sns.lineplot(x=time, y=gate**time)
    axes.axhline(0.5, color="0.5", linestyle=":")
    axes.set(ylim=(0, 1.02), xlabel="time steps", ylabel="what is left of c",
             title=f"forget gate σ({bias:.1f}) = {gate:.2f}")
    plt.show()


def journey(inputs: Tensor, targets: Tensor, symbols: int, quantizer: str = "binary_connect",
            normalizer: str = "none", hidden_size: int = 64, gain: float | None = None):
    """Lessons 3 and 4: the gradient of the last step's loss on its way back, in an untrained
    network.

    ``inputs``, ``targets``: (T, N), of ``symbols`` kinds. ``gain``: of all recurrent products,
    where there are gains.
    """
    torch.manual_seed(0)
    model = LanguageModel(
        symbols, hidden_size, quantizer=quantizer, normalizer=normalizer, max_steps=len(inputs))
    gains = getattr(model.rnn.norm_hh_l0, "gain", None)
    if gain is not None and gains is not None:
        nn.init.constant_(gains, gain)
    found = traces.gradient_norms(model, inputs, targets)
    lines = pd.DataFrame({"step": step, "norm": norm} for line in found["last_step"]
                         for step, norm in zip(found["steps"], line, strict=True))
    axes = sns.lineplot(lines, x="step", y="norm", estimator="median", errorbar=("pi", 100))
    title = f"{quantizer}, {normalizer}, d = {hidden_size}" + (
        "" if gain is None else f", gains {gain:.2f}")
    axes.set(yscale="log", ylim=(1e-14, 1e14), xlabel="time step t", ylabel="‖∂ξ$_T$/∂h$_t$‖",
             title=title)
    plt.show()


def writes(model: LanguageModel, vocabulary: list[str], prompt: str = "The ",
           temperature: float = 0.7, seed: int = 0, length: int = 200):
    """Lesson 5: how a model goes on after ``prompt``; symbols of it that the model does not know
    are left out."""
    unknown = sorted(set(prompt) - set(vocabulary))
    if unknown:
        print(f"(not among the model's symbols, so left out: {' '.join(unknown)})")
    prompt = "".join(symbol for symbol in prompt if symbol in vocabulary)
    if not prompt:
        print("give it at least one symbol that it knows to start from")
        return
    ids = torch.tensor([vocabulary.index(symbol) for symbol in prompt])
    drawn = model.sample(ids, length, temperature=temperature, seed=seed)
    print(prompt + "".join(vocabulary[i] for i in drawn).replace("\r", ""))


def judged(means: pd.Series, baseline: str, factor: float = verdicts.FAILS):
    """Lesson 6: means (the lower the better) by model, and which of them fail by more than
    ``factor`` times the baseline."""
    limit = factor * means[baseline]
    words = ["fails" if mean > limit else "does not fail" for mean in means]
    axes = sns.barplot(x=means.to_numpy(), y=means.index, hue=words, dodge=False,
                       palette={"fails": "C1", "does not fail": "C0"})
    axes.axvline(limit, color="0.3", linestyle="--")
    axes.set(xlabel="test bits per character", ylabel="",
             title=f"limit: {factor:.2f} times {baseline} = {limit:.2f}")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    plt.show()
