"""What the JSON files of the study look like, as tables of types and ranges, and the one way in
which they are read.

A *kind* is a function of a value that returns what is wrong with it, after the place where it is
(``.epochs[3].valid_loss is null, not a number``); empty if nothing is. None of them imports torch.
"""

import json
import math
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from qlstm.errors import brief
from qlstm.study.tasks import PROFILES, TASKS

Kind = Callable[[Any], str]

SCHEMA = 4
"""Changes when a record gets other fields; records of another schema are not read."""
LARGEST_FILE = 16 * 2**20
"""Bytes of a file that are read at most: 50 times those of the largest record so far."""
MAX = 1.7976931348623157e308
"""The largest float: what is beyond it, or NaN, is no number of a record."""


class Range(NamedTuple):
    """The numbers that a setting may have.

    Attributes:
        kind: ``int`` for whole numbers, ``float`` for any.
        least, most: the ends.
        open: whether ``least`` itself is left out.
    """

    kind: type
    least: float = 0
    most: float = MAX
    open: bool = False

    def __contains__(self, value: Any) -> bool:
        return (type(value) in (int, self.kind) and self.least <= value <= self.most
                and not (self.open and value == self.least))

    def __str__(self) -> str:
        words = "a whole number" if self.kind is int else "a number"
        return words + (f" above {self.least}" if self.open else f" of {self.least} or more")


RANGES = {
    "hidden_size": Range(int, 1, 10**6), "num_layers": Range(int, 1, 100),
    "steps": Range(int, 1, 10**6), "batch_size": Range(int, 1, 10**6),
    "epochs": Range(int, 1, 10_000), "max_train": Range(int, 0, 10**12),
    "learning_rate": Range(float, open=True), "lr_decay": Range(float, open=True),
    "min_learning_rate": Range(float), "clip_norm": Range(float), "dropout": Range(float),
    "initial_gain": Range(float), "state_noise": Range(float),
    "biases": Range(int, 1), "seed": Range(int, 0, 2**32 - 1)}
"""The settings of a run that are numbers."""
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,4096}")
"""A text in one line that can be written as UTF-8."""


def one_of(*values: Any) -> Kind:
    """One of the ``values``."""
    def fault(value):
        known = any(type(value) is type(one) and value == one for one in values)
        return "" if known else f" is {brief(value)}, not {' or '.join(map(brief, values))}"
    return fault


def number(least: float = 0, most: float = MAX, kind: type = float) -> Kind:
    """A number from ``least`` to ``most``; ``kind``: as in :class:`Range`."""
    words = "a whole number" if kind is int else "a number"
    within = Range(kind, least, most)
    return lambda value: "" if value in within else (
        f" is {brief(value)}, not {words} from {least:g} to {most:g}")


def text(pattern: str | re.Pattern = PRINTABLE) -> Kind:
    """A text that matches a ``pattern`` as a whole."""
    def fault(value):
        if type(value) is str and re.fullmatch(pattern, value):
            return ""
        return f" is {brief(value)}, not a {'' if pattern is PRINTABLE else 'fitting '}text"
    return fault


def maybe(kind: Kind) -> Kind:
    """None, or of the ``kind``."""
    return lambda value: "" if value is None else kind(value)


def each(kind: Kind, least: int = 0, most: float = math.inf) -> Kind:
    """A list of values of a ``kind``, ``least`` to ``most`` of them."""
    def fault(value):
        if type(value) is not list:
            return f" is {brief(value)}, not a list"
        if not least <= len(value) <= most:
            return f" has {len(value)} entries, not {least}{f' to {most}' * (most > least)}"
        return next((f"[{k}]{why}" for k, one in enumerate(value) if (why := kind(one))), "")
    return fault


