"""What ``make bench`` measured: times of the layer, of training steps and of networks in use, as
tables and figures.

``directory``: the folder of the records. ``benched``: the rows of all of them, of :func:`rows`.
``part``: what was timed, ``layer``, ``step``, ``scaling`` or ``inference``. ``moment``: of which
pass. ``normalizer``: that of the networks of 1- and 2-bit weights in use.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from qlstm import data
from qlstm.report.figures import PALETTE, finished, style
from qlstm.report.names import NORMALIZER_WORDS, NOT_RUN, QUANTIZER_TITLES
from qlstm.study import costs, records
from qlstm.study.grid import grid
from qlstm.study.profiles import PAPER_DATASETS

FORMS = {("torch.nn.LSTM", "full_precision"): "torch.nn.LSTM (float32)",
         ("int8", "full_precision"): "int8 (dynamic)", ("packed", "binary_connect"): "1 bit",
         ("packed", "ter_connect"): "2 bits"}
"""The forms of a network in use that are compared, by backend and quantizer."""


def _by_machine(directory: Path) -> list[tuple[str, dict]]:
    return [(path.stem.replace("_", " "), record) for path, record in records.benchmarks(directory)]


def rows(directory: Path) -> pd.DataFrame:
    """The rows of all records, with ``machine`` (device, threads or GPU), ``torch`` and the
    machine's peaks, ``gflop_per_s`` and ``gb_per_s``. Raises ``RecordError`` if there is none."""
    found = pd.DataFrame(
        [{"machine": machine, "torch": record["environment"]["torch"]} | record["peaks"] | row
         for machine, record in _by_machine(directory) for row in record["rows"]])
    if found.empty:
        raise records.RecordError(f"{directory}: no record of make bench to be shown")
    return found


def side_by_side(directory: Path) -> pd.DataFrame:
    """Steps a second of all processes together: a row a machine and shape, a column a number of
    processes."""
    found = [{"machine": machine} | row for machine, record in _by_machine(directory)
             for row in record.get("side_by_side", [])]
    if not found:
        return pd.DataFrame()
    rates = pd.DataFrame(found).pivot_table("steps_per_s", ["machine", "shape"], "processes")
    return rates.map("{:.1f}".format, na_action="ignore").astype(object).fillna(NOT_RUN)


def wide(benched: pd.DataFrame, part: str, moment: str) -> pd.DataFrame:
    """Times of a part and pass: a row a shape and backend, a column a normalizer.

    Each cell is milliseconds and the ratio to ``torch.nn.LSTM``'s in that run.
    """
    chosen = _chosen(benched, part, moment)
    cells = [f"{row.ms:.{1 if row.ms >= 1 else 3}f} ms, {row.ratio:.2f}"
             for row in chosen.itertuples()]
    quantization = chosen["quantizer"].replace(QUANTIZER_TITLES)
    return chosen.assign(cell=cells, quantization=quantization).pivot_table(
        "cell", ["machine", "shape", "backend", "quantization"], "normalization", aggfunc="first",
        sort=False).fillna(NOT_RUN)


def _chosen(benched: pd.DataFrame, part: str, moment: str) -> pd.DataFrame:
    chosen = benched[(benched["part"] == part) & (benched["pass"] == moment)]
    return chosen.assign(normalization=chosen["normalizer"].map(NORMALIZER_WORDS))


def grid_hours() -> pd.DataFrame:
    """Hours of training of the paper's grid with one seed, one run after the other: a row a data
    set, a column a machine.

    From :mod:`qlstm.study.costs`; empty where a machine has no measured step for any of the runs,
    with a ``+`` where for some.
    """
    configs = grid("paper")
    hours = {}
    for machine in dict.fromkeys(machine for machine, _ in costs.step_times()):
        for dataset in [*PAPER_DATASETS, "all"]:
            chosen = [config for config in configs if dataset in (config.dataset, "all")]
            cost = costs.estimate(chosen, machine)
            known = (f"{cost.hours:,.0f}{'+' if cost.unknown else ''}" if cost.unknown < len(chosen)
                     else NOT_RUN)
            title = dataset if dataset == "all" else data.title(dataset)
            hours.setdefault(title, {"runs": len(chosen)})[machine] = known
    return pd.DataFrame.from_dict(hours, orient="index").rename_axis("data")


def ratios(benched: pd.DataFrame, part: str, moment: str) -> Figure:
    """Times of a part and pass of 1-bit networks (BinaryConnect) as ratios to ``torch.nn.LSTM``'s:
    a panel a machine and shape, a bar a rival."""
    bars = _chosen(benched[benched["quantizer"] == "binary_connect"], part, moment)
    bars = bars.assign(panel=bars["machine"] + "\n" + bars["shape"])
    with style():
        facets = sns.catplot(bars, x="ratio", y="normalization", hue="backend", col="panel",
                             kind="bar", col_wrap=3, height=2.3, aspect=1.3,
                             palette=PALETTE[: bars["backend"].nunique()])
        facets.set_titles("{col_name}").set_axis_labels(f"{moment}, times torch.nn.LSTM", "")
        facets.refline(x=1, color="0.3", linestyle=":")
        return finished(facets, top=1, bottom=0.06)


