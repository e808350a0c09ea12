"""Figures: from run records to matplotlib Figures, in one style, with seaborn.

``records`` are those of a profile, as :func:`qlstm.study.records.load_all` returns them; ``runs``
one record for each quantizer and normalizer. Where there is nothing to show, ``LookupError`` says
so.
"""

import contextlib
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qlstm import data
from qlstm.report import tables
from qlstm.report.tables import select
from qlstm.study.grid import ARTEFACTS
from qlstm.study.tasks import TASKS

GATES = ["i", "f", "a", "o"]
SHORT = {"full_precision": "full", "binary_connect": "BC", "ter_connect": "TC", "bwn": "BWN",
         "lab": "LAB", "twn": "TWN", "lat": "LAT", "sbn": "SBN", "stn": "STN"}
SUFFIX = {"none": "", "weight": "+WN", "layer": "+LN", "batch_shared": "+BN (shared)",
          "batch_separate": "+BN (separate)"}
MOMENTS = {"initial": "at initialization", "epoch 1": "after epoch 1", "best": "at the best epoch"}
LOSSES = {"training": "training loss", "last_step": "loss of the last step"}
PALETTE = sns.color_palette("colorblind")
NAMES = {"figure_01": "Figure 1: gradient norms, BinaryConnect, Penn Treebank (characters)",
         "figure_02": "Figure 2: gradient norms, BinaryConnect, Penn Treebank (words, d = 300)",
         "figure_04": "Figure 4: scaling parameter α of W_h*",
         "figure_05": "Figure 5: g* of the normalized, binarized LSTM",
         "figure_06": "Figure 6: gradient norms, BinaryConnect, War and Peace",
         "figure_07": "Figure 7: gradient norms, TerConnect, War and Peace",
         "figure_08": "Figure 8: gradient norms, TerConnect, Penn Treebank (characters)",
         "figure_09": "Figure 9: gradient norms, TerConnect, Penn Treebank (words, d = 300)",
         "figure_10": "Figure 10: gradient norms, BinaryConnect, Penn Treebank (words, d = 650)",
         "figure_11": "Figure 11: gradient norms, TerConnect, Penn Treebank (words, d = 650)"}
"""What the paper's figures show."""
_GRADIENTS = (
    "Norm of the gradient of the loss with respect to the hidden state h_t, by time step: each line one of 10 "
    "samples of a minibatch of the training text (batch normalization: one line, the root mean square over the "
    "samples). Read from right to left: towards earlier steps the gradient grows where it explodes."
)
CAPTIONS = {name: _GRADIENTS for name in NAMES} | {
    "figure_04": "Scaling parameter of the four recurrent matrices by epoch, for BWN and LAB, characters and words. The "
    "paper: smaller than 1. (Words train by SGD, where LAB uses D = 1 and equals BWN.)",
    "figure_05": "g* of the four recurrent products by epoch: the largest gain (weight, layer), or the gain whose ratio "
    "to the standard deviation is largest (batch). The paper: it increases only slightly.",
}
"""What a reader needs to know to read them."""


def model_name(quantizer: str, normalizer: str) -> str:
    """The short name of a ``quantizer`` with a ``normalizer`` in the figures.

    >>> model_name("binary_connect", "weight")
    'BC+WN'
    """
    return SHORT.get(quantizer, quantizer) + SUFFIX.get(normalizer, f"+{normalizer}")


def figure(records: list[dict], artefact: str) -> Figure:
    """The figure ``artefact`` (``figure_01``, ...) from a profile's records. Raises ``LookupError``
    without any."""
    panels = select(records, artefact)
    with _style():
        if artefact in ("figure_04", "figure_05"):
            runs = {(*row, f"{TASKS[panel.task].unit}s" if len(ARTEFACTS[artefact]) > 1 else ""): record
                    for panel, _, found in panels for row, record in found.items()}
            result = by_epoch(
                runs,
                *{"figure_04": ("alpha", "α of W$_{h*}$"), "figure_05": ("g", "g$_*$ of W$_{h*}$")}[
                    artefact],
            )
        else:
            result = gradient_norms(panels[0][2])
        lines = [NAMES[artefact]]
        for panel, label, _ in panels:
            intended = data.title(panel.dataset)
            lines.append(
                label + ("" if label.startswith(intended) else f"   (in place of {intended})"))
        result.suptitle("\n".join(lines), fontsize="medium", x=0.01, ha="left")
    return result


@contextlib.contextmanager
def _style():
    """The one style of all figures: colour-blind-safe, legible at half a page's width."""
    with (sns.axes_style("whitegrid"), sns.plotting_context("paper"),
          sns.color_palette("colorblind")):
        yield


