"""Figures: from run records to matplotlib Figures, in one style, with seaborn."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qlstm import data
from qlstm.experiments import ARTEFACTS
from qlstm.tables import select

GATES = ["i", "f", "a", "o"]
SHORT = {"full_precision": "full", "binary_connect": "BC", "ter_connect": "TC", "bwn": "BWN", "lab": "LAB"}
SUFFIX = {
    "none": "",
    "weight": "+WN",
    "layer": "+LN",
    "batch_shared": "+BN (shared)",
    "batch_separate": "+BN (separate)",
}
MOMENTS = {"initial": "at initialization", "epoch 1": "after epoch 1", "best": "at the best epoch"}
LOSSES = {"training": "training loss", "last_step": "loss of the last step"}
PALETTE = sns.color_palette("colorblind")
NAMES = {
    "figure_01": "Figure 1: gradient norms of the full-precision and the binarized LSTM, with and without normalization",
    "figure_04": "Figure 4: scaling parameter α of W_h*",
    "figure_05": "Figure 5: g* of the normalized, binarized LSTM",
    "figure_06": "Figure 6: gradient norms, BinaryConnect, War and Peace",
    "figure_07": "Figure 7: gradient norms, TerConnect, War and Peace",
    "figure_08": "Figure 8: gradient norms, TerConnect, Penn Treebank (characters)",
}
"""What the paper's figures show."""
_GRADIENTS = ("Norm of the gradient of the loss with respect to the hidden state h_t, by time step: each line one of 10 "
              "samples of a minibatch of the training text (batch normalization: one line, the root mean square over the "
              "samples). Read from right to left: towards earlier steps the gradient grows where it explodes.")  # fmt: skip
CAPTIONS = {name: _GRADIENTS for name in NAMES} | {
    "figure_04": "Scaling parameter of the four recurrent matrices by epoch, for BWN and LAB. The paper: smaller than 1.",
    "figure_05": "g* of the four recurrent products by epoch: the largest gain (weight, layer), or the gain whose ratio "
                 "to the standard deviation is largest (batch). The paper: it increases only slightly.",
}  # fmt: skip
"""What a reader needs to know to read them."""


def model_name(quantizer: str, normalizer: str) -> str:
    """The short name used in the figures, e.g. ``BC+WN``."""
    return SHORT.get(quantizer, quantizer) + SUFFIX.get(normalizer, f"+{normalizer}")


def figure(records: list[dict], artefact: str) -> Figure:
    """The figure of that name (``figure_01``, ...) from a profile's records."""
    label, runs = select(records, artefact)
    rows = [row for row in ARTEFACTS[artefact]["rows"] if row in runs]
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        if artefact == "figure_04":
            result = by_epoch({row: runs[row] for row in rows}, "alpha", "α of W$_{h*}$")
        elif artefact == "figure_05":
            result = by_epoch({row: runs[row] for row in rows}, "g", "g$_*$ of W$_{h*}$")
        else:
            result = gradient_norms({row: runs[row] for row in rows})
        intended = " and ".join(data.title(name) for name in ARTEFACTS[artefact]["datasets"])
        stand_in = "" if label.startswith(intended) else f"   (in place of {intended})"
        result.suptitle(f"{NAMES[artefact]}\n{label}{stand_in}", fontsize="medium", x=0.01, ha="left")
    return result


