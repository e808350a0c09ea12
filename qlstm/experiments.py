"""What is run: the configuration of one run, the profiles, and the paper's grid as data."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import find_quantizer

PROFILES: dict[str, dict[str, Any]] = {
    # minutes, to see that everything works
    "smoke": dict(hidden_size=32, steps=25, batch_size=16, epochs=2, max_symbols=16_000),
    # the default: the paper's finding, on the embedded text and two cores
    "quick": dict(hidden_size=128, steps=100, batch_size=64, epochs=4, max_symbols=400_000),
    # the settings of the paper's appendix
    "paper": dict(hidden_size=512, steps=100, batch_size=64, epochs=200, max_symbols=0),
}
"""Settings that a profile gives where a configuration leaves them out."""

COMMON = dict(task="char_lm", dataset="python_help", num_layers=1, learning_rate=0.002, lr_decay=0.98, clip_norm=5.0)
PAPER_DATASETS = {
    "war_and_peace": {},
    "penn_char": {},
    "text8": dict(hidden_size=2000, steps=180, batch_size=128, epochs=100, learning_rate=0.001, lr_decay=1.0),
}
"""The paper's data sets, and where their settings differ from the profile ``paper``."""

TASKS = ["char_lm"]
POSITIVE = ["hidden_size", "num_layers", "steps", "batch_size", "epochs"]


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The settings of one run. A field left out (or None) comes from the profile; all are checked on construction.

    >>> ExperimentConfig(quantizer="bnw")
    Traceback (most recent call last):
        ...
    qlstm.errors.ConfigError: unknown quantizer 'bnw': did you mean 'bwn'? Possible: full_precision, binary_connect, \
bwn, lab, ter_connect, twn, lat, sbn, stn, alternating, or your own as "module:name"
    """

    profile: str = "quick"
    """``smoke``, ``quick`` or ``paper``."""
    task: str | None = None
    """``char_lm``: character-level language modelling."""
    dataset: str | None = None
    """A name of ``qlstm.data.CATALOGUE`` or the path of a text file."""
    quantizer: str = "full_precision"
    """A name of ``qlstm.quantizers.QUANTIZERS`` or ``"module:function"``."""
    normalizer: str = "none"
    """A name of ``qlstm.normalizers.NORMALIZERS`` or ``"module:name"``."""
    hidden_size: int | None = None
    """d, units of a layer."""
    num_layers: int | None = None
    """Layers, one above the other."""
    steps: int | None = None
    """T, time steps of a minibatch: as far as the gradient reaches back."""
    batch_size: int | None = None
    """N, parallel streams of text."""
    epochs: int | None = None
    """Passes over the training text."""
    max_symbols: int | None = None
    """Train on the first so many symbols (and evaluate on an eighth of it); 0: on all."""
    learning_rate: float | None = None
    """Adam's first learning rate."""
    lr_decay: float | None = None
    """Factor on the learning rate after each epoch from the eleventh on; 1: constant."""
    clip_norm: float | None = None
    """Gradients are scaled down to at most this norm."""
    seed: int = 0
    """Of the initial weights and every later random number."""

    def __new__(cls, **settings):
        """Refuse a name that is no field, with a suggestion."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in fields:
                raise ConfigError(unknown("setting", name, fields))
        return super().__new__(cls)

    def __post_init__(self):
        if self.profile not in PROFILES:
            raise ConfigError(unknown("profile", self.profile, PROFILES))
        for name, value in defaults(self.profile, self.dataset).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.task not in TASKS:
            raise ConfigError(unknown("task", self.task, TASKS))
        data.title(self.dataset)
        find_quantizer(self.quantizer)
        if self.normalizer not in NORMALIZERS and ":" not in self.normalizer:
            raise ConfigError(unknown("normalizer", self.normalizer, NORMALIZERS, ', or your own as "module:name"'))
        for name in POSITIVE:
            _check_number(name, getattr(self, name), int, least=1)
        for name in ["seed", "max_symbols"]:
            _check_number(name, getattr(self, name), int, least=0)
        for name in ["learning_rate", "lr_decay", "clip_norm"]:
            _check_number(name, getattr(self, name), float, above=0)
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.quantizer in ("sbn", "stn") and self.normalizer != "batch_separate":
            raise ConfigError(f"quantizer '{self.quantizer}' is defined with normalizer 'batch_separate' only")
        if self.normalizer.startswith("batch") and self.batch_size < 2:
            raise ConfigError("batch normalization needs batch_size 2 or more")

    @property
    def run_id(self) -> str:
        """The name of the run's folder: what the run is, and what differs from its profile's settings."""
        dataset = self.dataset
        if dataset not in data.CATALOGUE:
            dataset = Path(dataset).stem + hashlib.sha256(str(Path(dataset).resolve()).encode()).hexdigest()[:6]
        differing = [f"{k}={getattr(self, k)}" for k, v in defaults(self.profile, self.dataset).items()
                     if k != "dataset" and getattr(self, k) != v]  # fmt: skip
        parts = [dataset, self.quantizer, self.normalizer, f"seed{self.seed}", *differing]
        return "-".join(re.sub(r"[^\w.=]+", ".", part) for part in parts)

    @property
    def at_paper_scale(self) -> bool:
        """Whether these are the paper's own settings on one of its data sets (whatever the seed)."""
        return self.dataset in PAPER_DATASETS and self.settings == defaults("paper", self.dataset)

    @property
    def settings(self) -> dict[str, Any]:
        """What is the same for all rows of a table: every field but profile, quantizer, normalizer and seed."""
        row = ("profile", "quantizer", "normalizer", "seed")
        return {key: value for key, value in self.as_dict().items() if key not in row}

    def as_dict(self) -> dict[str, Any]:
        """All fields, as they stand in the record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any], *others: str) -> "ExperimentConfig":
        """From the variables of a notebook: its ``parameters`` cell and what papermill injected after it.

        papermill lets an unknown parameter pass with a warning; here every number, text or list in the
        namespace must be a setting or one of ``others``. Raises ``ConfigError``.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        plain = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in ("In", "Out")
                 and isinstance(v, str | int | float | list | None)}  # fmt: skip
        for name in plain:
            if name not in fields and name not in others:
                raise ConfigError(unknown("parameter", name, [*fields, *others]))
        return cls(**{name: plain[name] for name in fields if name in plain})