def table(fields: dict[str, Kind], optional: dict[str, Kind] | None = None) -> Kind:
    """A table with all of the ``fields``, some of the ``optional`` ones, and no other."""
    kinds = fields | (optional or {})

    def fault(value):
        if type(value) is not dict:
            return f" is {brief(value)}, not a table"
        for name in fields:
            if name not in value:
                return f" has no {name}"
        for name in value:
            if name not in kinds:
                return f" has an unknown field {brief(name)}"
        return next((f".{name}{why}" for name, one in value.items()
                     if (why := kinds[name](one))), "")
    return fault


def by_name(kind: Kind, name: Kind) -> Kind:
    """A table of values of one ``kind``, whose names are of the kind ``name``."""
    def fault(value):
        if type(value) is not dict:
            return f" is {brief(value)}, not a table"
        for key, one in value.items():
            if why := name(key):
                return f" has a name that{why}"
            if why := kind(one):
                return f"[{brief(key)}]{why}"
        return ""
    return fault


flag = one_of(True, False)
sha256 = text(re.compile(r"[0-9a-f]{64}"))
count = number(1, 10**12, int)
measure = maybe(number())  # None: it left the range of a float
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
_STEPS = each(count, 1)
_MOMENT = one_of("initial", "epoch 1", "best")
_SAMPLES = each(each(measure, 1), 1)  # a number a step, a list a sample
TRACES = table({
    "gradient_norms": by_name(
        table({"steps": _STEPS, "training": _SAMPLES}, {"last_step": _SAMPLES}), _MOMENT),
    "propositions": by_name(maybe(table({
        "proposition": one_of("GRU", *PROPOSITIONS.values()), "steps": _STEPS,
        "ratio": number(), "median_ratio": number(),
        "lambda_1": each(measure, 1), "lambda_2": each(measure, 1)})), _MOMENT)})
FIELDS: dict[str, Kind] = {
    "schema": one_of(SCHEMA), "run_id": text(re.compile(r"[\w.=-]{1,255}")), "config": CONFIG,
    "config_sha256": sha256,
    "data": table({"sha256": sha256, "reduced": flag,
                   "sizes": table({"train": count, "valid": count, "test": count})}),
    "metric": one_of(*METRICS.values()), "test_metric": maybe(number()),
    "valid_metric": maybe(number()), "best_epoch": maybe(count), "diverged": flag,
    "size_kb": maybe(number()), "packed_bytes": maybe(count), "seconds": number(),
    "epochs": each(lambda _: "", 2), "traces": TRACES, "recipe": number(0, 1000, int),
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
         | {"ms": number(), "memory_mb": measure, "ratio": number()}))},
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


