"""What a grid costs: hours of training by machine, from measured times of a training step.

Of this code on a machine they are those that ``make bench`` wrote to ``reports/bench/``, of the
authors' code those of ``step_times.csv``: a row a measurement, with ``machine``, ``task``,
``hidden``, ``layers``, ``steps``, ``batch``, ``quantized`` ("yes", "no" or "any"), ``normalizer``,
``ms`` of one update (forward, backward, optimizer) and its ``source``. Where there is a record of
such a run from the machine, its own seconds count instead.

``configs``: the configurations of runs; ``config``: that of one.
"""

import csv
import math
import os
from collections.abc import Iterable, Sequence
from importlib.resources import files as package_files
from typing import Any, NamedTuple

from qlstm import data
from qlstm.data import files
from qlstm.recurrence import BACKENDS
from qlstm.study import records
from qlstm.study.config import ExperimentConfig
from qlstm.study.run_data import EVALUATION_IMAGES, EVALUATION_STREAMS

SPENT_AFTER = 42
"""Epochs after which the rate of words is below its least: 34 to 67 in fifteen runs of
Table 3, 42 on average (:func:`qlstm.study.optimization.rate_is_spent`)."""
NEXT = 5
"""Of the most wanted runs, so many are named."""
ANY = "any quantizer"
"""Stands for a quantizer in the time of a step that does not tell them apart."""
FORWARD_ALONE = 1 / 3
"""An evaluation's step beside a training step, which also goes backward."""


class Estimate(NamedTuple):
    """What runs take, one after the other.

    Attributes:
        hours: of those whose training step has been measured.
        unknown: how many of the runs it has not been measured for.
    """

    hours: float
    unknown: int


class Kind(NamedTuple):
    """What the time of a training step depends on, in the words of a configuration."""

    cell: str
    task: str
    hidden_size: int
    num_layers: int
    steps: int
    batch_size: int
    quantizer: str
    normalizer: str


