"""From run records to pandas DataFrames: a row a run, a moment or an epoch.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
``artefact``: the name of a table or figure, as in :data:`qlstm.study.grid.ARTEFACTS`.

The columns of each frame are the fields of the dataclass before it. Common to them are ``label``
(the setting's name, :func:`qlstm.report.names.label`; only runs of one label may be compared),
``quantizer``, ``normalizer``, ``seed`` and ``config``, the
:class:`~qlstm.study.config.ExperimentConfig` itself.
"""

from dataclasses import dataclass, fields
from importlib.resources import files

import numpy as np
import pandas as pd

from qlstm import data
from qlstm.report.names import label
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.costs import updates
from qlstm.study.grid import ARTEFACTS, FROM_ALL, Panel
from qlstm.study.profiles import PAPER_DATASETS
from qlstm.study.tasks import TASKS

OVERFLOWN = 1e300
"""What :func:`qlstm.study.traces.propositions` gives where the square of a gradient overflows and
the bound does not yet."""


def as_frame(row_type: type, rows: list) -> pd.DataFrame:
    """A DataFrame of dataclass instances.

    Args:
        row_type: the dataclass; its fields are the columns, also where there is no row.
        rows: instances of it.
    """
    return pd.DataFrame([vars(row) for row in rows],
                        columns=[field.name for field in fields(row_type)])


