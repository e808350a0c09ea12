"""What the sliders of the lessons draw: each function shows one figure or text, and can be called
without a slider too. :func:`explore` puts sliders to one."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from IPython.display import display
from IPython.utils.capture import capture_output
from ipywidgets import fixed, interactive
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

from qlstm import quantizers
from qlstm.course.unrolled import product_norms, tanh_jacobians
from qlstm.models import LanguageModel
from qlstm.report import verdicts
from qlstm.study import traces

__all__ = ["explore", "fixed", "journey", "judged", "levels", "memory", "travel", "writes"]


def explore(function: Callable[..., None], **controls: Any):
    """Show what a function draws or prints, with sliders or menus for its arguments.

    Where widgets do not work, as in a stored notebook, on a page or in print, the same output shows
    what the function draws for the values that the controls begin with.

    Args:
        function: It draws one figure, or prints.
        **controls: For an argument what it can be: ``(lowest, highest, step)``, a list, a widget,
            or ``fixed(value)`` for one that has no control. It begins with its default. What is not
            named keeps its default.
    """
    defaults = {name: fixed(parameter.default)
                for name, parameter in inspect.signature(function).parameters.items()
                if parameter.default is not parameter.empty}
    panel = interactive(function, **defaults | controls)
    if not hasattr(panel, "_repr_mimebundle_"):  # ipywidgets 7, as on Colab, where they work
        display(panel)
        return
    with capture_output() as shown:
        function(**panel.kwargs)
    (static,) = [output.data for output in shown.outputs] or [{"text/plain": shown.stdout}]
    display(panel._repr_mimebundle_() | static, raw=True)


def levels(weight: Tensor, factor: float = 0.7):
    r"""Lesson 1: a ternary quantizer with another threshold, on a histogram of the weights.

    The levels $\pm\alpha$ are those of least squared error that belong to the threshold $t$.

    Args:
        weight: The weights that are quantized, one matrix (d, n).
        factor: The threshold $t$ in units of the mean magnitude of the weights. TWN takes 0.7.
    """
    magnitude = weight.abs()
    threshold = factor * magnitude.mean().item()
    kept = magnitude > threshold
    alpha = magnitude[kept].mean().item() if kept.any() else 0.0
    quantized = alpha * quantizers.sign(weight) * kept
    error = ((quantized - weight).square().sum() / weight.square().sum()).item()
    zeros = 1 - kept.float().mean().item()
    axes = sns.histplot(weight.flatten().numpy(), bins=50, color="0.75", edgecolor="none")
    for k in (-1, 1):
        axes.axvline(k * threshold, color="C0", linestyle="--",
                     label="threshold ± t" if k > 0 else None)
        axes.axvline(k * alpha, color="C1", linewidth=3, label="level ± α" if k > 0 else None)
    axes.set(xlabel="weight w", ylabel="number of weights",
             title=f"t = {factor:.2f} mean |w|: error {error:.4f}, {zeros:.0%} zeros")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.legend(loc="lower center", framealpha=1)
    plt.show()


def memory(bias: float = 1.0, steps: int = 50):
    r"""Lesson 2: what the forget gate leaves of a cell state, $\sigma(b)^t$ after $t$ steps.

    Args:
        bias: The pre-activation $b$ of the forget gate, the same at each step.
        steps: The number of steps that are drawn.
    """
    gate = torch.sigmoid(torch.tensor(float(bias))).item()
    half = math.log(2) / nn.functional.softplus(torch.tensor(-float(bias)))  # -log of the gate
    time = torch.arange(steps + 1)
    axes = sns.lineplot(x=time, y=gate**time)
    axes.axhline(0.5, color="0.5", linestyle=":")
    axes.set(ylim=(0, 1.02), xlabel="time steps", ylabel="what is left of c",
             title=f"forget gate σ({bias:.1f}) = {gate:.2f}: a half after {half:.1f} steps")
    plt.show()


def travel(gain: float = 1.5, spread: float = 0.1, units: int = 64, steps: int = 50):
    r"""Backpropagation through time: what arrives of a gradient in a plain recurrent network,
    $\lVert\partial h_T/\partial h_t\rVert_2$, beside the bound $\lVert W\rVert_2^{T-t}$.

    Args:
        gain: The size $g$ of the recurrent weights: $w = g$ of one unit, and of d units a normal
            matrix of standard deviation $g / \sqrt d$, whose spectral norm is about $2g$.
        spread: The standard deviation of the inputs, which are normal too.
        units: The number of units, d.
        steps: The number of time steps, T.
    """
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(units + steps, units, generator=generator, dtype=torch.float64)
    weight = gain * (numbers[:units] / units**0.5 if units > 1 else torch.ones_like(numbers[:1]))
    time = torch.arange(steps + 1)
    norms = product_norms(tanh_jacobians(weight, spread * numbers[units:]))
    norm = torch.linalg.matrix_norm(weight, 2)
    axes = sns.lineplot(x=time, y=norms, label="‖∂h$_T$/∂h$_t$‖")
    axes.plot(time, norm ** (steps - time), color="0.4", linestyle="--",
              label="bound ‖W‖$^{T-t}$")
    name = f"{units} unit{'s' * (units > 1)}"
    axes.set(yscale="log", ylim=(1e-18, 1e18), xlabel="time step t", ylabel="norm",
             title=f"{name}, ‖W‖ = {norm:.2f}: {norms[0]:.0e} at t = 0")
    axes.legend(loc="upper right", framealpha=1)
    plt.show()


def journey(inputs: Tensor, targets: Tensor, symbols: int, quantizer: str = "binary_connect",
            normalizer: str = "none", hidden_size: int = 64, gain: float | None = None):
    """Lessons 3 and 4: the gradient of the last step's loss on its way back, in an untrained
    network.

    Args:
        inputs: The symbols of a minibatch as integers, of shape (T, N).
        targets: The symbols that come after them, of the same shape.
        symbols: How many different symbols there are.
        quantizer: The name of the quantizer of the weights.
        normalizer: The name of the normalizer.
        hidden_size: The number d of hidden units.
        gain: The gain that all recurrent products start with; ``None`` leaves it as it is. It has
            an effect only where the normalizer has gains.
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
    medians = lines.groupby("step")["norm"].median()
    rate = (medians.iloc[0] / medians.iloc[-1]) ** (1 / (medians.index[-1] - medians.index[0]))
    axes = sns.lineplot(lines, x="step", y="norm", estimator="median", errorbar=("pi", 100))
    title = f"{quantizer}, {normalizer}, d = {hidden_size}"
    title += "" if gain is None else f", gains {gain:.2f}"
    axes.set(yscale="log", ylim=(1e-14, 1e14), xlabel="time step t",
             ylabel="‖∂ξ$_T$/∂h$_t$‖", title=f"{title}: times {rate:.2f} a step back")
    plt.show()


