"""The paper's grid as data: which runs each table and figure is made from. A row is (quantizer,
normalizer)."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.study.checks import check_number
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.profiles import PAPER_DATASETS, VARIANTS
from qlstm.study.tasks import PROFILES, TASKS

ALL_NORMALIZERS = list(NORMALIZERS)
TABLE_ROWS = [*[("full_precision", n) for n in ALL_NORMALIZERS], ("sbn", "batch_separate"),
              *[(q, n) for q in ("binary_connect", "bwn", "lab") for n in ALL_NORMALIZERS],
              ("alternating", "none"), ("stn", "batch_separate"),
              *[(q, n) for q in ("ter_connect", "twn", "lat") for n in ALL_NORMALIZERS]]
DEEP_ROWS = [(q, n) for q in ("full_precision", "binary_connect", "bwn", "ter_connect", "twn")
             for n in ALL_NORMALIZERS]
GRU_ROWS = [("full_precision", "none"),
            *[("binary_connect", n) for n in ("none", "weight", "layer", "batch_shared")]]


@dataclass(frozen=True)
class Panel:
    """A part of a table or figure: rows on one data set of the paper, of a variant's size, with
    other settings."""

    dataset: str
    rows: list[tuple[str, str]]
    variant: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task of the panel's data set."""
        return data.task_of(self.dataset)

    def overrides(self, profile: str) -> dict[str, Any]:
        """Settings that differ from the profile's."""
        return VARIANTS.get(self.variant, {}).get(profile, {}) | self.settings

    def suits(self, config: ExperimentConfig) -> bool:
        """Whether the run of a ``config`` is of this panel: on its data set or one that stands in,
        in its size and settings; any row."""
        if config.task != self.task or config.variant != self.variant:
            return False
        if config.dataset in PAPER_DATASETS and config.dataset != self.dataset:
            return False
        wanted = {"cell": "lstm"} | {name: config.usual(name) for name in SPECIAL} | self.settings
        return all(getattr(config, name) == value for name, value in wanted.items())


def _gradient_rows(quantizer):
    return [("full_precision", "none"),
            *[(quantizer, n) for n in ("none", "weight", "layer", "batch_shared")]]


STATISTICS_EXPERIMENT = [
    Panel("mnist", [("binary_connect", n) for n in ("batch_shared", "batch_separate")],
          settings=dict(initial_gain=gain, state_noise=noise))
    for gain in (0.0, 0.1)
    for noise in (0.0, 0.1)
]
"""Why batch (shared) fails on sequential MNIST: statistics, initial gain (0: U(0, 1)) and state
noise, one by one."""

ARTEFACTS: dict[str, list[Panel]] = {
    "table_1": [
        Panel(
            "penn_char",
            [
                (q, "none")
                for q in ("full_precision", "binary_connect", "bwn", "lab", "ter_connect", "twn",
                          "lat")
            ],
        )
    ],
    "table_2": [Panel(name, TABLE_ROWS) for name in ("war_and_peace", "penn_char", "text8")],
    "table_3": [Panel("penn_word", TABLE_ROWS, variant) for variant in ("small", "large")],
    "table_4": [Panel("mnist", TABLE_ROWS)],
    "table_5": [Panel("penn_word", DEEP_ROWS, "deep")],
    "figure_01": [Panel("penn_char", _gradient_rows("binary_connect"))],
    "figure_02": [Panel("penn_word", _gradient_rows("binary_connect"), "small")],
    "figure_04": [Panel("penn_char", [("bwn", "none"), ("lab", "none")]),
                  Panel("penn_word", [("bwn", "none"), ("lab", "none")], "small")],
    "figure_05": [Panel("penn_char", [("binary_connect", n) for n in ALL_NORMALIZERS[1:]])],
    "figure_06": [Panel("war_and_peace", _gradient_rows("binary_connect"))],
    "figure_07": [Panel("war_and_peace", _gradient_rows("ter_connect"))],
    "figure_08": [Panel("penn_char", _gradient_rows("ter_connect"))],
    "figure_09": [Panel("penn_word", _gradient_rows("ter_connect"), "small")],
    "figure_10": [Panel("penn_word", _gradient_rows("binary_connect"), "large")],
    "figure_11": [Panel("penn_word", _gradient_rows("ter_connect"), "large")],
    "statistics": STATISTICS_EXPERIMENT,
    "gru": [Panel("penn_char", GRU_ROWS, settings=dict(cell="gru"))],
}
"""The paper's tables and figures, and what its reviewers asked for: the panels that each is made
from."""