def published() -> pd.DataFrame:
    """The numbers that the authors published (poster and appendix), a row a number.

    Returns:
        ``dataset``, ``hidden``, ``layers``, ``quantizer``, ``normalizer``, ``value`` (the test
        metric; NaN: not reported) and ``size_kb``.
    """
    with (files("qlstm.report") / "published_results.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def published_rows(config: ExperimentConfig) -> dict[tuple[str, str], tuple]:
    """The rows of :func:`published` of a ``config``'s data set and size, by quantizer and
    normalizer."""
    rows = published().query("dataset == @config.dataset and hidden == @config.hidden_size "
                             "and layers == @config.num_layers")
    return {(row.quantizer, row.normalizer): row for row in rows.itertuples()}


@dataclass
class Run:
    """A run: its settings, its test metric, its size and what it took.

    Attributes:
        updates: how long it was trained, as :func:`qlstm.study.costs.updates` counts them.
        device: the processor or GPU that it was trained on.
    """

    dataset: str
    task: str
    label: str
    paper_scale: bool
    quantizer: str
    normalizer: str
    seed: int
    metric: str
    test: float | None
    diverged: bool
    size_kb: float
    packed_kb: float
    seconds: float
    epochs: int
    updates: float
    device: str
    run_id: str
    config: ExperimentConfig


def frame(records: list[dict]) -> pd.DataFrame:
    """Records as a DataFrame, a :class:`Run` a row; runs on different data have other labels."""
    rows = []
    for record in records:
        config, epochs = ExperimentConfig.as_recorded(record["config"]), len(record["epochs"]) - 1
        rows.append(Run(
            dataset=config.dataset, task=config.task,
            label=label(config, record["data"]["sha256"]),
            paper_scale=config.at_paper_scale and not record["data"]["reduced"],
            quantizer=config.quantizer, normalizer=config.normalizer, seed=config.seed,
            metric=record["metric"], test=record["test_metric"], diverged=record["diverged"],
            size_kb=np.nan if record["size_kb"] is None else record["size_kb"],
            packed_kb=(record["packed_bytes"] or np.nan) / 1024,
            seconds=record["seconds"], epochs=epochs,
            updates=epochs * updates(config, record["data"]["sizes"]),
            device=record["environment"]["device"], run_id=record["run_id"],
            config=config))
    return as_frame(Run, rows)


def select(
        records: list[dict], artefact: str) -> list[tuple[Panel, str, dict[tuple[str, str], dict]]]:
    """The runs that a figure is made from.

    Of several settings the one at the paper's scale is taken, then the paper's data set, then the
    most complete; of several seeds the lowest.

    Returns:
        A triple a panel: the panel, its setting's label, and the record of each (quantizer,
        normalizer). Panels without any run are left out.

    Raises:
        LookupError: no panel has a run.
    """
    runs, chosen = frame(records), []
    by_id = {record["run_id"]: record for record in records}
    for panel in ARTEFACTS[artefact]:
        candidates = [
            (_merit(group, panel), name, group)
            for name, group in _of_panel(runs, panel).groupby("label", sort=False)]
        if not candidates:
            continue
        _, name, best = max(candidates, key=lambda candidate: candidate[0])
        best = best.sort_values("seed").drop_duplicates(["quantizer", "normalizer"])
        found = {(run.quantizer, run.normalizer): by_id[run.run_id] for run in best.itertuples()}
        chosen.append((panel, name, {row: found[row] for row in panel.rows if row in found}))
    if not chosen:
        raise LookupError(f"no run for {artefact} yet: make reproduce ONLY={artefact}")
    return chosen


def best_settings(records: list[dict], quantizers: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """The runs that tell most on each task, of usual LSTMs with some of the ``quantizers``.

    Preferred are, in this order, a setting that has BinaryConnect without normalization beside full
    precision, the paper's scale, the paper's data set, the one with most rows, a text of the user's
    own, the largest network, the longest training (in updates).

    Returns:
        A setting's label and its runs (as :func:`frame`) for each task that has any, in the order
        of :data:`qlstm.study.tasks.TASKS`.
    """
    runs = frame(records)
    usual = [run.quantizer in quantizers and run.config.cell == "lstm"
             and all(getattr(run.config, name) == run.config.usual(name) for name in SPECIAL)
             for run in runs.itertuples()]
    runs = runs[np.array(usual, dtype=bool)]
    chosen = []
    for task in TASKS:
        of_task = runs[runs["task"] == task]
        if len(of_task):
            chosen.append(max(of_task.groupby("label", sort=False), key=lambda g: _worth(g[1])))
    return chosen


def _worth(runs: pd.DataFrame) -> tuple:
    """By what a setting is preferred to another of its task; the larger is better."""
    rows = set(zip(runs["quantizer"], runs["normalizer"], strict=True))
    first = runs.iloc[0]
    return ({("full_precision", "none"), ("binary_connect", "none")} <= rows, first["paper_scale"],
            first["dataset"] in PAPER_DATASETS, len(rows), first["dataset"] not in data.CATALOGUE,
            first["config"].hidden_size, runs["updates"].max())


def _of_panel(runs: pd.DataFrame, panel: Panel) -> pd.DataFrame:
    fits = [(run.quantizer, run.normalizer) in panel.rows and panel.suits(run.config)
            for run in runs.itertuples()]
    return runs[np.array(fits, dtype=bool)]


def _merit(runs: pd.DataFrame, panel: Panel) -> tuple[bool, bool, int]:
    """By what the runs of one label are preferred to those of another; the larger is better."""
    named = runs["dataset"].iloc[0] == panel.dataset
    return (named and runs["paper_scale"].iloc[0], named,
            runs.groupby(["quantizer", "normalizer"]).ngroups)


def makeable(records: list[dict], artefact: str) -> bool:
    """Whether there is any run that the table or figure can be made from."""
    if artefact in FROM_ALL:
        return bool(records)
    try:
        select(records, artefact)
    except LookupError:
        return False
    return True


@dataclass
class Gradient:
    r"""How the gradient of a network grows at a moment of its training, beside the theory.

    Attributes:
        moment: ``initial``, ``epoch 1`` or ``best``.
        growth: $\mathrm{rate}^{T - 1}$, over all time steps.
        rate: growth a time step on the way back, the median over the recorded samples of
            $(\lVert \partial \xi_T / \partial h_1 \rVert / \lVert \partial \xi_T / \partial h_T
            \rVert)^{1 / (T - 1)}$, where $\xi_T$ is the loss of the last step.
        proposition: number of the one that bounds this network's gradient; None: none applies.
        ratio: largest left side over right side of that proposition: 1 or less where it holds.
            NaN: none applies, or a gradient's square left the range of 64 bits.
        lambda_1, lambda_2: medians of $\lambda_1$ and $\lambda_2$ over time steps (their roots
            where squared norms are bounded, in batch normalization).
        largest_lambda_1: its largest over time steps.
    """

    label: str
    quantizer: str
    normalizer: str
    seed: int
    moment: str
    growth: float
    rate: float
    proposition: str | None
    ratio: float
    lambda_1: float
    lambda_2: float
    largest_lambda_1: float
    config: ExperimentConfig


def gradients(records: list[dict]) -> pd.DataFrame:
    """How gradients grow: a :class:`Gradient` for each run and moment of training."""
    rows = []
    for record in records:
        config, traces = ExperimentConfig.as_recorded(record["config"]), record["traces"]
        name = label(config, record["data"]["sha256"])
        for moment, norms in traces["gradient_norms"].items():
            steps, lines = norms["steps"], norms.get("last_step", norms["training"])
            rate = pd.Series([_rate(steps, line) for line in lines]).median()
            bound = traces["propositions"].get(moment) or {}
            ratio = bound.get("ratio", OVERFLOWN)
            first, second = (_unsquared(config, bound.get(name, [np.nan]))
                             for name in ("lambda_1", "lambda_2"))
            rows.append(Gradient(
                name, config.quantizer, config.normalizer, config.seed, moment,
                growth=rate ** (steps[-1] - steps[0]), rate=rate,
                proposition=bound.get("proposition"), ratio=ratio if ratio < OVERFLOWN else np.nan,
                lambda_1=np.median(first), lambda_2=np.median(second),
                largest_lambda_1=np.max(first), config=config))
    return as_frame(Gradient, rows)


def _rate(steps: list[int], norms: list[float | None]) -> float:
    """Growth a time step on the way back, from the last step to the earliest with a norm that is
    neither 0 nor overflown."""
    values = np.array(norms, dtype=float)
    usable = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(usable) < 2 or usable[-1] != len(values) - 1:
        return np.nan
    return float((values[usable[0]] / values[-1]) ** (1 / (steps[-1] - steps[usable[0]])))


def _unsquared(config: ExperimentConfig, lambdas) -> np.ndarray:
    """The proposition on batch normalization speaks of squared norms: its factors compare with the
    others' as roots. A number that left the range, None, is NaN."""
    values = np.array(lambdas, dtype=float)
    return np.sqrt(values) if config.normalizer.startswith("batch") else values


@dataclass
class Epoch:
    r"""What is traced at the end of an epoch.

    Attributes:
        epoch: 0: before training.
        lambda_1_before, lambda_1_after: $\lambda_1$ of the network with its latent and with its
            quantized weights.
        g: $g_*$ of the recurrent matrices, the largest over gates; None without normalization.
    """

    label: str
    quantizer: str
    normalizer: str
    seed: int
    epoch: int
    valid_loss: float | None
    valid_metric: float | None
    lambda_1_before: float
    lambda_1_after: float
    g: float | None
    config: ExperimentConfig


def by_epoch(records: list[dict]) -> pd.DataFrame:
    """The history of training: an :class:`Epoch` for each run and epoch."""
    rows = []
    for record in records:
        config = ExperimentConfig.as_recorded(record["config"])
        name = label(config, record["data"]["sha256"])
        for epoch in record["epochs"]:
            spectral = epoch["spectral"] or {}
            before, after = (float(_unsquared(config, spectral.get(side, {}).get("lambda_1")))
                             for side in ("before", "after"))
            gains = epoch["gains"]["g"][-1] if epoch["gains"] else []
            rows.append(Epoch(
                name, config.quantizer, config.normalizer, config.seed, epoch["epoch"],
                epoch.get("valid_loss"), epoch.get("valid_metric"), before, after,
                g=max((g for g in gains if g is not None), default=None), config=config))
    return as_frame(Epoch, rows)
