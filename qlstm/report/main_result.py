"""The study's finding in one figure and one sentence: without normalization a quantized LSTM fails
to train, with it it trains.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
"""

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qlstm.report import verdicts
from qlstm.report.evidence import BASE, learned
from qlstm.report.frames import best_settings, published_rows
from qlstm.report.names import NORMALIZER_WORDS, in_parts, number
from qlstm.report.statistics import over_seeds
from qlstm.study.tasks import METRICS

SHOWN = {"full_precision": ("full precision", "o"),
         "binary_connect": ("BinaryConnect (1 bit)", "s"),
         "sbn": ("SBN (1 bit)", "D"),
         "ter_connect": ("TerConnect (2 bits)", "^"),
         "stn": ("STN (2 bits)", "v"),
         "alternating": ("alternating (2 bits)", "P")}
"""The quantizers of the figure: their names in the legend, and their marks."""
COLOURS = dict(zip(
    ["full_precision", "binary_connect", "ter_connect", "sbn", "stn", "alternating"],
    sns.color_palette("colorblind"), strict=False))
FAILED = "#f8d7da"
"""The colour behind a row that failed to train."""
BARE = ("binary_connect", "none")
AXES = {"bpc": "test bits per character", "ppl": "test perplexity", "accuracy": "test accuracy (%)"}
SAID = {"bpc": "{} bits per character", "ppl": "perplexity {}", "accuracy": "{} % right"}
WHAT = {"char_lm": "characters", "word_lm": "words", "sequential_image": "images"}
BEYOND = {"bpc": 2.5, "ppl": 1.6}
"""Times the worst of the rows that trained: where the axis ends. What is worse is an arrow
there."""
APART = 2.0
"""Times our number: beyond that the paper's is written beside its own mark."""
STYLE = {"font.size": 12, "axes.titlesize": 12.5, "axes.labelsize": 12, "axes.edgecolor": "0.6"}


@dataclass
class Row:
    """A network of a setting.

    Attributes:
        seeds: test metrics, NaN where a seed diverged.
        paper: the printed number, None where the authors printed none of this setting; NaN: they
            print "N/A".
    """

    quantizer: str
    normalizer: str
    seeds: list[float]
    mean: float
    size_kb: float
    fails: bool | None
    paper: float | None

    def told(self, metric: str) -> str:
        """The result in words, with the digits of its ``metric``: the mean; of a failed training
        the range over its seeds."""
        if any(math.isnan(seed) for seed in self.seeds):
            return "diverged"
        ends = [number(metric, end, self.fails) for end in (min(self.seeds), max(self.seeds))]
        return " to ".join(dict.fromkeys(ends)) if self.fails else number(metric, self.mean)


@dataclass
class Setting:
    """What one panel shows: a task on one data set, in one size, and its rows; ``scale`` says what
    is smaller than in the paper, "" if nothing is."""

    task: str
    title: str
    scale: str
    metric: str
    rows: dict[tuple[str, str], Row]

    @property
    def base(self) -> Row | None:
        """Full precision without normalization."""
        return self.rows.get(BASE)


def settings(records: list[dict]) -> list[Setting]:
    """The settings that figure and sentence are made from: the best one of each task (see
    :func:`qlstm.report.frames.best_settings`); where one at the paper's scale has the two rows
    that are compared first, no smaller one stands beside it."""
    found = best_settings(records, list(SHOWN))
    at_scale = [(name, runs) for name, runs in found if runs["paper_scale"].iloc[0]
                and {BASE, BARE} <= set(zip(runs["quantizer"], runs["normalizer"], strict=True))]
    return [_setting(name, runs) for name, runs in at_scale or found]


def _setting(name: str, runs: pd.DataFrame) -> Setting:
    config, metric = runs["config"].iloc[0], runs["metric"].iloc[0]
    means = {(run.quantizer, run.normalizer): run for run in over_seeds(runs).itertuples()}
    base = means[BASE].mean if BASE in means else None
    paper = published_rows(config) if runs["paper_scale"].iloc[0] else {}
    rows = {}
    for key in [(q, n) for n in NORMALIZER_WORDS for q in SHOWN if (q, n) in means]:
        run = means[key]
        seeds = runs[(runs["quantizer"] == key[0]) & (runs["normalizer"] == key[1])]["test"]
        fails = verdicts.fails(metric, None if run.diverged else run.mean, base)
        rows[key] = Row(*key, [float(seed) for seed in seeds.astype(float)], run.mean, run.size_kb,
                        fails, paper[key].value if key in paper else None)
    size, (setting, scale) = f"d = {config.hidden_size}", in_parts(name)
    title = setting if size in setting else f"{setting}, {size}"
    scale = ", ".join(part for part in scale.split(", ") if part != size)
    return Setting(config.task, title, scale and f"reduced: {scale}", metric, rows)