def roofline(benched: pd.DataFrame) -> Figure:
    r"""Gflop/s of the layer's two passes against the flops they need for each byte they must move:
    a panel a machine.

    Flops: the products with both weights, and for each the gradients of its two factors,
    $$ 3 \cdot 2 \cdot T N \, 4 d \, (D + d). $$
    Bytes: weights, input, products, output and their gradients, each once, in float32: what a time
    step reads again is a cache's business. The roof is the machine's, measured in the same run: a
    copy of memory, a product of square matrices.
    """
    points = _chosen(benched, "layer", "forward + backward")
    t_n, d, inputs = points["T"] * points["N"], points["d"], points["D"]
    # 3 * 2 * T N 4d (D + d)
    flops = 24 * t_n * d * (inputs + d)
    numbers = 4 * d * (inputs + d) + t_n * (inputs + 4 * d + d)
    points = points.assign(intensity=flops / (8 * numbers), speed=flops / points["ms"] / 1e6)
    with style():
        facets = sns.relplot(points, x="intensity", y="speed", hue="backend", style="shape",
                             col="machine", s=45, height=4, aspect=1.2,
                             palette=PALETTE[: points["backend"].nunique()])
        for machine, axes in facets.axes_dict.items():
            peak = points[points["machine"] == machine].iloc[0]
            ridge = peak["gflop_per_s"] / peak["gb_per_s"]
            ends = sorted([min(points["intensity"].min(), ridge) / 2, ridge,
                           max(points["intensity"].max(), ridge) * 2])
            axes.plot(ends, [min(peak["gflop_per_s"], peak["gb_per_s"] * x) for x in ends],
                      color="0.3", linestyle=":")
        facets.set(xscale="log", yscale="log").set_titles("{col_name}")
        facets.set_axis_labels("flop / byte", "Gflop/s")
        plt.close(facets.figure)
        return facets.figure


def scaling(benched: pd.DataFrame) -> Figure:
    """Milliseconds of the layer's two passes over d, N and T, both axes logarithmic: a column each,
    a line a rival."""
    lines = _chosen(benched, "scaling", "forward + backward")
    lines = lines.assign(varied=lines["shape"].str[0],
                         value=lines["shape"].str.split(" = ").str[1].astype(int))
    with style():
        facets = sns.relplot(lines, x="value", y="ms", hue="normalization", style="backend",
                             col="varied", row="machine", kind="line", markers=True,
                             palette="colorblind", height=3, facet_kws={"sharex": "col"})
        facets.set(xscale="log", yscale="log").set_titles("{row_name}, {col_name}")
        facets.set_axis_labels("", "forward + backward (ms)")
        facets.figure.tight_layout(rect=(0, 0, 0.85, 1))
        plt.close(facets.figure)
        return facets.figure


def _forms(benched: pd.DataFrame, normalizer: str) -> pd.DataFrame:
    """The inference part's rows of :data:`FORMS`: those of quantized networks with this
    normalizer."""
    rows = benched[benched["part"] == "inference"]
    forms = [FORMS.get(pair) for pair in zip(rows["backend"], rows["quantizer"], strict=True)]
    device = rows["machine"].str.replace(r" \d+ threads$", "", regex=True)
    rows = rows.assign(form=pd.Categorical(forms, [*FORMS.values()]), batch=rows["N"],
                       machine=device + ", threads: " + rows["threads"].astype("Int64").astype(str))
    return rows[rows["form"].notna() & (
        (rows["backend"] != "packed") | (rows["normalizer"] == normalizer))]


def inference(benched: pd.DataFrame, moment: str, normalizer: str = "layer") -> Figure:
    """Time a step of a network in use relative to ``torch.nn.LSTM``'s, over d, both axes
    logarithmic: a row a machine, a column a batch, a line a form of :data:`FORMS`."""
    lines = _forms(benched, normalizer)
    lines = lines[lines["pass"] == moment]
    with style():
        facets = sns.relplot(lines, x="d", y="ratio", hue="form", style="form", col="batch",
                             row="machine", kind="line", dashes=False, height=3.2, aspect=1.1,
                             palette=["0.3", *PALETTE[:3]], markers=True, markersize=7)
        facets.set(xscale="log", yscale="log", xticks=sorted(set(lines["d"])))
        for axes in facets.axes.flat:
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g} x")
            axes.yaxis.set_minor_locator(NullLocator())
        facets.set_titles("{row_name}\nbatch {col_name}")
        facets.set_axis_labels("hidden units d", "time a step, nn.LSTM = 1\n(lower is faster)")
        return finished(facets, top=1, bottom=0.09)


def step_times(benched: pd.DataFrame, normalizer: str = "layer") -> pd.DataFrame:
    """Milliseconds a step of each form of :data:`FORMS` and the ratio to ``torch.nn.LSTM``'s: a row
    a pass, batch and d."""
    rows = _forms(benched, normalizer)
    cells = [f"{row.ms:.3f} ms, {row.ratio:.2f}" for row in rows.itertuples()]
    return _table(rows.assign(cell=cells), ["machine", "pass", "batch", "d"])


def memory(benched: pd.DataFrame, normalizer: str = "layer") -> pd.DataFrame:
    """MB that each form of :data:`FORMS` holds in a process that has loaded it and computed a
    sequence of batch 1, and those of its file: a row a d."""
    rows = _forms(benched, normalizer)
    rows = rows[rows["memory_mb"].notna()]
    cells = [f"{row.memory_mb:.1f} MB, file {row.file_bytes / 2**20:.2f} MB"
             for row in rows.itertuples()]
    return _table(rows.assign(cell=cells), ["machine", "d"])


def _table(rows: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    return rows.pivot_table("cell", index, "form", aggfunc="first", observed=False, sort=True
                            ).astype(object).fillna(NOT_RUN)
