"""The tables of the paper, its numbers beside ours; and the one address of all that a notebook
needs for a table.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
``artefact``: the name of a table, as in :data:`qlstm.study.grid.ARTEFACTS`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS
from qlstm.report import diagnoses, verdicts
from qlstm.report.frames import (
    as_frame,
    by_epoch,
    frame,
    gradients,
    makeable,
    published,
    published_rows,
    select,
)
from qlstm.report.names import NOT_AT_HAND, NOT_RUN, label
from qlstm.report.render import TABLE_1_NOTES, misprints, notes, wide
from qlstm.report.reviewers import beside_lstm, run_time, statistics_experiment
from qlstm.report.sections import Section, empty_share, html, of_frame, of_results, save, spectra
from qlstm.report.statistics import over_seeds, paired_tests
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.grid import ARTEFACTS
from qlstm.study.sizes import round_half_up, size_kb
from qlstm.study.tasks import TASKS

__all__ = [
    "NOT_AT_HAND", "NOT_RUN", "TABLE_1_NOTES", "TITLES", "Result", "Section", "Shown", "Spectrum",
    "beside_lstm", "by_epoch", "empty_share", "frame", "gradients", "html", "label", "makeable",
    "misprints", "notes", "of_frame", "of_results", "over_seeds", "paired_tests", "published",
    "results", "run_time", "save", "select", "shown", "spectra", "statistics_experiment", "table_1",
    "wide"]

TITLES = {
    "table_1": (
        "Table 1: spectral norms, before and after quantization",
        "The paper explains the explosion in three steps: the gradient grows by at most λ₁ a step "
        "(plus λ₂ times that of the cell state), λ₁ grows with the spectral norms of the recurrent "
        "matrices, and quantization raises those norms. Does it raise them in the networks trained "
        "here? The latent weights' number → the quantized weights'."),
    "table_2": (
        "Table 2: characters",
        "Test bits per character (BPC) and size of the LSTM layer: does normalization bring a 1- "
        "or 2-bit LSTM back to full precision?"),
    "table_3": (
        "Table 3: words, one layer",
        "Test perplexity (PPL) and size of the LSTM layer: is a normalized 1- or 2-bit LSTM as "
        "good as full precision, at a fraction of the size?"),
    "table_4": (
        "Table 4: images, read pixel by pixel",
        "An image read one pixel at a time, then the digit named: which normalization carries a "
        "quantized LSTM that far? The paper's own Table 4 is not at hand; the sizes follow from "
        "its formula."),
    "table_5": (
        "Table 5: words, two layers",
        "Test perplexity (PPL) of two LSTM layers: does what holds for one layer hold for two?")}
"""What the tables of the paper show, and what they answer."""


@dataclass
class Result:
    """A row of Tables 2 to 5: a setting, a quantizer and a normalizer.

    Attributes:
        label: the setting: data, size, scale (:func:`qlstm.report.names.label`).
        paper_scale: whether its settings are the paper's. Only then is there a paper's number.
        bits: of a weight; None: a quantizer of the user's own.
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        in_paper: whether the authors published this row.
        paper: the printed number; NaN: not at hand.
        paper_kb: the printed size.
        computed_kb: the size by the formula.
        ours: mean of our runs over seeds. It and what follows are NaN where nothing was run.
        half_width: of its 95 % t-interval.
        least, most: the ends of the range over the seeds that did not diverge.
        seeds, diverged: how many runs there are, and how many of them diverged.
        devices: how many of them were trained on which processor or GPU.
        size_kb, packed_kb: size of our network, by the formula and on disk.
        verdict: by the rule of :mod:`qlstm.report.verdicts`.
    """

    label: str
    paper_scale: bool
    bits: int | None
    quantizer: str
    normalizer: str
    metric: str
    in_paper: bool = False
    paper: float = math.nan
    paper_kb: float = math.nan
    computed_kb: float = math.nan
    ours: float = math.nan
    half_width: float = math.nan
    least: float = math.nan
    most: float = math.nan
    seeds: float = math.nan
    diverged: float = math.nan
    devices: str = ""
    size_kb: float = math.nan
    packed_kb: float = math.nan
    verdict: str = verdicts.NOT_RUN


def results(records: list[dict], artefact: str) -> pd.DataFrame:
    """Tables 2 to 5 in long form: a :class:`Result` for each setting, quantizer and normalizer.

    The paper's rows always stand there, with ours beside them where runs at that scale exist.
    Reduced runs stand under a ``label`` of their own, without a paper's number.
    """
    panels = ARTEFACTS[artefact]
    runs = over_seeds(frame(records))
    fits = [any(panel.suits(config) for panel in panels) for config in runs["config"]]
    ours = runs[np.array(fits, dtype=bool)]
    rows = []
    for panel in panels:
        paper = ExperimentConfig(profile="paper", dataset=panel.dataset, **panel.overrides("paper"))
        name = label(paper, "")
        rows += _at_scale(name, paper, panel.rows, ours[ours["label"] == name])
    for name, group in ours[~ours["paper_scale"].astype(bool)].groupby("label", sort=False):
        rows += _reduced(name, panels[0].rows, group)
    return as_frame(Result, rows)


Row = tuple[str, str]


def _at_scale(name: str, paper: ExperimentConfig, order: list[Row], ours: pd.DataFrame
              ) -> list[Result]:
    """The rows of a setting of the paper: those of its table in ``order``, then the user's own."""
    runs, printed = _by_row(ours), published_rows(paper)
    base = ("full_precision", "none")
    baselines = {"paper_baseline": printed[base].value if base in printed else None,
                 "our_baseline": runs[base].mean if base in runs else None}
    rows = []
    for key in dict.fromkeys([*order, *runs]):
        row = _result(name, True, key, TASKS[paper.task].metric.name, runs.get(key))
        if key[0] in QUANTIZERS and key[1] in NORMALIZERS:  # one's own may be gone
            row.computed_kb = round_half_up(size_kb(_with_row(paper, key), row_scales=False))
        if key in printed:
            row.in_paper = True
            row.paper, row.paper_kb = printed[key].value, printed[key].size_kb
        if key in runs:
            row.verdict = verdicts.verdict(
                row.metric, row.paper, row.ours, **baselines, half_width=row.half_width,
                seeds=row.seeds, diverged=row.diverged)
        rows.append(row)
    return rows