DRAWN = (1e-100, 1e100)
"""Gradient norms (in thousandths) that :func:`gradient_norms` has room for: the ticks of wider log
axes leave the range of 64 bits."""


def gradient_norms(runs: dict[tuple[str, str], dict]) -> Figure:
    """||d loss / d h_t|| over time steps: a column a model, a row a moment of training, a line a
    sample.

    Batch norm: one line, the root mean square over the samples.
    """
    lines = pd.DataFrame(
        [
            {"model": model_name(*row), "moment": MOMENTS[moment], "loss": LOSSES[loss],
             "line": f"{loss}{number}", "step": step, "norm": norm}
            for row, record in runs.items()
            for moment, losses in record["traces"]["gradient_norms"].items()
            for loss in [name for name in LOSSES if name in losses]
            for number, sample in enumerate(losses[loss])
            for step, norm in zip(losses["steps"], sample, strict=True)
        ]
    )
    lines["norm"] = pd.to_numeric(lines["norm"]) * 1000
    lines.loc[lines["norm"] <= 0, "norm"] = None  # a zero gradient has no place on a log axis
    lines["norm"] = lines["norm"].clip(DRAWN[0] ** 2, DRAWN[1] ** 2)
    grid = sns.relplot(lines, x="step", y="norm", col="model", row="moment", hue="loss",
                       units="line", estimator=None, kind="line",
                       palette=PALETTE[: lines["loss"].nunique()],
                       hue_order=[name for name in LOSSES.values() if name in set(lines["loss"])],
                       linewidth=0.7, alpha=0.8, height=1.9, aspect=1.15,
                       row_order=[m for m in MOMENTS.values() if m in set(lines["moment"])])
    grid.set(yscale="log").set_titles("{col_name}, {row_name}", fontsize="small")
    if not lines["norm"].dropna().between(*DRAWN).all():
        grid.set(ylim=(max(lines["norm"].min(), DRAWN[0]), min(lines["norm"].max(), DRAWN[1])))
    grid.set_axis_labels("time step t", "‖∂loss/∂h$_t$‖  (10$^{-3}$)")
    return _finished(grid, top=0.93, bottom=0.04)


def _whole_epochs(grid: sns.FacetGrid):
    for axis in grid.axes.flat:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _finished(grid: sns.FacetGrid, *, top: float, bottom: float) -> Figure:
    """The legend below the panels, room for the title above; not left open in pyplot, which would
    show it again."""
    sns.move_legend(
        grid, "lower center", bbox_to_anchor=(0.5, 0.0), ncols=4, title=None, frameon=False)
    grid.figure.tight_layout(rect=(0, bottom, 1, top))
    plt.close(grid.figure)
    return grid.figure


def by_epoch(runs: dict[tuple[str, str, str], dict], quantity: str, axis_label: str) -> Figure:
    """alpha (``"alpha"``) or g_* (``"g"``) of the recurrent matrices by epoch: a panel a model, a
    line a gate.

    ``quantity``: which of the two, called ``axis_label`` at the axis.
    ``runs``: records by quantizer, normalizer and a word that tells apart models of the same name.
    """
    rows = []
    for (quantizer, normalizer, word), record in runs.items():
        for epoch in record["epochs"]:
            values = epoch["alpha"] if quantity == "alpha" else epoch["gains"]["g"]
            model = f"{model_name(quantizer, normalizer)}{word and ', '}{word}"
            rows += [
                {"model": model, "epoch": epoch["epoch"], "gate": f"W$_{{h{gate}}}$",
                 "value": value}
                for layer in values[-1:]
                for gate, value in zip(GATES, layer, strict=True)
            ]
    lines = pd.DataFrame(rows)
    grid = sns.relplot(lines, x="epoch", y="value", col="model", hue="gate", style="gate",
                       kind="line", palette=PALETTE[:4], markers=True, height=2.6, aspect=1.2,
                       facet_kws={"sharey": quantity == "alpha"})
    grid.set_titles("{col_name}").set_axis_labels("epoch", axis_label)
    _whole_epochs(grid)
    return _finished(grid, top=0.8 if quantity == "alpha" else 0.86, bottom=0.08)


def _named(lines: pd.DataFrame) -> pd.DataFrame:
    """A column ``model`` with the short names, and ``setting`` without the scale's details."""
    models = [
        model_name(q, n) for q, n in zip(lines["quantizer"], lines["normalizer"], strict=True)]
    return lines.assign(model=models, setting=lines["label"].str.partition(" (reduced")[0])