def defaults(profile: str, dataset: str | None) -> dict[str, Any]:
    """The settings that a profile gives for a data set."""
    own = PAPER_DATASETS.get(dataset, {}) if profile == "paper" else {}
    return COMMON | PROFILES[profile] | own | ({} if dataset is None else {"dataset": dataset})


def _check_number(name: str, value: Any, kind: type, *, least: float = float("-inf"), above: float = float("-inf")):
    allowed = int if kind is int else (int, float)
    bound = f" of {least} or more" if least > float("-inf") else f" above {above}"
    words = {int: "a whole number", float: "a number"}[kind] + bound
    if isinstance(value, str):
        raise ConfigError(f"{name} must be {words}, got the text {value!r} (in YAML write 1.0e-3, not 1e-3)")
    if isinstance(value, bool) or not isinstance(value, allowed) or not least <= value < float("inf") or value <= above:
        raise ConfigError(f"{name} must be {words}, got {value!r}")


# The paper's grid. A row is (quantizer, normalizer).

ALL_NORMALIZERS = list(NORMALIZERS)
TABLE_ROWS = [
    *[("full_precision", n) for n in ALL_NORMALIZERS],
    ("sbn", "batch_separate"),
    *[(q, n) for q in ("binary_connect", "bwn", "lab") for n in ALL_NORMALIZERS],
    ("alternating", "none"),
    ("stn", "batch_separate"),
    *[(q, n) for q in ("ter_connect", "twn", "lat") for n in ALL_NORMALIZERS],
]


def _gradient_rows(quantizer):
    return [("full_precision", "none"), *[(quantizer, n) for n in ("none", "weight", "layer", "batch_shared")]]


ARTEFACTS: dict[str, dict[str, Any]] = {
    "table_2": dict(datasets=list(PAPER_DATASETS), rows=TABLE_ROWS),
    "figure_01": dict(datasets=["penn_char"], rows=_gradient_rows("binary_connect")),
    "figure_04": dict(datasets=["penn_char"], rows=[("bwn", "none"), ("lab", "none")]),
    "figure_05": dict(datasets=["penn_char"], rows=[("binary_connect", n) for n in ALL_NORMALIZERS[1:]]),
    "figure_06": dict(datasets=["war_and_peace"], rows=_gradient_rows("binary_connect")),
    "figure_07": dict(datasets=["war_and_peace"], rows=_gradient_rows("ter_connect")),
    "figure_08": dict(datasets=["penn_char"], rows=_gradient_rows("ter_connect")),
}
"""The paper's tables and figures: the data sets and rows each is made from."""

REDUCED_ROWS = {
    "smoke": [("full_precision", "none"), ("binary_connect", "none"), ("binary_connect", "weight"),
              ("binary_connect", "layer"), ("binary_connect", "batch_shared"), ("bwn", "none")],
    "quick": [*[(q, n) for q in ("full_precision", "binary_connect", "ter_connect") for n in ALL_NORMALIZERS],
              ("bwn", "none"), ("lab", "none")],
}  # fmt: skip
"""The rows that the small profiles run, on the embedded text; the other rows are left to ``paper``."""


def grid(
    profile: str = "quick",
    *,
    only: list[str] | None = None,
    datasets: list[str] | None = None,
    seeds: int = 1,
    epochs: int | None = None,
) -> list[ExperimentConfig]:
    """The runs behind the tables and figures ``only`` (None: all) on ``datasets``, for seeds 0 .. seeds-1.

    ``datasets``: None takes the paper's in profile ``paper`` and the embedded text in the others; a data set that the
    paper does not have stands in for the paper's. Each run once, in the order of the tables.
    Raises ``ConfigError`` for a name that does not exist.
    """
    if profile not in PROFILES:
        raise ConfigError(unknown("profile", profile, PROFILES))
    _check_number("seeds", seeds, int, least=1)
    for name in only or []:
        if name not in ARTEFACTS:
            raise ConfigError(unknown("table or figure", name, ARTEFACTS))
    for name in datasets or []:
        data.title(name)
    runs = {}
    for artefact in only or ARTEFACTS:
        wanted = ARTEFACTS[artefact]["datasets"]
        if datasets is not None:
            wanted = [name for name in datasets if name in wanted or profile != "paper" or name not in PAPER_DATASETS]
        elif profile != "paper":
            wanted = [COMMON["dataset"]]
        rows = ARTEFACTS[artefact]["rows"]
        if profile in REDUCED_ROWS:
            rows = [row for row in rows if row in REDUCED_ROWS[profile]]
        for dataset in wanted:
            for quantizer, normalizer in rows:
                for seed in range(seeds):
                    config = ExperimentConfig(profile=profile, dataset=dataset, quantizer=quantizer,
                                              normalizer=normalizer, seed=seed, epochs=epochs)  # fmt: skip
                    runs.setdefault(config.run_id, config)
    return list(runs.values())