def gradient_norms(runs: dict[tuple[str, str], dict]) -> Figure:
    """||d loss / d h_t|| over time steps: a column a model, a row a moment of training, a line a sample.

    Batch norm: one line, the root mean square over the samples.
    """
    lines = pd.DataFrame([
        {"model": model_name(*row), "moment": MOMENTS[moment], "loss": LOSSES[loss], "line": f"{loss}{number}",
         "step": step, "norm": norm}
        for row, record in runs.items()
        for moment, losses in record["traces"]["gradient_norms"].items()
        for loss, samples in losses.items()
        for number, sample in enumerate(samples)
        for step, norm in enumerate(sample, start=1)
    ])  # fmt: skip
    lines["norm"] = pd.to_numeric(lines["norm"]) * 1000
    lines.loc[lines["norm"] <= 0, "norm"] = None  # a zero gradient has no place on a log axis
    grid = sns.relplot(
        lines, x="step", y="norm", col="model", row="moment", hue="loss", units="line", estimator=None, kind="line",
        palette=PALETTE[: len(LOSSES)], hue_order=list(LOSSES.values()), linewidth=0.7, alpha=0.8, height=1.9, aspect=1.15,
        row_order=[m for m in MOMENTS.values() if m in set(lines["moment"])],
    )  # fmt: skip
    grid.set(yscale="log").set_titles("{col_name}, {row_name}", fontsize="small")
    grid.set_axis_labels("time step t", "‖∂loss/∂h$_t$‖  (10$^{-3}$)")
    return _finished(grid, top=0.93, bottom=0.04)


def _whole_epochs(grid: sns.FacetGrid):
    for axis in grid.axes.flat:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _finished(grid: sns.FacetGrid, *, top: float, bottom: float) -> Figure:
    """The legend below the panels, room for the title above; not left open in pyplot, which would show it again."""
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.5, 0.0), ncols=4, title=None, frameon=False)
    grid.figure.tight_layout(rect=(0, bottom, 1, top))
    plt.close(grid.figure)
    return grid.figure


def by_epoch(runs: dict[tuple[str, str], dict], quantity: str, axis_label: str) -> Figure:
    """alpha (``"alpha"``) or g_* (``"g"``) of the recurrent matrices by epoch: a panel a model, a line a gate."""
    rows = []
    for row, record in runs.items():
        for epoch in record["epochs"]:
            values = epoch["alpha"] if quantity == "alpha" else epoch["gains"]["g"]
            rows += [{"model": model_name(*row), "epoch": epoch["epoch"], "gate": f"W$_{{h{gate}}}$", "value": value}
                     for layer in values[-1:] for gate, value in zip(GATES, layer, strict=True)]  # fmt: skip
    lines = pd.DataFrame(rows)
    grid = sns.relplot(
        lines, x="epoch", y="value", col="model", hue="gate", style="gate", kind="line", palette=PALETTE[:4],
        markers=True, height=2.6, aspect=1.2, facet_kws={"sharey": quantity == "alpha"},
    )  # fmt: skip
    grid.set_titles("{col_name}").set_axis_labels("epoch", axis_label)
    _whole_epochs(grid)
    return _finished(grid, top=0.86, bottom=0.08)


def learning_curves(records: list[dict]) -> Figure:
    """Validation BPC by epoch, a line a run (mean over seeds), named as in the other figures."""
    lines = pd.DataFrame([
        {"model": model_name(record["config"]["quantizer"], record["config"]["normalizer"]), "epoch": epoch["epoch"],
         "text": data.title(record["config"]["dataset"]), "valid_bpc": epoch["valid_bpc"]}
        for record in records for epoch in record["epochs"] if "valid_bpc" in epoch
    ])  # fmt: skip
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"):
        grid = sns.relplot(lines, x="epoch", y="valid_bpc", hue="model", style="model", col="text", kind="line",
                           palette="colorblind", errorbar=None, height=3.5, aspect=1.3)  # fmt: skip
        grid.set_titles("{col_name}").set_axis_labels("epoch", "validation BPC")
        _whole_epochs(grid)
        return _finished(grid, top=1, bottom=0.14)


def save(result: Figure, directory: Path, name: str):
    """Write ``name.png`` (for the screen) and ``name.pdf`` (for print)."""
    directory.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "pdf"):
        metadata = {"CreationDate": None} if suffix == "pdf" else {}
        result.savefig(directory / f"{name}.{suffix}", dpi=160, bbox_inches="tight", metadata=metadata)
