"""What the files of a run look like: its record, and what tells of it while it is trained.

It imports no torch.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qlstm.errors import brief
from qlstm.study.kinds import (
    MAX,
    Kind,
    Range,
    anything,
    by_name,
    each,
    exactly,
    maybe,
    number,
    one_of,
    table,
    text,
)
from qlstm.study.tasks import PROFILES, TASKS

SCHEMA = 4
"""Changes when a record gets other fields; records of another schema are not read."""
RANGES = {
    "hidden_size": Range(int, 1, 10**6), "num_layers": Range(int, 1, 100),
    "steps": Range(int, 1, 10**6), "batch_size": Range(int, 1, 10**6),
    "epochs": Range(int, 1, 10_000), "max_train": Range(int, 0, 10**12),
    "learning_rate": Range(float, open=True), "lr_decay": Range(float, open=True),
    "min_learning_rate": Range(float), "clip_norm": Range(float), "dropout": Range(float),
    "initial_gain": Range(float), "state_noise": Range(float),
    "biases": Range(int, 1), "seed": Range(int, 0, 2**32 - 1)}
"""The settings of a run that are numbers."""
flag = one_of(True, False)
sha256 = text(re.compile(r"[0-9a-f]{64}"))
count = number(1, 10**12, int)
measure = maybe(number())  # None: it left the range of a float
SAMPLES = 10
"""Samples of a minibatch whose gradients are recorded, as in the paper's figures."""
MOMENT = one_of("initial", "epoch 1", "best")
SCALED = ("bwn", "lab", "twn", "lat")
"""Quantizers whose scales each epoch has."""
PROPOSITIONS = {"none": "2.1", "weight": "3.1", "layer": "3.2", "batch_shared": "3.4",
                "batch_separate": "3.4"}
"""What bounds the gradient of an LSTM, by normalizer."""
METRICS = {task: spec.metric.name for task, spec in TASKS.items()}

CONFIG = table(
    {"profile": one_of(*PROFILES), "task": one_of(*TASKS), "dataset": text(),
     "cell": one_of("lstm", "gru"), "quantizer": text(), "normalizer": text(),
     "decay": one_of("all", "latent"), "permuted": flag, "carry_state": flag}
    | {setting: number(r.least, r.most, r.kind) for setting, r in RANGES.items()})
ENVIRONMENT = table(
    {key: text() for key in ("made_by", "python", "torch", "numpy", "system", "device", "backend",
                             "matmul_precision")} | {"commit": maybe(text()), "threads": count})
FIELDS: dict[str, Kind] = {
    "schema": one_of(SCHEMA), "run_id": text(re.compile(r"[\w.=-]{1,255}")), "config": CONFIG,
    "config_sha256": sha256,
    "data": table({"sha256": sha256, "reduced": flag,
                   "sizes": table({"train": count, "valid": count, "test": count})}),
    "metric": one_of(*METRICS.values()), "test_metric": maybe(number()),
    "valid_metric": maybe(number()), "best_epoch": maybe(count), "diverged": flag,
    "size_kb": maybe(number()), "packed_bytes": maybe(count), "seconds": number(),
    "epochs": each(anything, 2), "recipe": number(0, 1000, int),
    "traces": table({"gradient_norms": anything, "propositions": anything}),
    "environment": ENVIRONMENT, "checksum": sha256}
"""The fields of the record of a run, as far as each can be judged alone; see :func:`fault`."""
RECORD = table(FIELDS)
BENCHMARK = table(
    {"environment": ENVIRONMENT, "repeats": count,
     "peaks": table({"gflop_per_s": number(), "gb_per_s": number()}),
     "rows": each(table(
         {key: text() for key in ("part", "shape", "task", "backend", "quantizer", "normalizer",
                                  "pass")}
         | {key: count for key in ("T", "N", "d", "D")}
         | {"ms": number(), "memory_mb": measure, "ratio": number()},
         {"threads": maybe(count), "file_bytes": maybe(count)}))},
    {"side_by_side": each(table(
        {"shape": text(), "processes": count, "steps_per_s": number()}))})
"""What ``make bench`` writes."""
UNDERWAY = table({"epoch": count, "epochs": count, "updates": count, "share": number(0, 1),
                  "train_loss": number(-MAX)})
"""How far an epoch has come (:mod:`qlstm.study.underway`)."""
LAST = {"epoch": number(0, 10**6, int), "valid_metric": number(), "seconds_left": number()}
"""What is told of the last epoch of a run that is not finished."""
PLAN: dict[str, tuple[Kind, type]] = {
    "profile": (text(), str), "metrics": (by_name(text(), text()), dict),
    "runs": (by_name(CONFIG, text()), dict), "outdated": (by_name(text(), text()), dict),
    "failures": (by_name(text(re.compile(r".*", re.DOTALL)), text()), dict),
    **{key: (each(text()), list) for key in ("selected", "todo", "records", "unrendered",
                                             "artefacts", "lessons")}}
"""The fields of a plan (:mod:`qlstm.workflow.plan`), and what makes an empty one."""


def fault(record: Any) -> str:
    """What is wrong with the content of a record, its place first; empty if nothing is.

    Args:
        record: what :func:`read` returned.
    """
    why = RECORD(record)
    return (why or next(filter(None, _disagreements(record)), "")).strip().removeprefix(".")


