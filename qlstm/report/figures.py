"""Figures: from run records to matplotlib Figures, in one style, with seaborn.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qlstm import data
from qlstm.report.frames import by_epoch, gradients, select
from qlstm.report.main_result import main_result, main_sentence
from qlstm.report.names import NORMALIZER_WORDS, in_parts, model_name
from qlstm.study.grid import ARTEFACTS

__all__ = ["CAPTIONS", "NAMES", "QUESTIONS", "figure", "gains_and_lambda", "gradient_norms",
           "growth_and_lambda", "lambda_by_epoch", "main_result", "main_sentence",
           "model_name", "of_gates", "save"]

GATES = ["i", "f", "a", "o"]
MOMENTS = {"initial": "at initialization", "epoch 1": "after epoch 1", "best": "at the best epoch"}
LOSSES = {"training": "training loss", "last_step": "loss of the last step"}
PALETTE = sns.color_palette("colorblind")
DRAWN = (1e-100, 1e100)
"""Gradient norms (in thousandths) that :func:`gradient_norms` has room for: the ticks of wider log
axes leave the range of 64 bits."""
NAMES = {"figure_01": "Figure 1: gradient norms, BinaryConnect, characters",
         "figure_02": "Figure 2: gradient norms, BinaryConnect, words, the smaller network",
         "figure_04": "Figure 4: scaling parameter α of W_h*",
         "figure_05": "Figure 5: g* of the normalized, binarized LSTM",
         "figure_06": "Figure 6: gradient norms, BinaryConnect, characters of another text",
         "figure_07": "Figure 7: gradient norms, TerConnect, characters of another text",
         "figure_08": "Figure 8: gradient norms, TerConnect, characters",
         "figure_09": "Figure 9: gradient norms, TerConnect, words, the smaller network",
         "figure_10": "Figure 10: gradient norms, BinaryConnect, words, the larger network",
         "figure_11": "Figure 11: gradient norms, TerConnect, words, the larger network"}
"""What the paper's figures show; their titles say below which data they are drawn from here."""
QUESTIONS = {
    "figure_01": "Does the gradient of a binarized LSTM explode on its way back through time, and "
                 "does normalization stop that?",
    "figure_02": "The same question as in Figure 1, for words: 35 steps instead of 100, trained by "
                 "SGD with dropout.",
    "figure_04": "BWN and LAB scale their binary weights by α. Is α small, and does it stay small?",
    "figure_05": "A normalizer's gain multiplies the gradient like a weight's scale does. Does g* "
                 "stay small while the network learns?",
    "figure_06": "Does a binarized LSTM's gradient explode on another text too?",
    "figure_07": "Does a ternarized LSTM's gradient explode on another text too?",
    "figure_08": "Does a ternarized LSTM's gradient explode on characters?",
    "figure_09": "The paper's appendix says that the gradient of a ternarized LSTM does not "
                 "explode when d is small. Is that so?",
    "figure_10": "A wider network: does the binarized LSTM's gradient explode faster?",
    "figure_11": "The paper's appendix says that the gradient of a ternarized LSTM explodes when d "
                 "is large, but slowly. Is that so?"}
"""What each of them answers."""
_GRADIENTS = (
    "Norm of the gradient of the loss with respect to the hidden state h_t, by time step: each "
    "line one of 10 samples of a minibatch of the training text (batch normalization: one line, "
    "the root mean square over the samples). Read from right to left: towards earlier steps the "
    "gradient grows where it explodes.")
CAPTIONS = {name: _GRADIENTS for name in NAMES} | {
    "figure_04": "Scaling parameter of the four recurrent matrices by epoch, for BWN and LAB, "
                 "characters and words. The paper: smaller than 1. (Words train by SGD, where LAB "
                 "uses D = 1 and equals BWN.)",
    "figure_05": "g* of the four recurrent products by epoch: the largest gain (weight, layer), or "
                 "the gain whose ratio to the standard deviation is largest (batch). The paper: it "
                 "increases only slightly."}
"""What a reader needs to know to read them."""


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The one style of all figures: colour-blind-safe, legible at half a page's width."""
    with (sns.axes_style("whitegrid"), sns.plotting_context("paper"),
          sns.color_palette("colorblind")):
        yield


def finished(facets: sns.FacetGrid, *, top: float, bottom: float) -> Figure:
    """The figure of ``facets``, complete.

    The legend stands below the panels. The figure is not left open in pyplot, which would show it
    again.

    Args:
        facets: the panels, drawn.
        top: where the panels end, as a fraction of the height; the title has the room above.
        bottom: where they begin; the legend has the room below.
    """
    sns.move_legend(
        facets, "lower center", bbox_to_anchor=(0.5, 0.0), ncols=4, title=None, frameon=False)
    facets.figure.tight_layout(rect=(0, bottom, 1, top))
    plt.close(facets.figure)
    return facets.figure