def writes(models: dict[str, LanguageModel], vocabulary: Sequence[str], prompt: str = "The ",
           temperature: float = 0.6, seed: int = 0, length: int = 200):
    """Lesson 5: how trained models go on after a beginning; prints both, for one after the other.

    Args:
        models: The trained models by name, all of the same symbols.
        vocabulary: The symbols that they know, in the order of their indices.
        prompt: The beginning. Symbols of it that the models do not know are left out.
        temperature: What the logits are divided by before a symbol is drawn: the lower, the more
            often the likeliest one is taken.
        seed: The seed of the random numbers; another one gives another text.
        length: The number of symbols that are drawn.
    """
    unknown = sorted(set(prompt) - set(vocabulary))
    if unknown:
        print(f"(not among the models' symbols, so left out: {' '.join(unknown)})")
    prompt = "".join(symbol for symbol in prompt if symbol in vocabulary)
    if not prompt:
        print("give at least one symbol that they know to start from")
        return
    ids = torch.tensor([vocabulary.index(symbol) for symbol in prompt])
    for name, model in models.items():
        drawn = model.sample(ids, length, temperature=temperature, seed=seed)
        print(f"=== {name}")
        print(prompt + "".join(vocabulary[i] for i in drawn).replace("\r", "") + "\n")


def judged(means: pd.Series, baseline: str = "full", factor: float = verdicts.FAILS):
    """Lesson 6: which models fail, if failing means to be worse than a baseline by some factor.

    Args:
        means: The mean result of each model, by its name; lower is better.
        baseline: The name of the model that the others are compared with.
        factor: A model fails if its result is above this factor times the baseline's.
    """
    ratios, limit = means / means[baseline], factor * means[baseline]
    fails = ~(means <= limit)  # so does one that diverged
    _, axes = plt.subplots(figsize=(8, 3.2))
    axes.barh(means.index, means, color=fails.map({True: "C3", False: "C0"}))
    for name in means.index:
        words = "fails" if fails[name] else "does not fail"
        axes.text(0.1, name, f"{ratios[name]:.2f} times: {words}", va="center", color="white",
                  size=11)
    axes.axvline(limit, color="0.15", linestyle="--")
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set(xlabel="test bits per character",
             title=f"limit: {factor:.2f} times {baseline} = {limit:.2f}")
    plt.show()