def _reduced(name: str, order: list[Row], ours: pd.DataFrame) -> list[Result]:
    """The rows of a setting of ours."""
    runs, metric = _by_row(ours), ours["metric"].iloc[0]
    rows = [_result(name, False, key, metric, runs.get(key))
            for key in dict.fromkeys([*order, *runs])]
    for row in rows:
        row.verdict = verdicts.REDUCED if not math.isnan(row.seeds) else verdicts.NOT_RUN
    return rows


def _result(name: str, at_scale: bool, key: Row, metric: str, run) -> Result:
    """A row with what our ``run`` says, if there is one."""
    quantizer, normalizer = key
    row = Result(name, at_scale, getattr(QUANTIZERS.get(quantizer), "bits", None), quantizer,
                 normalizer, metric)
    if run is not None:
        row.ours, row.half_width, row.seeds = run.mean, run.half_width, run.seeds
        row.least, row.most, row.devices = run.least, run.most, run.devices
        row.diverged, row.size_kb, row.packed_kb = run.diverged, run.size_kb, run.packed_kb
    return row


def _by_row(table: pd.DataFrame) -> dict[Row, tuple]:
    return {(row.quantizer, row.normalizer): row for row in table.itertuples()}


def _with_row(paper: ExperimentConfig, key: Row) -> ExperimentConfig:
    """The paper's setting with a quantizer and normalizer, and the settings that follow from it."""
    quantizer, normalizer = key
    settings = {name: value for name, value in paper.settings.items() if name not in SPECIAL}
    return ExperimentConfig(**settings | {
        "profile": "paper", "quantizer": quantizer, "normalizer": normalizer})