def _whole_epochs(facets: sns.FacetGrid):
    for axis in facets.axes.flat:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def figure(records: list[dict], artefact: str) -> Figure:
    """A figure of the paper.

    Args:
        records: those of a profile.
        artefact: its name: ``figure_01``, ...

    Raises:
        LookupError: no run for any of its panels.
    """
    panels = select(records, artefact)
    with style():
        if artefact in ("figure_04", "figure_05"):
            words = {"char_lm": ", characters", "word_lm": ", words"}
            told_apart = len({panel.task for panel in ARTEFACTS[artefact]}) > 1
            runs = {model_name(*row) + (words[panel.task] if told_apart else ""): record
                    for panel, _, found in panels for row, record in found.items()}
            result = of_gates(runs, "alpha" if artefact == "figure_04" else "g")
        else:
            result = gradient_norms(panels[0][2])
        lines = [NAMES[artefact]]
        for panel, label, _ in panels:
            intended, (setting, scale) = data.title(panel.dataset), in_parts(label)
            lines.append(
                setting + (f" (reduced: {scale})" if scale else "")
                + ("" if label.startswith(intended) else f"   (in place of {intended})"))
        result.suptitle("\n".join(lines), fontsize="medium", x=0.01, ha="left")
    return result


def gradient_norms(runs: dict[tuple[str, str], dict]) -> Figure:
    r"""The gradient's norm over time steps: a column a model, a row a moment of training, a line a
    sample.

    Shown is $\lVert \partial \xi / \partial h_t \rVert$, with the loss $\xi$ of training and, in
    language models, that of the last step. In batch normalization there is one line, the root mean
    square over the samples.

    Args:
        runs: a record for each (quantizer, normalizer).
    """
    lines = pd.DataFrame(
        [{"model": model_name(*row), "moment": MOMENTS[moment], "loss": LOSSES[loss],
          "line": f"{loss}{number}", "step": step, "norm": norm}
         for row, record in runs.items()
         for moment, losses in record["traces"]["gradient_norms"].items()
         for loss in LOSSES if loss in losses
         for number, sample in enumerate(losses[loss])
         for step, norm in zip(losses["steps"], sample, strict=True)])
    lines["norm"] = pd.to_numeric(lines["norm"]) * 1000
    lines.loc[lines["norm"] <= 0, "norm"] = None  # a zero gradient has no place on a log axis
    lines["norm"] = lines["norm"].clip(DRAWN[0] ** 2, DRAWN[1] ** 2)
    facets = sns.relplot(lines, x="step", y="norm", col="model", row="moment", hue="loss",
                         units="line", estimator=None, kind="line",
                         palette=PALETTE[: lines["loss"].nunique()],
                         hue_order=[n for n in LOSSES.values() if n in set(lines["loss"])],
                         linewidth=0.7, alpha=0.8, height=1.9, aspect=1.15,
                         row_order=[m for m in MOMENTS.values() if m in set(lines["moment"])])
    facets.set(yscale="log").set_titles("{col_name}, {row_name}", fontsize="small")
    if not lines["norm"].dropna().between(*DRAWN).all():
        facets.set(ylim=(max(lines["norm"].min(), DRAWN[0]), min(lines["norm"].max(), DRAWN[1])))
    facets.set_axis_labels("time step t", "‖∂loss/∂h$_t$‖  (10$^{-3}$)")
    return finished(facets, top=0.93, bottom=0.04)


def of_gates(runs: dict[str, dict], quantity: str) -> Figure:
    r"""A quantity of the four recurrent matrices by epoch: a panel a model, a line a gate.

    Args:
        runs: records by the name of their model.
        quantity: ``"alpha"``, the scaling parameter $\alpha$, or ``"g"``, $g_*$.
    """
    lines = pd.DataFrame(
        [{"model": model, "epoch": epoch["epoch"], "gate": f"W$_{{h{gate}}}$", "value": value}
         for model, record in runs.items() for epoch in record["epochs"]
         for layer in (epoch["alpha"] if quantity == "alpha" else epoch["gains"]["g"])[-1:]
         for gate, value in zip(GATES, layer, strict=True)])
    facets = sns.relplot(lines, x="epoch", y="value", col="model", hue="gate", style="gate",
                         kind="line", palette=PALETTE[:4], markers=True, height=2.6, aspect=1.2,
                         facet_kws={"sharey": quantity == "alpha"})
    symbol = {"alpha": "α", "g": "g$_*$"}[quantity]
    facets.set_titles("{col_name}").set_axis_labels("epoch", f"{symbol} of W$_{{h*}}$")
    _whole_epochs(facets)
    return finished(facets, top=0.8 if quantity == "alpha" else 0.86, bottom=0.08)


