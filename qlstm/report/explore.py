"""Choose among the runs that exist, and see how those compare: for ``notebooks/explore``.

Nothing here averages over runs: a line is a run, and a panel has the runs of one setting alone
(:func:`qlstm.report.names.label`). Colours stand for the normalization and strokes for the
quantizer, the same in every panel.

``records``: as :func:`load` returns them, or some of them.
"""

import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qlstm import data
from qlstm.data.files import DataError
from qlstm.errors import ConfigError, unknown
from qlstm.report.experiment import BY_HAND
from qlstm.report.figures import DRAWN, MOMENTS, PALETTE, style
from qlstm.report.frames import by_epoch, frame
from qlstm.report.names import NORMALIZER_WORDS, QUANTIZER_TITLES, UNKNOWN, label
from qlstm.study import records as files
from qlstm.study.config import ExperimentConfig
from qlstm.study.networks import load_model
from qlstm.study.tasks import TASKS

FIELDS = ("task", "dataset", "hidden_size", "quantizer", "normalizer", "cell", "seed")
"""What runs are chosen by."""
NAMES = {"quantizer": QUANTIZER_TITLES, "normalizer": NORMALIZER_WORDS}
"""What may be wanted of them although no run has it."""
NETWORKS = 4
"""Networks that :func:`show_texts` lets write, at most."""
STROKES = ["", (4, 1.5), (1, 1), (5, 1, 1, 1), (8, 2), (3, 1, 1, 1, 1, 1), (2, 2), (7, 1, 2, 1),
           (1, 3), (6, 3)]
"""Of the quantizers' lines, in the order of their titles."""


def load(profile: str) -> list[dict[str, Any]]:
    """Read the records of a profile, and those of runs by hand with its settings.

    Args:
        profile: ``smoke``, ``quick`` or ``paper``.
    """
    by_hand = files.load_all(profile, files.reports() / BY_HAND)
    found = {record["run_id"]: record for record in [*by_hand, *files.load_all(profile)]}
    return [found[name] for name in sorted(found)]