def parse(content: bytes) -> Any:
    """The value that JSON ``content`` stands for; ``ValueError`` for what is no strict JSON in
    UTF-8: NaN, a name twice in one table, or tables in tables without end."""
    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the field {brief(twice)} stands there twice")
        return found

    def refuse(constant):
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(content.decode(), object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ValueError("lists or tables are nested too deeply") from None


def read(path: Path) -> Any:
    """What the JSON file at ``path`` contains; ``OSError`` or ``ValueError`` where it is none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file")
    if found.st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE >> 20} MB")
    return parse(path.read_bytes())


def read_as(kind: Kind, path: Path) -> Any:
    """What the JSON file at ``path`` contains, as :func:`read`; ``ValueError`` too where that is
    not of the ``kind``."""
    value = read(path)
    if why := kind(value):
        raise ValueError(why.strip().removeprefix("."))
    return value


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
    metric, images = METRICS[config["task"]], config["task"] == "sequential_image"
    own = ":" in config["quantizer"] + config["normalizer"]
    yield not re.fullmatch(_named(config), record["run_id"]) and (
        f".run_id is {brief(record['run_id'])}, no name of a run with its settings")
    yield record["metric"] != metric and f".metric is {record['metric']}, not {metric}"
    first, trained, diverged = _epochs(config)
    for k, epoch in enumerate(epochs):
        last = k == len(epochs) - 1 and type(epoch) is dict and "diverged" in epoch
        yield (why := (diverged if last else trained if k else first)(epoch)) and (
            f".epochs[{k}]{why}")
        yield epoch["epoch"] != k and f".epochs[{k}].epoch is {epoch['epoch']}"
        for what in ("alpha", "gains"):
            yield (epoch[what] is None) != (epochs[0][what] is None) and (
                f".epochs[{k}].{what} is not as in the first epoch")
    yield any(None in layer for layer in epochs[0]["alpha"] or []) and ".epochs[0].alpha has a null"
    yield "diverged" in epochs[-1] and not record["diverged"] and (
        ".diverged is false, but its last epoch diverged")
    for what in ("test_metric", "valid_metric", "best_epoch"):
        yield (record[what] is None) != record["diverged"] and (
            f".{what} is {brief(record[what])}, and diverged {brief(record['diverged'])}")
    yield (record["best_epoch"] or 0) >= len(epochs) and (
        f".best_epoch is {record['best_epoch']} of {len(epochs) - 1}")
    yield metric == "accuracy" and (record["test_metric"] or 0) > 100 and (
        ".test_metric is above 100 %")
    for what in ("size_kb", "packed_bytes"):
        yield record[what] is None and not own and f".{what} is null"
    norms, bounds = traces["gradient_norms"], traces["propositions"]
    yield (not norms or norms.keys() != bounds.keys()) and (
        ".traces has no moments, or others of gradient_norms than of propositions")
    for moment in norms:
        place, bound = f".traces.gradient_norms[{brief(moment)}]", bounds[moment]
        yield ("last_step" in norms[moment]) == images and (
            f"{place} has {'a' if images else 'no'} last_step")
        yield (why := _uneven(norms[moment], config["steps"])) and place + why
        yield bound is None and not own and config["quantizer"] not in ("sbn", "stn") and (
            f".traces.propositions[{brief(moment)}] is null")
        proposition = PROPOSITIONS.get(config["normalizer"]) if config["cell"] == "lstm" else "GRU"
        yield bound and bound["proposition"] != proposition and (
            f".traces.propositions[{brief(moment)}].proposition is {bound['proposition']}")
        yield bound and (why := _uneven(bound, config["steps"])) and (
            f".traces.propositions[{brief(moment)}]{why}")


def _epochs(config: dict[str, Any]) -> tuple[Kind, Kind, Kind]:
    """The kinds of a run's first epoch, which is before training, of the others, and of one that
    diverged."""
    gates, layers = {"lstm": 4, "gru": 3}[config["cell"]], config["num_layers"]
    gate = each(measure, gates, gates)
    layer = each(gate, layers, layers)
    own = ":" in config["quantizer"]
    alpha = each(each(measure, 1), layers, layers) if own else layer
    gains = table({"g": layer}, {"sigma": layer})
    side, lambdas = {"norms": gate}, {"lambda_1": measure, "lambda_2": measure}
    spectral = table({"before": table(side, lambdas),
                      "after": table(side, lambdas | {"bounds": gate})})
    weights = {
        "epoch": number(0, 10**6, int),
        "alpha": alpha if config["quantizer"] in SCALED else maybe(alpha),
        "gains": gains if config["normalizer"] in [*PROPOSITIONS][1:] else maybe(gains),
        "spectral": spectral}
    rate = {"learning_rate": number()}
    results = {name: number() for name in ("train_loss", "valid_loss", "valid_metric")}
    return (table(weights), table(weights | rate | results),
            table(weights | rate | {"diverged": one_of(True), "spectral": maybe(spectral)}))


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
        return f".steps are not in order, or beyond {most}"
    for what in ("training", "last_step", "lambda_1", "lambda_2"):
        values = found.get(what, steps)
        for line in values if isinstance(values[0], list) else [values]:
            if len(line) != len(steps):
                return f".{what} has {len(line)} values for {len(steps)} steps"
    return ""
