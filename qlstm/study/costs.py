"""What a grid costs: hours of training by machine, from measured times of a training step.

Of this code on a machine they are those that ``make bench`` wrote to ``reports/bench/``, of the
authors' code those of ``step_times.csv``: a row a measurement, with ``machine``, ``task``,
``hidden``, ``layers``, ``steps``, ``batch``, ``quantized`` ("yes", "no" or "any"), ``normalizer``,
``ms`` of one update (forward, backward, optimizer) and its ``source``. Where there is a record of
such a run from the machine, its own seconds count instead.

Here ``configs`` (one: ``config``) are runs of a ``profile``; ``dataset`` and ``name`` are names, of
data and of a machine.
"""

import csv
import math
from collections.abc import Iterable
from importlib.resources import files as package_files
from typing import Any, NamedTuple

from qlstm import data
from qlstm.data import files
from qlstm.recurrence import BACKENDS
from qlstm.study import records
from qlstm.study.config import ExperimentConfig

SPENT_AFTER = 50
"""Epochs after which the rate of words is below its least: 35 to 55 in an independent
implementation."""
FORWARD_ALONE = 1 / 3
"""An evaluation's step beside a training step, which also goes backward."""


class Estimate(NamedTuple):
    """Hours of training, one run after the other, and how many of the runs have no measured step to
    tell by."""

    hours: float
    unknown: int


def step_times() -> dict[tuple, float]:
    """Seconds of an update by machine and kind of run (:func:`_kind`)."""
    times = {}
    with (package_files("qlstm.study") / "step_times.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sizes = [int(row[name]) for name in ("hidden", "layers", "steps", "batch")]
            for quantized in (
                    (True, False) if row["quantized"] == "any" else (row["quantized"] == "yes",)):
                kind = ("lstm", row["task"], *sizes, quantized, row["normalizer"])
                times[row["machine"], kind] = float(row["ms"]) / 1000
    return times | _benchmarks()


def _benchmarks() -> dict[tuple, float]:
    """The same from the records of ``make bench``, each by the fastest of our backends; full
    precision takes what its own row says, else a quantized one's."""
    times: dict[tuple, float] = {}
    for _, record in records.benchmarks():
        steps = [
            row for row in record["rows"] if row["part"] == "step" and row["backend"] in BACKENDS]
        for row in sorted(
                steps, key=lambda row: (row["quantizer"] == "full_precision", -row["ms"])):
            quantized = row["quantizer"] != "full_precision"
            for value in (True, False) if quantized else (False,):
                kind = ("lstm", row["task"], row["d"], 1, row["T"], row["N"], value,
                        row["normalizer"])
                times[machine(record), kind] = row["ms"] / 1000
    return times


def machine(record: dict[str, Any]) -> str:
    """The machine of a record, of a run or of ``make bench``: device and threads."""
    return f"{record['environment']['device']}, {record['environment']['threads']} threads"


def estimate(
    configs: Iterable[ExperimentConfig], name: str, found: Iterable[dict[str, Any]] = ()
) -> Estimate:
    """What the runs would take on a machine. ``found``: records; those of other machines say
    nothing.

    A network of several layers without a time of its own takes that of one layer as often as it has
    layers.
    """
    times, own = step_times(), _measured(found, name)
    hours, unknown = 0.0, 0
    for config in configs:
        kind = _kind(config)
        one_layer = (*kind[:3], 1, *kind[4:])
        seconds = (own.get(kind) or times.get((name, kind))
                   or config.num_layers * times.get((name, one_layer), 0.0))
        epochs = min(config.epochs, SPENT_AFTER) if config.min_learning_rate else config.epochs
        hours += epochs * updates(config) * seconds / 3600
        unknown += not seconds
    return Estimate(hours, unknown)


def updates(config: ExperimentConfig, sizes: dict[str, int] | None = None) -> float:
    """Updates of an epoch, its evaluation counted as the updates that take as long.

    ``sizes``: symbols or images of the parts, as a record has them; None: of the catalogue, or of
    the text.
    """
    sizes = sizes or _sizes(config)
    if config.task == "sequential_image":
        train, valid = (math.ceil(sizes["train"] / config.batch_size),
                        math.ceil(sizes["valid"] / 250))
    else:
        train, valid = (math.ceil((sizes[part] // streams - 1) / config.steps)
                        for part, streams in (("train", config.batch_size), ("valid", 64)))
    return max(train, 1) + FORWARD_ALONE * max(valid, 0)


def _sizes(config: ExperimentConfig) -> dict[str, int]:
    entry = data.CATALOGUE.get(config.dataset)
    counts = entry.counts if entry else None
    if counts is None:
        dataset = data.load_dataset(config.dataset, config.task)
        counts = [len(part) for part in (dataset.train, dataset.valid, dataset.test)]
    most = [config.max_train or math.inf] + 2 * [(config.max_train // 8) or math.inf]
    return {part: int(min(*pair))
            for part, *pair in zip(("train", "valid", "test"), counts, most, strict=True)}


def _kind(config: ExperimentConfig) -> tuple:
    """What the time of an update depends on."""
    sizes = (config.hidden_size, config.num_layers, config.steps, config.batch_size)
    return (config.cell, config.task, *sizes, config.quantizer != "full_precision",
            config.normalizer)


def _measured(found: Iterable[dict[str, Any]], name: str) -> dict[tuple, float]:
    """Seconds of an update in the records of a machine, everything else (evaluation, traces) shared
    out among them."""
    sums: dict[tuple, list[float]] = {}
    for record in found:
        epochs = len(record["epochs"]) - 1
        if machine(record) != name or record["diverged"] or not epochs:
            continue
        config = ExperimentConfig(**record["config"])
        seconds = record["seconds"] / epochs / updates(config, record["data"]["sizes"])
        sums.setdefault(_kind(config), []).append(seconds)
    return {kind: sum(values) / len(values) for kind, values in sums.items()}


def at_hand(dataset: str) -> bool:
    """Whether a data set needs no download; looks for its files only."""
    return dataset not in data.CATALOGUE or all(
        files.at_hand(file) for file in data.CATALOGUE[dataset].files)


def plan(configs: list[ExperimentConfig], profile: str) -> list[str]:
    """Lines for people: runs, those that have a record, data, and hours by machine for all and for
    what is left."""
    found = records.load_all(profile)
    done = {r["run_id"] for r in found if not records.outdated(r, r["config"], None)}
    left = [config for config in configs if config.run_id not in done]
    lines = [
        f"{profile}: {len(configs)} runs, {len(configs) - len(left)} have their record, {len(left)} to go"
    ]
    for name in dict.fromkeys(config.dataset for config in configs):
        entry = data.CATALOGUE.get(name)
        size = sum(file.size for file in entry.files) / 1e6 if entry else 0
        state = (
            "at hand" if at_hand(name) else f"not at hand, {size:.0f} MB: make data DATASETS={name}"
        )
        lines.append(f"data: {name}, {sum(c.dataset == name for c in configs)} runs, {state}")
    rows = []
    for name in dict.fromkeys([*(name for name, _ in step_times()), *map(machine, found)]):
        every, rest = estimate(configs, name, found), estimate(left, name, found)
        if every.unknown < len(configs):
            missing = (
                f", and {every.unknown} runs of sizes not measured there" if every.unknown else "")
            rows.append(f"  {name}: {every.hours:,.1f} all, {rest.hours:,.1f} to go{missing}")
    return [*lines, *(["hours of training, one run after the other:", *rows] if rows else [])]