def select(records: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Take the runs that have certain settings.

    Args:
        records: As in the module's legend.
        wanted: A value, or a list of those that are wanted, by a name of :data:`FIELDS`; None: any.

    Raises:
        ConfigError: There is no such setting, or no run that has such a value, which is no name of
            a quantizer or normalizer either.
    """
    chosen = records
    for name, values in wanted.items():
        if name not in FIELDS:
            raise ConfigError(unknown("filter", name, FIELDS))
        if values is None:
            continue
        values = [values] if isinstance(values, str | int) else list(values)
        known = {str(one): 0 for one in [*NAMES.get(name, ()), *_values(records, name)]}
        for value in values:
            if records and str(value) not in known:
                raise ConfigError(unknown(name, str(value), known))
        chosen = [record for record in chosen if record["config"][name] in values]
    return chosen


def _values(records: list[dict[str, Any]], name: str) -> list[Any]:
    return sorted({record["config"][name] for record in records})


def varying(records: list[dict[str, Any]]) -> list[str]:
    """Name the settings that differ between runs: those of :data:`FIELDS`, and any that one of them
    does not have from its profile.

    Args:
        records: As in the module's legend.
    """
    configs = [ExperimentConfig.as_recorded(record["config"]) for record in records]
    named = [*FIELDS, *(name for name in ExperimentConfig.__dataclass_fields__
                        if name not in (*FIELDS, "profile")
                        and any(getattr(c, name) != c.usual(name) for c in configs))]
    return [name for name in named if len({getattr(config, name) for config in configs}) > 1]


def table(records: list[dict[str, Any]]) -> pd.DataFrame:
    """List runs: what they differ in, then their test metric, size and time.

    Args:
        records: As in the module's legend.
    """
    runs, settings = frame(records), varying(records)
    shown = pd.DataFrame({name: [getattr(config, name) for config in runs["config"]]
                          for name in settings}, index=runs.index)
    shown["test"] = ["diverged" if run.diverged
                     else f"{run.test:.{TASKS[run.task].metric.digits + 1}f}"
                     for run in runs.itertuples()]
    shown["metric"] = [TASKS[task].metric.title for task in runs["task"]]
    shown["size (KB)"] = [UNKNOWN if np.isnan(size) else f"{size:.1f}" for size in runs["size_kb"]]
    shown["minutes"] = (runs["seconds"] / 60).map("{:.1f}".format)
    order = runs.sort_values(["label", "quantizer", "normalizer", "seed"]).index
    return shown.loc[order].reset_index(drop=True)


def _lines(frame_of_runs: pd.DataFrame) -> pd.DataFrame:
    """With the names that panels and legends show; ``run`` tells runs apart."""
    return frame_of_runs.assign(
        setting=frame_of_runs["label"].map(_in_lines),
        normalization=frame_of_runs["normalizer"].map(lambda n: NORMALIZER_WORDS.get(n, n)),
        quantizer=frame_of_runs["quantizer"].map(lambda q: QUANTIZER_TITLES.get(q, q)),
        run=[config.run_id for config in frame_of_runs["config"]])


def _in_lines(name: str) -> str:
    """The name of a setting, its scale on lines of its own."""
    return "\n".join(textwrap.fill(part, 50) for part in
                     name.replace(" (reduced", "\n(reduced").split("\n"))


def _look(lines: pd.DataFrame) -> dict[str, Any]:
    """Colours and strokes, which do not depend on what is chosen; one's own come last."""
    normalizers = dict.fromkeys([*NORMALIZER_WORDS.values(), *lines["normalization"]])
    quantizers = dict.fromkeys([*QUANTIZER_TITLES.values(), *lines["quantizer"]])
    present = set(lines["normalization"]), set(lines["quantizer"])
    return dict(
        hue="normalization", hue_order=[name for name in normalizers if name in present[0]],
        palette={name: PALETTE[k % len(PALETTE)] for k, name in enumerate(normalizers)},
        style="quantizer", style_order=[name for name in quantizers if name in present[1]],
        dashes={name: STROKES[k % len(STROKES)] for k, name in enumerate(quantizers)},
        units="run", estimator=None, kind="line", legend=False)


def learning_curves(records: list[dict[str, Any]]) -> Figure:
    """Draw the validation metric by epoch: a panel a setting, a line a run.

    A line that ends early belongs to a run that diverged; in its first epoch, and it has none.

    Args:
        records: As in the module's legend; one or more that finished an epoch.
    """
    lines = _lines(by_epoch(records))
    lines = lines.assign(valid_metric=pd.to_numeric(lines["valid_metric"])).dropna(
        subset=["valid_metric"])
    units = {name: TASKS[config.task].metric.title
             for name, config in zip(lines["setting"], lines["config"], strict=True)}
    look = _look(lines)
    with style():
        facets = sns.relplot(
            lines, x="epoch", y="valid_metric", col="setting", col_wrap=min(2, len(units)),
            height=2.8, aspect=1.5, marker="o", markersize=4,
            facet_kws=dict(sharex=False, sharey=False), **look)
        facets.set_titles("{col_name}", fontsize="small")
        for name, axes in facets.axes_dict.items():
            axes.set(xlabel="epoch", ylabel=f"validation {units[name]}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            for line in axes.get_lines():
                if len(line.get_xdata()) > 12:  # marks would hide the strokes
                    line.set_marker("")
            shown = lines["valid_metric"][lines["setting"] == name]
            if 0 < shown.min() < shown.max() / 20:
                axes.set_yscale("log")
        return _finished(facets, look)


def gradient_curves(records: list[dict[str, Any]]) -> Figure:
    r"""Draw the norm of the gradient with respect to each hidden state: a row a setting, a line a
    run, before training and at its best epoch.

    Shown is the median over samples of $\lVert \partial \xi_T / \partial h_t \rVert$, with $\xi_T$
    the loss of the last time step; of images that is their only loss.

    Args:
        records: As in the module's legend; one or more.
    """
    rows = []
    for record in records:
        config = ExperimentConfig.as_recorded(record["config"])
        for moment, norms in record["traces"]["gradient_norms"].items():
            samples = np.array(norms.get("last_step", norms["training"]), dtype=float)
            rows += [dict(label=label(config, record["data"]["sha256"]), config=config,
                          quantizer=config.quantizer, normalizer=config.normalizer,
                          moment=MOMENTS[moment], step=step, norm=norm)
                     for step, norm in zip(norms["steps"], np.nanmedian(samples, axis=0),
                                           strict=True)
                     if moment != "epoch 1" and norm > 0]
    lines = _lines(pd.DataFrame(rows))
    lines["norm"] = lines["norm"].clip(*DRAWN)
    look = _look(lines)
    with style():
        facets = sns.relplot(
            lines, x="step", y="norm", row="setting", col="moment", height=2.3, aspect=1.8,
            facet_kws=dict(sharex=False, sharey="row"), **look)
        facets.set_titles("{row_name}\n{col_name}", fontsize="small")
        facets.set(yscale="log").set_axis_labels("time step t", "‖∂ξ$_T$/∂h$_t$‖")
        return _finished(facets, look)


def _finished(facets: sns.FacetGrid, look: dict[str, Any]) -> Figure:
    """The figure, with a legend above the panels: a line for colours, one for strokes."""
    figure, height = facets.figure, facets.figure.get_figheight()
    for k, (what, handles) in enumerate({
        "normalization": {name: dict(color=look["palette"][name]) for name in look["hue_order"]},
        "quantizer": {name: dict(color="0.3", dashes=look["dashes"][name] or (1, 0))
                      for name in look["style_order"]}}.items()):
        top = 1 - 0.22 * k / height
        figure.text(0.01, top - 0.06 / height, f"{what}:", va="top", fontsize="small")
        figure.add_artist(Legend(
            figure, [Line2D([], [], **drawn) for drawn in handles.values()], list(handles),
            loc="upper left", bbox_to_anchor=(1.1 / figure.get_figwidth(), top), borderpad=0,
            bbox_transform=figure.transFigure, ncols=5, frameon=False, fontsize="small"))
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.5 / height))
    plt.close(figure)
    return figure