def _named(lines: pd.DataFrame) -> pd.DataFrame:
    """A column ``model`` with the short names, with the setting where there are several, so that
    nothing is averaged across settings; and ``setting``, without the scale's details where that
    tells all apart."""
    short = {name: in_parts(name)[0] for name in lines["label"].unique()}
    if len(set(short.values())) < len(short):
        short = {name: name for name in short}
    settings = lines["label"].map(short)
    models = [model_name(quantizer, normalizer) + (f"\n{setting}" if len(short) > 1 else "")
              for quantizer, normalizer, setting in zip(
                  lines["quantizer"], lines["normalizer"], settings, strict=True)]
    return lines.assign(model=models, setting=settings)


def lambda_by_epoch(records: list[dict]) -> Figure:
    r"""$\lambda_1$ (median over steps) by epoch, before and after quantization: a panel a model,
    mean over seeds."""
    lines = _named(by_epoch(records)).melt(
        ["model", "epoch", "seed"], ["lambda_1_before", "lambda_1_after"], "weights", "lambda_1")
    lines["weights"] = lines["weights"].map(
        {"lambda_1_before": "latent weights (before)", "lambda_1_after": "quantized (after)"})
    lines = lines.assign(lambda_1=pd.to_numeric(lines["lambda_1"])).dropna(subset=["lambda_1"])
    with style():
        facets = sns.relplot(lines, x="epoch", y="lambda_1", hue="weights", style="weights",
                             col="model", kind="line", markers=True, errorbar=None, height=2.3,
                             aspect=1.2, col_wrap=4, palette=PALETTE[:2])
        facets.set(yscale="log").set_titles("{col_name}").set_axis_labels("epoch", "λ$_1$")
        facets.refline(y=1, color="0.4", linestyle=":")
        _whole_epochs(facets)
        return finished(facets, top=1, bottom=0.05)


def gains_and_lambda(records: list[dict]) -> Figure:
    r"""$g_*$ and $\lambda_1$ of normalized networks by epoch, above each other: a column a model, a
    line a seed."""
    lines = _named(by_epoch([r for r in records if r["epochs"][0]["gains"]]))
    lines = lines.rename(columns={"g": "g$_*$", "lambda_1_after": "λ$_1$"}).melt(
        ["model", "epoch", "seed"], ["g$_*$", "λ$_1$"], "quantity", "value")
    lines = lines.assign(value=pd.to_numeric(lines["value"])).dropna(subset=["value"])
    with style():
        facets = sns.relplot(lines, x="epoch", y="value", col="model", row="quantity",
                             hue="quantity", units="seed", estimator=None, kind="line",
                             marker="o", height=2.0, aspect=1.3, palette=PALETTE[:2], legend=False,
                             facet_kws={"sharey": False})
        facets.set_titles("{col_name}")
        for axes, name in zip(facets.axes, facets.row_names, strict=True):
            axes[0].set_ylabel(name)
        _whole_epochs(facets)
        facets.figure.tight_layout()
        plt.close(facets.figure)
        return facets.figure


def growth_and_lambda(records: list[dict]) -> Figure:
    r"""Growth of the gradient a time step against $\lambda_1$: a point a network and moment.

    Only where $\lambda_2 = 0$, networks whose gradient grows (above 1) must lie right of
    $\lambda_1 = 1$.
    """
    points = gradients(records).dropna(subset=["rate", "lambda_1"])
    points = points.assign(moment=points["moment"].map(MOMENTS),
                           normalization=points["normalizer"].map(NORMALIZER_WORDS))
    with style():
        facets = sns.relplot(points, x="lambda_1", y="rate", hue="normalization", style="moment",
                             height=4, aspect=1.5, palette="colorblind", s=45)
        facets.set(xscale="log", yscale="log").set_axis_labels(
            "λ$_1$, median over time steps", "growth of ‖∂ξ$_T$/∂h$_t$‖ a step back")
        facets.refline(x=1, y=1, color="0.4", linestyle=":")
        sns.move_legend(facets, "upper left", bbox_to_anchor=(0.78, 0.95), frameon=False)
        facets.figure.tight_layout(rect=(0, 0, 0.78, 1))
        plt.close(facets.figure)
        return facets.figure


def save(result: Figure, directory: Path, name: str):
    """Write a figure for the screen (PNG) and for print (PDF).

    Args:
        result: the figure.
        directory: the folder, made where it is not there.
        name: of the files, without an ending.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "pdf"):
        metadata = {"CreationDate": None} if suffix == "pdf" else {}
        result.savefig(
            directory / f"{name}.{suffix}", dpi=160, bbox_inches="tight", metadata=metadata)