def main_result(records: list[dict], columns: int = 3) -> Figure:
    """Test metric by normalization, for the quantizers of :data:`SHOWN`.

    A panel is a task, on the best setting there is of it. Numbers stand beside the marks, the
    paper's as hollow marks where the scale is the paper's. Rows that failed to train
    (:func:`qlstm.report.verdicts.fails`) have a red ground. A mark at the edge of a panel is an
    arrow to a number that is off the axis.

    Args:
        records: those of a profile.
        columns: how many panels stand side by side; 1 suits a narrow screen.

    Raises:
        LookupError: there is no run of any of them.
    """
    shown = settings(records)
    if not shown:
        raise LookupError("no run of full precision or of a quantizer of the figure yet")
    wide, columns = columns > len(shown) == 1, min(columns, len(shown))
    lines = -(-len(shown) // columns)
    heights = [max(len(setting.rows) for setting in shown[i * columns:(i + 1) * columns])
               for i in range(lines)]
    with sns.axes_style("white"), plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            lines, columns, squeeze=False, height_ratios=[height + 3 for height in heights],
            figsize=(8.8 if wide else 4.7 * columns + 0.4,
                     0.31 * sum(heights) + 1.4 * lines + 0.9),
            layout="constrained")
        for axis, setting in zip(axes.flat, shown, strict=False):
            _panel(axis, setting)
        for axis in axes[:, 0]:
            axis.set_ylabel("normalization")
        for axis in axes.flat[len(shown):]:
            axis.set_axis_off()
        figure.legend(handles=_legend(shown), loc="outside lower center", frameon=False,
                      ncols=4 if wide else [2, 3, 5][min(columns, 3) - 1], handletextpad=0.4,
                      columnspacing=1.4)
        plt.close(figure)
    return figure


def _legend(shown: list[Setting]) -> list:
    present = {row.quantizer for setting in shown for row in setting.rows.values()}
    handles = [Line2D([], [], color=COLOURS[q], marker=mark, linestyle="", markersize=8, label=name)
               for q, (name, mark) in SHOWN.items() if q in present]
    if any(row.paper is not None for setting in shown for row in setting.rows.values()):
        handles.append(Line2D([], [], color="0.3", marker="o", fillstyle="none", linestyle="",
                              markersize=8, label="hollow, ( ): the paper's"))
    if any(row.fails for setting in shown for row in setting.rows.values()):
        handles.append(Patch(color=FAILED, label="fails to train"))
    return handles


def _panel(axis: Axes, setting: Setting):
    """The rows of a setting, one below the other."""
    metric, (least, most) = METRICS[setting.metric], _span(setting)
    if setting.metric == "ppl":
        axis.set_xscale("log")
        axis.set_xlim(least * (least / most) ** 0.06, most * (most / least) ** 0.5)
        axis.set_xticks(_decades(least, most), minor=False)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axis.minorticks_off()
    else:
        axis.set_xlim(least - 0.06 * (most - least), most + 0.5 * (most - least))
        axis.set_xticks([t for t in MaxNLocator(5).tick_values(least, most) if least <= t <= most])
    position, middles = 0.0, {}
    for name, words in NORMALIZER_WORDS.items():
        rows = [row for row in setting.rows.values() if row.normalizer == name]
        for row in rows:
            _draw(axis, setting.metric, row, position, most)
            middles.setdefault(words, []).append(position)
            position += 1
        position += 0.5 * bool(rows)
    axis.set_yticks([sum(at) / len(at) for at in middles.values()], list(middles))
    axis.set_ylim(position - 0.75, -0.75)
    if setting.base and not math.isnan(setting.base.mean):
        axis.axvline(setting.base.mean, color=COLOURS["full_precision"], linewidth=0.9, zorder=1)
    direction = "← lower is better" if metric.less_is_better else "higher is better →"
    axis.set_xlabel(f"{AXES[setting.metric]}  ({direction})", loc="left")
    axis.set_title(setting.title, loc="left", fontweight="bold", pad=20 if setting.scale else 6)
    axis.annotate(setting.scale, (0, 1), xytext=(0, 6), xycoords="axes fraction",
                  textcoords="offset points", fontsize=10.5, color="0.35")
    sns.despine(ax=axis)


def _span(setting: Setting) -> tuple[float, float]:
    """The least and the largest value that have a place on the axis."""
    if setting.metric == "accuracy":
        return 0.0, 100.0
    known = [(value, row.fails) for row in setting.rows.values()
             for value in (*row.seeds, row.paper)
             if value is not None and math.isfinite(value)]
    least, most = (end((value for value, _ in known), default=1.0) for end in (min, max))
    trained = max((value for value, fails in known if not fails), default=least)
    most = min(most, BEYOND[setting.metric] * trained)
    return least, max(most, 1.3 * least)


def _decades(least: float, most: float) -> list[float]:
    """Round numbers from ``least`` to ``most``, at least three where there are as many."""
    if most > 30 * least:
        return [10.0**e for e in range(6) if least * 0.95 <= 10.0**e <= most * 1.05]
    even = [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(least, most)
            if tick > 0]
    for ticks in (*([step * 10.0**e for e in range(6) for step in steps]
                    for steps in ([1, 3], [1, 2, 5])), even):
        ticks = [tick for tick in ticks if least * 0.95 <= tick <= most * 1.05]
        if len(ticks) >= 3:
            return ticks
    return ticks