def show_texts(records: list[dict[str, Any]]):
    """Print how the first language models among the runs go on with the beginning of the test text.

    A network fits only the text that it was trained on, so one whose text has changed is left out.

    Args:
        records: As in the module's legend.
    """
    written = 0
    for record in records:
        config = ExperimentConfig.as_recorded(record["config"])
        folder = _folder(record)
        if (config.task == "sequential_image" or written == NETWORKS
                or not (folder / "model.safetensors").exists()):
            continue
        try:
            text = data.load_dataset(config.dataset, config.task)
            model, _ = load_model(folder)
        except (DataError, ConfigError) as error:
            print(f"{record['run_id']} writes nothing: {error}")
            continue
        if text.sha256 == record["data"]["sha256"]:
            prompt, written = text.test[:60].long(), written + 1
            print(f"=== {record['run_id']}, test {TASKS[config.task].metric.title} "
                  f"{record['test_metric']:.2f}\n{text.decode(prompt)}")
            for temperature in (0.5, 1.0):
                drawn = text.decode(model.sample(prompt, 200, temperature=temperature))
                print(f"--- temperature {temperature}\n{drawn}\n")
    if not written:
        print("no language model with weights is among these runs")


def _folder(record: dict[str, Any]) -> Path:
    of_profile = Path(record["config"]["profile"]) / "runs" / record["run_id"]
    planned = files.reports() / of_profile
    return planned if planned.exists() else files.reports() / BY_HAND / of_profile


class Chooser:
    """Choose runs by their settings: with lists to click in JupyterLab, else by the arguments.

    Shown is what the chosen runs differ in, their results and their learning curves.

    Attributes:
        records: Those that are chosen at present.

    Args:
        found: All that there are, as :func:`load` returns them.
        wanted: As in :func:`select`.
    """

    def __init__(self, found: list[dict[str, Any]], **wanted: Any):
        self.found, self.records = found, select(found, **wanted)
        self.wanted = wanted

    def _ipython_display_(self):
        if not _is_somebody_there():
            self._show()
            return
        lists = {name: self._list(name) for name in FIELDS}
        display(widgets.HBox(list(lists.values()), layout=widgets.Layout(flex_flow="row wrap")),
                widgets.interactive_output(self._choose, lists))

    def _list(self, name: str) -> widgets.SelectMultiple:
        """The values of a setting to choose from; none chosen: all."""
        values, wanted = _values(self.found, name), self.wanted.get(name)
        wanted = [] if wanted is None else [wanted] if isinstance(wanted, str | int) else wanted
        wanted = [value for value in wanted if value in values]
        titles = NAMES.get(name, {})
        return widgets.SelectMultiple(
            options=[(str(titles.get(value, value)), value) for value in values],
            value=wanted,
            rows=min(len(values), 6), description=name, layout=widgets.Layout(width="300px"))

    def _choose(self, **wanted: Collection):
        self.records = select(self.found, **{name: values or None
                                             for name, values in wanted.items()})
        self._show()

    def _show(self):
        if not self.found:
            print("no runs yet: make reproduce makes some")
            return
        print(f"{len(self.records)} of {len(self.found)} runs")
        if not self.records:
            return
        print("they differ in: " + (", ".join(varying(self.records)) or "nothing"))
        display(table(self.records))
        if any("valid_metric" in epoch for record in self.records for epoch in record["epochs"]):
            display(learning_curves(self.records))


def _is_somebody_there() -> bool:
    """Whether the cell was run by a person, who could answer a question, not headlessly."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent("shell") if kernel else {}
    return bool(parent.get("content", {}).get("allow_stdin"))