FROM_ALL = ["theory", "reviewers"]
"""Reports made from whatever runs there are; they ask for none of their own."""

_CORE = [
    (q, n) for q in ("full_precision", "binary_connect") for n in ("none", "layer", "batch_shared")]
REDUCED_ROWS: dict[str, dict[str, list[tuple[str, str]]]] = {
    "smoke": {
        "char_lm": [*_CORE, ("binary_connect", "weight"), ("bwn", "none"), ("ter_connect", "none")],
        "small": [("full_precision", "none"), ("binary_connect", "none"),
                  ("binary_connect", "layer"), ("bwn", "none")],
        "large": [("full_precision", "none"), ("ter_connect", "none")],
        "deep": [("full_precision", "none"), ("binary_connect", "layer")],
        "sequential_image": [("full_precision", "none"), ("binary_connect", "none"),
                             ("binary_connect", "batch_shared")],
        "gru": [("binary_connect", "none"), ("binary_connect", "layer")],
    },
    "quick": {
        "char_lm": [*_CORE, ("full_precision", "weight"), ("binary_connect", "weight"),
                    ("binary_connect", "batch_separate"),
                    *[("ter_connect", n) for n in ("none", "weight", "layer", "batch_shared")],
                    ("bwn", "none"), ("lab", "none")],
        "small": [*_CORE, ("binary_connect", "weight"), ("ter_connect", "none"),
                  ("ter_connect", "layer"), ("bwn", "none")],
        "large": [*_CORE, ("ter_connect", "none"), ("ter_connect", "layer")],
        "deep": _CORE,
        "sequential_image": [*_CORE, ("bwn", "none"), ("twn", "none"),
                             ("binary_connect", "batch_separate")],
        "gru": [("full_precision", "none"), ("binary_connect", "none"),
                ("binary_connect", "layer")],
    },
}
"""The rows that the small profiles run, by variant, cell or task; the other rows are left to
``paper``."""


def _rows(panel: Panel, profile: str) -> list[tuple[str, str]]:
    """The rows of a panel that a profile runs."""
    if profile not in REDUCED_ROWS:
        return panel.rows
    reduced = REDUCED_ROWS[profile]
    kept = (
        reduced.get(panel.variant) or reduced.get(panel.settings.get("cell")) or reduced[panel.task]
    )
    return [row for row in panel.rows if row in kept]


def grid(profile: str = "quick", *, only: list[str] | None = None,
         datasets: list[str] | None = None, seeds: int = 1,
         epochs: int | None = None) -> list[ExperimentConfig]:
    """The runs behind the tables and figures ``only`` (None: all) on ``datasets``, for seeds 0 ..
    seeds-1.

    ``epochs``: instead of the profile's. ``datasets``: None takes the paper's in profile ``paper``
    and the embedded ones in the others; a data set that the paper does not have stands in for the
    paper's of the same task. Each run once, in the order of the tables. Raises ``ConfigError`` or
    ``qlstm.DataError`` for a name that does not exist.
    """
    if profile not in PROFILES:
        raise ConfigError(unknown("profile", profile, PROFILES))
    check_number("seeds", seeds, int, least=1)
    for name in only or []:
        if name not in ARTEFACTS and name not in FROM_ALL:
            raise ConfigError(unknown("table or figure", name, [*ARTEFACTS, *FROM_ALL]))
    for name in datasets or []:
        data.title(name)
    runs = {}
    for panel in [panel for name in only or ARTEFACTS for panel in ARTEFACTS.get(name, [])]:
        if datasets is not None:
            fitting = [name for name in datasets if (data.task_of(name) or "char_lm") == panel.task]
            wanted = [name for name in fitting
                      if name == panel.dataset or profile != "paper" or name not in PAPER_DATASETS]
        else:
            wanted = [panel.dataset if profile == "paper" else TASKS[panel.task].stand_in]
        for dataset in wanted:
            for quantizer, normalizer in _rows(panel, profile):
                for seed in range(seeds):
                    config = ExperimentConfig(profile=profile, dataset=dataset, quantizer=quantizer,
                                              seed=seed, normalizer=normalizer,
                                              **{"epochs": epochs} | panel.overrides(profile))
                    runs.setdefault(config.run_id, config)
    return list(runs.values())