def _draw(axis: Axes, metric: str, row: Row, position: float, most: float):
    """The marks of a row and its number; what has no place on the axis, up to ``most``, is an arrow
    at its end."""
    colour, mark = COLOURS[row.quantizer], SHOWN[row.quantizer][1]
    less_is_better = METRICS[metric].less_is_better

    def place(value, **style):
        """Draw a mark and tell where it is."""
        beyond = math.isnan(value) or value > most
        end = (most, ">") if less_is_better else (0.0, "<")
        x, shape = end if beyond else (value, mark)
        axis.plot(x, position, marker=shape, color=colour, linestyle="", clip_on=False, zorder=3,
                  **style)
        return x

    def write(text, x):
        label = axis.annotate(
            text, (x, position), xytext=(8, 0), textcoords="offset points", va="center",
            fontweight="bold" if row.fails else "normal", zorder=4,
            color="#a3000f" if row.fails else "0.15")
        label.set_path_effects(
            [withStroke(linewidth=3, foreground=FAILED if row.fails else "white")])

    if row.fails:
        axis.axhspan(position - 0.48, position + 0.48, color=FAILED, zorder=0, linewidth=0)
    told = row.told(metric)
    right = place(math.nan if told == "diverged" else row.mean, markersize=8)
    if len(row.seeds) > 1:
        right = max(right, *[place(seed, markersize=4, alpha=0.6) for seed in row.seeds])
    if row.paper is not None:
        printed = f"({number(metric, row.paper, row.paper > 1000)})"
        at = place(row.paper, fillstyle="none", markersize=8, markeredgewidth=1.4)
        if at > APART * right:
            write(printed, at)
        else:
            told, right = f"{told} {printed}", max(right, at)
    write(told, right)


def main_sentence(records: list[dict]) -> str:
    """What :func:`main_result` shows, in one sentence made from its numbers.

    Images on which full precision itself learned nothing are left out.

    Example:
        "Without normalization BinaryConnect fails on words (perplexity 135 beside 86.0 of full
        precision); with normalization (weight, layer) it ends at 89.8 to 92.3, at 1/25 to 1/28 of
        the size."
    """
    judged = [s for s in settings(records)
              if s.base and BARE in s.rows and s.rows[BARE].fails is not None and _learned(s)]
    if not judged:
        return "No run tells yet whether BinaryConnect fails without normalization."
    failing, training = ([f"{WHAT[s.task]} ({_compared(s)})" for s in judged
                          if bool(s.rows[BARE].fails) is fails] for fails in (True, False))
    parts = []
    if failing:
        parts.append(f"fails on {listed(failing)}")
    if training:
        parts.append(f"{'but ' if failing else ''}does not fail on {listed(training)}")
    return f"Without normalization BinaryConnect {' '.join(parts)}{_normalized(judged)}."


def _learned(setting: Setting) -> bool:
    return setting.metric != "accuracy" or learned(setting.base.mean)


def listed(words: list[str]) -> str:
    """``words`` as a list in a sentence: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _compared(setting: Setting) -> str:
    bare, base = (row.told(setting.metric) for row in (setting.rows[BARE], setting.base))
    said = bare if bare == "diverged" else SAID[setting.metric].format(bare)
    base = f"{base} %" if setting.metric == "accuracy" else base
    return f"{said} beside {base} of full precision"


def _normalized(judged: list[Setting]) -> str:
    """How BinaryConnect ends with normalization, and how small it is. Batch (separate), whose
    statistics of each time step make it no small network, does not count. All numbers are of the
    normalizations that are named."""
    ends, lost, shares = [], [], []
    for setting in judged:
        rows = [row for row in setting.rows.values()
                if row.quantizer == "binary_connect" and row.normalizer != "none"]
        good = [row for row in rows if not row.fails and row.normalizer != "batch_separate"]
        if good:
            means = [row.mean for row in good]
            numbers = [number(setting.metric, value) for value in (min(means), max(means))]
            names = ", ".join(NORMALIZER_WORDS[row.normalizer] for row in good)
            ends.append((names, " to ".join(dict.fromkeys(numbers)) + (
                f" on {WHAT[setting.task]}" if len(judged) > 1 else "")))
        lost += [f"{NORMALIZER_WORDS[row.normalizer]} normalization on {WHAT[setting.task]} "
                 f"({row.told(setting.metric)})" for row in rows if row.fails]
        shares += [round(setting.base.size_kb / row.size_kb) for row in good]
    told = f"; with normalization {_ends(ends)}" if ends else ""
    if shares:
        told += f", at {' to '.join(dict.fromkeys(f'1/{n}' for n in (min(shares), max(shares))))}"
        told += " of the size"
    return told + (f", but fails with {listed(lost)}" if lost else "")


def _ends(ends: list[tuple[str, str]]) -> str:
    """Where it ends, (names of normalizations, numbers) for each setting; names that are the same
    everywhere stand once."""
    names = {name for name, _ in ends}
    if len(names) == 1:
        return f"({names.pop()}) it ends at {listed([numbers for _, numbers in ends])}"
    return f"it ends at {listed([f'{numbers} ({name})' for name, numbers in ends])}"