@dataclass
class Spectrum:
    r"""A row of Table 1: a recurrent matrix of an unnormalized network, before and after
    quantization.

    Attributes:
        d: hidden size.
        epoch: 0 (before training) or the best one.
        gate: i, f, a or o.
        before, after: $\lVert W_{h*} \rVert$ of the latent and of the quantized matrix.
        bound: the quantized matrix's lower bound: $B_1 \sqrt{d}$ for binary codes, $(1 - s) B_1
            \sqrt{d}$ for ternary ones of sparsity $s$.
        lambda_1_before, lambda_1_after, lambda_2_before, lambda_2_after: $\lambda_1$ and
            $\lambda_2$ of Proposition 2.1, of the network.
    """

    label: str
    quantizer: str
    seed: int
    d: int
    epoch: int
    gate: str
    before: float
    after: float
    bound: float | None
    lambda_1_before: float
    lambda_1_after: float
    lambda_2_before: float
    lambda_2_after: float


def table_1(records: list[dict]) -> pd.DataFrame:
    """Table 1 in long form: a :class:`Spectrum` for each unnormalized LSTM on text, epoch (0 and
    the best one) and gate."""
    rows = []
    for record in records:
        config = ExperimentConfig.as_recorded(record["config"])
        if (config.normalizer != "none" or config.task == "sequential_image"
            or config.cell != "lstm"):
            continue
        for epoch in {0, record["best_epoch"]} - {None}:
            spectral = record["epochs"][epoch]["spectral"]
            before, after = spectral["before"], spectral["after"]
            gates = zip("ifao", before["norms"], after["norms"], after.get("bounds", [None] * 4),
                        strict=True)
            rows += [
                Spectrum(label(config, record["data"]["sha256"]), config.quantizer, config.seed,
                         config.hidden_size, epoch, *gate,
                         before.get("lambda_1"), after.get("lambda_1"),
                         before.get("lambda_2"), after.get("lambda_2"))
                for gate in gates]
    return as_frame(Spectrum, rows)


class Shown(NamedTuple):
    """A table of the paper as a page shows it.

    ``title``: with the data that it is made from. ``question``: what it answers. ``table``: its
    long form. ``sections``: what was run, a setting each. ``remarks``: notes below. ``folded``: all
    rows, with the paper's numbers.
    """

    title: str
    question: str
    table: pd.DataFrame
    sections: list[Section]
    remarks: list[str]
    folded: list[Section] | None

    def save(self, directory: Path, artefact: str):
        """Write its files (:func:`qlstm.report.sections.save`) into a ``directory``, named after
        the ``artefact``."""
        save(self.table, directory, artefact, self.sections, self.remarks, self.folded)

    def html(self) -> str:
        """It as HTML (:func:`qlstm.report.sections.html`)."""
        return html(self.sections, self.remarks, self.folded)


def shown(records: list[dict], artefact: str) -> Shown:
    """A table of the paper, ready to be shown: ``table_1`` to ``table_5``."""
    title, question = TITLES[artefact]
    if artefact == "table_1":
        table = table_1(records)
        sections, remarks, folded = spectra(table), TABLE_1_NOTES, None
    else:
        table = results(records, artefact)
        sections, remarks, folded = of_results(table), notes(table), of_results(table, True)
    made_from = list(dict.fromkeys(s.title.partition(", d = ")[0] for s in sections))
    if artefact != "table_1":
        sections += of_frame(diagnoses.readable(diagnoses.diagnoses(records, table)))
    if made_from:
        title += f" ({'; '.join(made_from)})"
    return Shown(title, question, table, sections, remarks, folded)