def learning_curves(records: list[dict]) -> Figure:
    """Validation metric by epoch, a line a model (mean over seeds), a panel a setting."""
    lines = _named(tables.by_epoch(records))
    lines = lines.assign(valid_metric=pd.to_numeric(lines["valid_metric"])).dropna(
        subset=["valid_metric"])
    units = {label: TASKS[config.task].metric.title
             for label, config in zip(lines["setting"], lines["config"], strict=True)}
    with _style():
        grid = sns.relplot(lines, x="epoch", y="valid_metric", hue="model", style="model",
                           col="setting", kind="line", markers=True, palette="colorblind",
                           errorbar=None, height=2.8, aspect=1.4, col_wrap=min(3, len(units)),
                           facet_kws={"sharey": False, "sharex": False})
        grid.set_titles("{col_name}").set_axis_labels("epoch", "")
        for name, axis in grid.axes_dict.items():
            axis.set_ylabel(f"validation {units[name]}")
        _whole_epochs(grid)
        return _finished(grid, top=1, bottom=0.1)


def lambda_by_epoch(records: list[dict]) -> Figure:
    """lambda_1 (median over steps) by epoch, before and after quantization: a panel a model, mean
    over seeds."""
    lines = _named(tables.by_epoch(records)).melt(
        ["model", "epoch", "seed"], ["lambda_1_before", "lambda_1_after"], "weights", "lambda_1")
    lines["weights"] = lines["weights"].map(
        {"lambda_1_before": "latent weights (before)", "lambda_1_after": "quantized (after)"})
    lines = lines.assign(lambda_1=pd.to_numeric(lines["lambda_1"])).dropna(subset=["lambda_1"])
    with _style():
        grid = sns.relplot(lines, x="epoch", y="lambda_1", hue="weights", style="weights",
                           col="model", kind="line", markers=True, errorbar=None, height=2.3,
                           aspect=1.2, col_wrap=4, palette=PALETTE[:2])
        grid.set(yscale="log").set_titles("{col_name}").set_axis_labels("epoch", "λ$_1$")
        grid.refline(y=1, color="0.4", linestyle=":")
        _whole_epochs(grid)
        return _finished(grid, top=1, bottom=0.05)


def gains_and_lambda(records: list[dict]) -> Figure:
    """g_* and lambda_1 of normalized networks by epoch, above each other: a column a model, a line
    a seed."""
    lines = _named(tables.by_epoch([r for r in records if r["epochs"][0]["gains"]]))
    lines = lines.rename(columns={"g": "g$_*$", "lambda_1_after": "λ$_1$"}).melt(
        ["model", "epoch", "seed"], ["g$_*$", "λ$_1$"], "quantity", "value")
    lines = lines.assign(value=pd.to_numeric(lines["value"])).dropna(subset=["value"])
    with _style():
        grid = sns.relplot(lines, x="epoch", y="value", col="model", row="quantity", hue="quantity",
                           units="seed", estimator=None, kind="line", marker="o", height=2.0,
                           aspect=1.3, palette=PALETTE[:2], legend=False,
                           facet_kws={"sharey": False})
        grid.set_titles("{col_name}")
        for axes, name in zip(grid.axes, grid.row_names, strict=True):
            axes[0].set_ylabel(name)
        _whole_epochs(grid)
        grid.figure.tight_layout()
        plt.close(grid.figure)
        return grid.figure


def growth_and_lambda(records: list[dict]) -> Figure:
    """Growth of the gradient a time step against lambda_1: a point a network and moment, the
    bound's necessary side.

    Networks whose gradient grows (above 1) must lie right of lambda_1 = 1 where lambda_2 = 0.
    """
    points = _named(tables.gradients(records)).dropna(subset=["rate", "lambda_1"])
    points = points.assign(moment=points["moment"].map(MOMENTS),
                           normalization=points["normalizer"].map(tables.NORMALIZER_WORDS))
    with _style():
        grid = sns.relplot(points, x="lambda_1", y="rate", hue="normalization", style="moment",
                           height=4, aspect=1.5, palette="colorblind", s=45)
        grid.set(xscale="log", yscale="log").set_axis_labels(
            "λ$_1$, median over time steps", "growth of ‖∂ξ$_T$/∂h$_t$‖ a step back")
        grid.refline(x=1, y=1, color="0.4", linestyle=":")
        sns.move_legend(grid, "upper left", bbox_to_anchor=(0.78, 0.95), frameon=False)
        grid.figure.tight_layout(rect=(0, 0, 0.78, 1))
        plt.close(grid.figure)
        return grid.figure