def step_times() -> dict[tuple[str, Kind], float]:
    """The measured seconds of an update, by machine and kind of run: of the file
    ``step_times.csv`` and of ``make bench``."""
    times = {}
    with (package_files("qlstm.study") / "step_times.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            sizes = [int(row[name]) for name in ("hidden", "layers", "steps", "batch")]
            names = {"any": (ANY, "full_precision"), "yes": (ANY,), "no": ("full_precision",)}
            for quantizer in names[row["quantized"]]:
                kind = Kind("lstm", row["task"], *sizes, quantizer, row["normalizer"])
                times[row["machine"], kind] = float(row["ms"]) / 1000
    return times | _benchmarks()


def _benchmarks() -> dict[tuple[str, Kind], float]:
    """The same of ``make bench``, each by the fastest of our backends; full precision takes what
    its own row says, else a quantized one's."""
    times: dict[tuple[str, Kind], float] = {}
    for _, record in records.benchmarks():
        steps = [row for row in record["rows"]
                 if row["part"] == "step" and row["backend"] in BACKENDS]
        # a later row replaces an earlier one
        for row in sorted(
                steps, key=lambda row: (row["quantizer"] == "full_precision", -row["ms"])):
            for quantizer in {"full_precision", row["quantizer"], _any(row["quantizer"])}:
                kind = Kind("lstm", row["task"], row["d"], 1, row["T"], row["N"], quantizer,
                            row["normalizer"])
                times[machine(record), kind] = row["ms"] / 1000
    return times


def _any(quantizer: str) -> str:
    return quantizer if quantizer == "full_precision" else ANY


def machine(record: dict[str, Any]) -> str:
    """The machine that a ``record``, of a run or of ``make bench``, was made on: device and
    threads."""
    return f"{record['environment']['device']}, {record['environment']['threads']} threads"


def estimate(configs: Iterable[ExperimentConfig], name: str,
             found: Iterable[dict[str, Any]] = ()) -> Estimate:
    """Estimate what runs would take on a machine.

    A quantizer without a time of its own takes that of another, a network of several layers that of
    one layer as often as it has layers.

    Args:
        configs: the configurations of the runs.
        name: the machine, as :func:`machine` names it or ``step_times.csv`` does.
        found: records of runs, whose own seconds count more than a measured step; those of other
            machines say nothing.
    """
    # a later one replaces: records of any quantizer, then measured steps, then records of the same
    own = _measured(found, name)
    times = own | {kind: seconds for (where, kind), seconds in step_times().items()
                   if where == name}
    times |= {kind: seconds for kind, seconds in own.items() if kind.quantizer != ANY}

    def step(kind):
        like = kind._replace(quantizer=_any(kind.quantizer))
        return times.get(kind) or times.get(like, 0.0)

    hours, unknown = 0.0, 0
    for config in configs:
        kind = _kind(config)
        seconds = step(kind) or kind.num_layers * step(kind._replace(num_layers=1))
        ends = config.min_learning_rate and config.decay == "all"
        epochs = min(config.epochs, SPENT_AFTER) if ends else config.epochs
        hours += epochs * updates(config) * seconds / 3600
        unknown += not seconds
    return Estimate(hours, unknown)


def updates(config: ExperimentConfig, sizes: dict[str, int] | None = None) -> float:
    """The updates of an epoch, its evaluation counted as the updates that take as long.

    Args:
        config: the configuration of the run.
        sizes: symbols or images in the parts "train", "valid" and "test", as a record has them;
            None takes them from the catalogue, or from the text.
    """
    sizes = sizes or _sizes(config)
    if config.task == "sequential_image":
        train = math.ceil(sizes["train"] / config.batch_size)
        valid = math.ceil(sizes["valid"] / EVALUATION_IMAGES)
    else:
        train, valid = (
            math.ceil((sizes[part] // streams - 1) / config.steps)
            for part, streams in (("train", config.batch_size), ("valid", EVALUATION_STREAMS)))
    return max(train, 1) + FORWARD_ALONE * max(valid, 0)


def _sizes(config: ExperimentConfig) -> dict[str, int]:
    """Symbols or images of the three parts, as many as the run takes of them."""
    entry = data.CATALOGUE.get(config.dataset)
    counts = entry.counts if entry else None
    if counts is None:
        dataset = data.load_dataset(config.dataset, config.task)
        counts = [len(part) for part in (dataset.train, dataset.valid, dataset.test)]
    limits = [config.max_train or math.inf] + 2 * [(config.max_train // 8) or math.inf]
    return {part: int(min(count, limit)) for part, count, limit in zip(
        ("train", "valid", "test"), counts, limits, strict=True)}


def _kind(config: ExperimentConfig) -> Kind:
    return Kind(config.cell, config.task, config.hidden_size, config.num_layers, config.steps,
                config.batch_size, config.quantizer, config.normalizer)


def _measured(found: Iterable[dict[str, Any]], name: str) -> dict[Kind, float]:
    """Seconds of an update in the records of a machine, everything else (evaluation, traces) shared
    out among them."""
    seconds: dict[Kind, list[float]] = {}
    for record in found:
        epochs = len(record["epochs"]) - 1
        if machine(record) != name or record["diverged"] or not epochs:
            continue
        config = ExperimentConfig.as_recorded(record["config"])
        update = record["seconds"] / epochs / updates(config, record["data"]["sizes"])
        kind = _kind(config)
        for known in {kind, kind._replace(quantizer=_any(kind.quantizer))}:
            seconds.setdefault(known, []).append(update)
    return {kind: sum(values) / len(values) for kind, values in seconds.items()}


def at_hand(dataset: str) -> bool:
    """Whether the data set named ``dataset`` needs no download, and a text of one's own is still
    there; looks for its files only."""
    if dataset not in data.CATALOGUE:
        return os.path.isfile(dataset)
    return all(files.at_hand(file) for file in data.CATALOGUE[dataset].files)


def plan(configs: list[ExperimentConfig], profile: str,
         wanted: Sequence[ExperimentConfig] = ()) -> list[str]:
    """Say what training would take before it is started.

    Args:
        configs: the configurations of the runs.
        profile: the profile whose records tell which of them are done.
        wanted: the configurations of those to train first, in that order.

    Returns:
        Lines for people: how many runs are done and to go, which data is at hand, the hours on each
        machine for all runs and for those to go, and which of the wanted ones are next.
    """
    found = records.load_all(profile)
    done = {r["run_id"] for r in found if not records.outdated(r, r["config"], None)}
    sound = {r["run_id"] for r in found}
    refused = [config for config in configs if config.run_id not in sound
               and (records.run_directory(config) / "record.json").exists()]
    left = [config for config in configs if config.run_id not in done and config not in refused]
    lines = [f"{profile}: {len(configs)} runs, {len(configs) - len(left) - len(refused)} have "
             f"their record, {len(left)} to go"]
    if refused:
        lines.append(f"{len(refused)} runs have a record that is left out, as said above: they are "
                     "trained again when it is deleted")
    for name in dict.fromkeys(config.dataset for config in configs):
        runs, state = sum(config.dataset == name for config in configs), "at hand"
        if not at_hand(name):
            size = sum(file.size for file in data.CATALOGUE[name].files) / 1e6
            state = f"not at hand, {size:.0f} MB: make data DATASETS={name}"
        lines.append(f"data: {name}, {runs} runs, {state}")
    rows, machines = [], []
    for name in dict.fromkeys([*(name for name, _ in step_times()), *map(machine, found)]):
        every, rest = estimate(configs, name, found), estimate(left, name, found)
        if every.unknown < len(configs):
            machines.append(name)
            row = f"  {name}: {every.hours:,.1f} all, {rest.hours:,.1f} to go"
            if every.unknown:
                row += f", and {every.unknown} runs of sizes not measured there"
            rows.append(row)
    if rows:
        lines += ["hours of training, one run after the other:", *rows]
    return lines + (_next(wanted, done, machines, found) if wanted else [])


def _next(wanted: Sequence[ExperimentConfig], done: set[str], machines: list[str],
          found: list[dict[str, Any]]) -> list[str]:
    """How many of the wanted runs are done, and the next of them with their hours by machine."""
    left = [config for config in wanted if config.run_id not in done]
    lines = [f"most wanted: {len(wanted)} runs, {len(wanted) - len(left)} have their record"]
    if left:
        hours = ", with their hours on the machines above in that order" if machines else ""
        lines[0] += f"; next{hours}:"
    width = max((len(config.run_id) for config in left[:NEXT]), default=0)
    for config in left[:NEXT]:
        estimates = [estimate([config], name, found) for name in machines]
        texts = ["-" if unknown else f"{hours:.1f}" for hours, unknown in estimates]
        lines.append(f"  {config.run_id:{width}}" + "".join(f"{text:>7}" for text in texts))
    return lines