def _disagreements(record: dict[str, Any]) -> Iterable[str | bool]:
    """What does not fit together, of a record each of whose values is possible; False: nothing."""
    config, epochs, traces = record["config"], record["epochs"], record["traces"]
    metric, own = METRICS[config["task"]], ":" in config["quantizer"] + config["normalizer"]
    yield not re.fullmatch(_named(config), record["run_id"]) and (
        f".run_id is {brief(record['run_id'])}, no name of a run with its settings")
    yield record["metric"] != metric and f".metric is {record['metric']}, not {metric}"
    first, trained, diverged = _epochs(config)
    for k, epoch in enumerate(epochs):
        last = k == len(epochs) - 1 and type(epoch) is dict and "diverged" in epoch
        yield (why := (diverged if last else trained if k else first)(epoch)) and (
            f".epochs[{k}]{why}")
        yield epoch["epoch"] != k and f".epochs[{k}].epoch is {epoch['epoch']}"
    yield any(None in gates for gates in epochs[0]["alpha"] or []) and ".epochs[0].alpha has a None"
    yield "diverged" in epochs[-1] and not record["diverged"] and (
        ".diverged is False, but its last epoch diverged")
    for what in ("test_metric", "valid_metric", "best_epoch"):
        yield (record[what] is None) != record["diverged"] and (
            f".{what} is {brief(record[what])}, and diverged {record['diverged']}")
    yield (record["best_epoch"] or 0) >= len(epochs) and (
        f".best_epoch is {record['best_epoch']} of {len(epochs) - 1}")
    yield metric == "accuracy" and (record["test_metric"] or 0) > 100 and (
        ".test_metric is above 100 %")
    for what in ("size_kb", "packed_bytes"):
        yield record[what] is None and not own and f".{what} is None"
    for name, kind in _traces(config).items():
        yield (why := by_name(kind, MOMENT)(traces[name])) and f".traces.{name}{why}"
    norms, bounds = traces.values()
    yield (not norms or norms.keys() != bounds.keys()) and (
        ".traces has no moments, or others of gradient_norms than of propositions")
    for found in filter(None, [*norms.values(), *bounds.values()]):
        yield (why := _uneven(found, config["steps"])) and f".traces: {why}"


def _applies(config: dict[str, Any]) -> bool | None:
    """Whether a proposition speaks of a run with these settings; None: that is not known."""
    if config["quantizer"] in ("sbn", "stn") or ":" in config["normalizer"]:
        return False
    return None if config["normalizer"] not in PROPOSITIONS or ":" in config["quantizer"] else True


def _if(condition: bool | None, kind: Kind) -> Kind:
    """A value of the ``kind`` or None, as the ``condition`` says; None: either."""
    return maybe(kind) if condition is None else kind if condition else one_of(None)


def _epochs(config: dict[str, Any]) -> tuple[Kind, Kind, Kind]:
    """The kinds of a run's first epoch, which is before training, of the others, and of one that
    diverged."""
    own = ":" in config["quantizer"]
    gate = exactly({"lstm": 4, "gru": 3}[config["cell"]], measure)
    layer = exactly(config["num_layers"], gate)
    alpha = exactly(config["num_layers"], each(measure, 1)) if own else layer
    gains = {"g": layer} | ({"sigma": layer} if config["normalizer"].startswith("batch") else {})
    lambdas = {"lambda_1": measure, "lambda_2": measure}
    sure, open_ = (lambdas, {}) if _applies(config) else ({}, lambdas)
    before = {"norms": gate} | sure
    after = before | ({} if config["quantizer"] == "full_precision" else {"bounds": gate})
    spectral = table({"before": table(before, open_), "after": table(after, open_)})
    weights = {
        "epoch": number(0, 10**6, int),
        "alpha": _if(None if own else config["quantizer"] in SCALED, alpha),
        "gains": _if(config["normalizer"] in [*PROPOSITIONS][1:], table(gains)),
        "spectral": spectral}
    rate = {"learning_rate": number()}
    results = {name: number() for name in ("train_loss", "valid_loss", "valid_metric")}
    return (table(weights), table(weights | rate | results),
            table(weights | rate | {"diverged": one_of(True), "spectral": maybe(spectral)}))


def _traces(config: dict[str, Any]) -> dict[str, Kind]:
    """The kinds of what a run's traces have for each moment."""
    coupled = config["normalizer"].startswith("batch") or config["quantizer"] in ("sbn", "stn")
    lines = 1 if coupled else min(SAMPLES, config["batch_size"])
    samples = {name: exactly(lines, each(measure, 1)) for name in (
        ("training",) if config["task"] == "sequential_image" else ("training", "last_step"))}
    name = "GRU" if config["cell"] == "gru" else PROPOSITIONS.get(config["normalizer"])
    steps, values = {"steps": each(count, 1)}, each(measure, 1)
    return {"gradient_norms": table(steps | samples),
            "propositions": _if(_applies(config), table(steps | {
                "proposition": one_of(name), "ratio": number(), "median_ratio": number(),
                "lambda_1": values, "lambda_2": values}))}


def _named(config: dict[str, Any]) -> str:
    """A pattern of the names that a run with these settings can have: those of a text of one's own
    have a digest after the name of its file."""
    dataset = Path(config["dataset"]).stem
    parts = [re.escape(re.sub(r"[^\w.=]+", ".", str(part))) for part in (
        dataset, config["quantizer"], config["normalizer"], f"seed{config['seed']}")]
    return rf"{parts[0]}([0-9a-f]{{6}})?-{'-'.join(parts[1:])}(-.*)?"


def _uneven(found: dict[str, Any], most: int) -> str:
    """What is wrong with the lists of a trace, which have a value for each of its ``steps``."""
    steps = found["steps"]
    if steps != sorted(set(steps)) or steps[-1] > most:
        return f"steps are not in order, or beyond {most}"
    for what in ("training", "last_step", "lambda_1", "lambda_2"):
        values = found.get(what, steps)
        for line in values if isinstance(values[0], list) else [values]:
            if len(line) != len(steps):
                return f"{what} has {len(line)} values for {len(steps)} steps"
    return ""