def bench_ratios(rows: pd.DataFrame, part: str, moment: str) -> Figure:
    """Times of a ``part`` and pass (``moment``) as ratios to torch.nn.LSTM's: a panel a machine and
    shape, a bar a rival.

    ``rows``: of :func:`qlstm.report.tables.bench`.
    """
    bars = rows[
        (rows["part"] == part) & (rows["pass"] == moment) & (rows["backend"] != "torch.nn.LSTM")]
    bars = bars.assign(normalization=bars["normalizer"].map(tables.NORMALIZER_WORDS),
                       panel=bars["machine"] + "\n" + bars["shape"])
    with _style():
        grid = sns.catplot(bars, x="ratio", y="normalization", hue="backend", col="panel",
                           kind="bar", col_wrap=3, height=2.3, aspect=1.3,
                           palette=PALETTE[: bars["backend"].nunique()])
        grid.set_titles("{col_name}").set_axis_labels(f"{moment}, times torch.nn.LSTM", "")
        grid.refline(x=1, color="0.3", linestyle=":")
        return _finished(grid, top=1, bottom=0.06)


def roofline(rows: pd.DataFrame) -> Figure:
    """Gflop/s of the layer's two passes against the flops they need for each byte they must move: a
    panel a machine.

    Flops: the products and their two gradients, 3 * 2 * T N 4d (D + d). Bytes: weights, input,
    products, output and their gradients, each once, in float32: what a time step reads again is a
    cache's business. The roof is the machine's, measured in the same run: a copy of memory, a
    product of square matrices. ``rows``: of :func:`qlstm.report.tables.bench`.
    """
    points = rows[(rows["part"] == "layer") & (rows["pass"] == "forward + backward")]
    t_n, d, inputs = points["T"] * points["N"], points["d"], points["D"]
    flops = 24 * t_n * d * (inputs + d)
    numbers = 4 * d * (inputs + d) + t_n * (inputs + 4 * d + d)
    points = points.assign(intensity=flops / (8 * numbers), speed=flops / points["ms"] / 1e6)
    with _style():
        chart = sns.relplot(points, x="intensity", y="speed", hue="backend", style="shape",
                            col="machine", s=45, height=4, aspect=1.2,
                            palette=PALETTE[: points["backend"].nunique()])
        for machine, axes in chart.axes_dict.items():
            peak = points[points["machine"] == machine].iloc[0]
            ridge = peak["gflop_per_s"] / peak["gb_per_s"]
            ends = sorted(
                [min(points["intensity"].min(), ridge) / 2, ridge,
                 max(points["intensity"].max(), ridge) * 2]
            )
            axes.plot(ends, [min(peak["gflop_per_s"], peak["gb_per_s"] * x) for x in ends],
                      color="0.3", linestyle=":")
        chart.set(xscale="log", yscale="log").set_titles("{col_name}").set_axis_labels(
            "flop / byte", "Gflop/s")
        plt.close(chart.figure)
        return chart.figure


def bench_scaling(rows: pd.DataFrame) -> Figure:
    """Milliseconds of the layer's two passes over d, N and T, both axes logarithmic: a column each,
    a line a rival.

    ``rows``: of :func:`qlstm.report.tables.bench`.
    """
    lines = rows[(rows["part"] == "scaling") & (rows["pass"] == "forward + backward")]
    lines = lines.assign(varied=lines["shape"].str[0],
                         value=lines["shape"].str.split(" = ").str[1].astype(int),
                         normalization=lines["normalizer"].map(tables.NORMALIZER_WORDS))
    with _style():
        grid = sns.relplot(lines, x="value", y="ms", hue="normalization", style="backend",
                           col="varied", row="machine", kind="line", markers=True,
                           palette="colorblind", height=3, facet_kws={"sharex": "col"})
        grid.set(xscale="log", yscale="log").set_titles("{row_name}, {col_name}").set_axis_labels(
            "", "forward + backward (ms)")
        grid.figure.tight_layout(rect=(0, 0, 0.85, 1))
        plt.close(grid.figure)
        return grid.figure


def images(dataset: data.ImageDataset, count: int = 8) -> Figure:
    """The first ``count`` test images of ``dataset``, in the order of their pixels: line by line as
    seen, or one column a time step."""
    pixels, labels = (part[:count] for part in dataset.test)
    side = round(dataset.steps**0.5)
    with sns.axes_style("white"):
        result, axes = plt.subplots(1, count, figsize=(count * 0.9, 1.2))
    for axis, image, digit in zip(axes, pixels, labels, strict=True):
        axis.imshow(image.view(side, side), cmap="gray_r")
        axis.set_title(f"{digit}", fontsize="small")
        axis.set_axis_off()
    plt.close(result)
    return result


def save(result: Figure, directory: Path, name: str):
    """Write the figure ``result`` as ``name.png`` (for the screen) and ``name.pdf`` (for print)
    into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "pdf"):
        metadata = {"CreationDate": None} if suffix == "pdf" else {}
        result.savefig(
            directory / f"{name}.{suffix}", dpi=160, bbox_inches="tight", metadata=metadata)
