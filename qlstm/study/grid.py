"""The paper's grid as data: which runs each table and figure is made from."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.study.checks import check_number
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.kinds import Range
from qlstm.study.profiles import PAPER_DATASETS, VARIANTS
from qlstm.study.tasks import PROFILES, TASKS

Row = tuple[str, str]
"""A row of a table: the names of a quantizer and a normalizer."""

ALL_NORMALIZERS = list(NORMALIZERS)
PLAIN = ("full_precision", "none")


def _rows_of(quantizer: str, *normalizers: str) -> list[Row]:
    """A quantizer with each of the normalizers; without any named, with all there are."""
    return [(quantizer, normalizer) for normalizer in normalizers or ALL_NORMALIZERS]


TABLE_ROWS = [
    *_rows_of("full_precision"), ("sbn", "batch_separate"),
    *_rows_of("binary_connect"), *_rows_of("bwn"), *_rows_of("lab"),
    ("alternating", "none"), ("stn", "batch_separate"),
    *_rows_of("ter_connect"), *_rows_of("twn"), *_rows_of("lat")]
DEEP_ROWS = [row for quantizer in ("full_precision", "binary_connect", "bwn", "ter_connect", "twn")
             for row in _rows_of(quantizer)]
NORMALIZED_IN_FIGURES = ("none", "weight", "layer", "batch_shared")
BINARY_ROWS = [PLAIN, *_rows_of("binary_connect", *NORMALIZED_IN_FIGURES)]
TERNARY_ROWS = [PLAIN, *_rows_of("ter_connect", *NORMALIZED_IN_FIGURES)]
PUBLISHED_ROWS = [PLAIN, *_rows_of("binary_connect"), *_rows_of("ter_connect"),
                  ("sbn", "batch_separate"), ("stn", "batch_separate")]
"""The rows of Table 3 that the authors published for both sizes."""
UNNORMALIZED_ROWS = [(quantizer, "none") for quantizer in (
    "full_precision", "binary_connect", "bwn", "lab", "ter_connect", "twn", "lat")]


@dataclass(frozen=True)
class Panel:
    """A part of a table or figure: its rows on one data set of the paper.

    Attributes:
        dataset: the paper's data set; another of the same task can stand in for it.
        rows: the networks that are compared.
        variant: on words, the size of the model, a name of
            :data:`~qlstm.study.profiles.VARIANTS`.
        settings: further settings that differ from the profile's.
    """

    dataset: str
    rows: list[Row]
    variant: str = ""
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task of the panel's data set."""
        return data.task_of(self.dataset)

    def overrides(self, profile: str) -> dict[str, Any]:
        """The settings that its runs have instead of what their ``profile`` gives."""
        return VARIANTS.get(self.variant, {}).get(profile, {}) | self.settings

    def suits(self, config: ExperimentConfig) -> bool:
        """Whether a run belongs to this panel, be it one of its rows or a further one.

        Args:
            config: the settings of the run. They suit where the data set is the panel's or one
                that stands in for it, and size and special settings are the panel's.
        """
        if config.task != self.task or config.variant != self.variant:
            return False
        if config.dataset in PAPER_DATASETS and config.dataset != self.dataset:
            return False
        wanted = {"cell": "lstm"} | {name: config.usual(name) for name in SPECIAL} | self.settings
        return all(getattr(config, name) == value for name, value in wanted.items())


STATISTICS_EXPERIMENT = [
    Panel("mnist", _rows_of("binary_connect", "batch_shared", "batch_separate"),
          settings=dict(initial_gain=gain, state_noise=noise))
    for gain in (0.0, 0.1)
    for noise in (0.0, 0.1)
]
"""Why batch (shared) fails on sequential MNIST: statistics, initial gain (0: U(0, 1)) and state
noise, one by one."""

DIAGNOSES = [
    Panel("penn_word", [PLAIN], "small", dict(biases=2)),
    Panel("penn_word", [PLAIN], "small", dict(decay="latent")),
    Panel("penn_word", [PLAIN, ("binary_connect", "weight")], "small", dict(min_learning_rate=0.0))]
"""What could explain the rows of Table 3 that miss the paper, one thing at a time: the two biases
of the release's full precision, a rate that never falls in full precision (it falls for words in
the release, too), and training that goes on through all 120 epochs."""

ARTEFACTS: dict[str, list[Panel]] = {
    "table_1": [Panel("penn_char", UNNORMALIZED_ROWS)],
    "table_2": [Panel(name, TABLE_ROWS) for name in ("war_and_peace", "penn_char", "text8")],
    "table_3": [Panel("penn_word", TABLE_ROWS, variant) for variant in ("small", "large")],
    "table_4": [Panel("mnist", TABLE_ROWS)],
    "table_5": [Panel("penn_word", DEEP_ROWS, "deep")],
    "figure_01": [Panel("penn_char", BINARY_ROWS)],
    "figure_02": [Panel("penn_word", BINARY_ROWS, "small")],
    "figure_04": [Panel("penn_char", [("bwn", "none"), ("lab", "none")]),
                  Panel("penn_word", [("bwn", "none"), ("lab", "none")], "small")],
    "figure_05": [Panel("penn_char", _rows_of("binary_connect", *ALL_NORMALIZERS[1:]))],
    "figure_06": [Panel("war_and_peace", BINARY_ROWS)],
    "figure_07": [Panel("war_and_peace", TERNARY_ROWS)],
    "figure_08": [Panel("penn_char", TERNARY_ROWS)],
    "figure_09": [Panel("penn_word", TERNARY_ROWS, "small")],
    "figure_10": [Panel("penn_word", BINARY_ROWS, "large")],
    "figure_11": [Panel("penn_word", TERNARY_ROWS, "large")],
    "statistics": STATISTICS_EXPERIMENT,
    "gru": [Panel("penn_char", BINARY_ROWS, settings=dict(cell="gru"))],
    "diagnoses": DIAGNOSES,
}
"""The paper's tables and figures, what its reviewers asked for, and what diagnoses need: the
panels that each is made from."""

_SMALL = Panel("penn_word", [*PUBLISHED_ROWS, ("alternating", "none"),
                             *_rows_of("full_precision", *ALL_NORMALIZERS[1:])], "small")
MOST_WANTED: list[tuple[Panel, int]] = [
    (_SMALL, 0),
    (DIAGNOSES[0], 0),
    (Panel("war_and_peace", [
        row for quantizer in ("full_precision", "binary_connect", "ter_connect")
        for row in _rows_of(quantizer, *NORMALIZED_IN_FIGURES)]), 0),
    (Panel("penn_word", [*PUBLISHED_ROWS, *TABLE_ROWS], "large"), 0),
    *((panel, 0) for name in ("table_5", "table_4") for panel in ARTEFACTS[name]),
    (_SMALL, 1), (_SMALL, 2)]
"""What is to be trained first where time is short: panels, the most wanted first, and the seed of
their runs."""

FROM_ALL = ["theory", "reviewers"]
"""Reports made from whatever runs there are; they ask for none of their own."""

_CORE = [*_rows_of("full_precision", "none", "layer", "batch_shared"),
         *_rows_of("binary_connect", "none", "layer", "batch_shared")]
REDUCED_ROWS: dict[str, dict[str, list[Row]]] = {
    "smoke": {
        "char_lm": [*_CORE, ("binary_connect", "weight"), ("bwn", "none"), ("ter_connect", "none")],
        "small": [PLAIN, *_rows_of("binary_connect", "none", "layer"), ("bwn", "none")],
        "large": [PLAIN, ("ter_connect", "none")],
        "deep": [PLAIN, ("binary_connect", "layer")],
        "sequential_image": [PLAIN, *_rows_of("binary_connect", "none", "batch_shared")],
        "statistics": [("binary_connect", "batch_shared")],
        "gru": _rows_of("binary_connect", "none", "layer"),
        "diagnoses": [PLAIN],
    },
    "quick": {
        "char_lm": [*_rows_of("full_precision", "none", "layer"), *_rows_of("binary_connect"),
                    *_rows_of("ter_connect", "none", "weight", "layer"), ("bwn", "none")],
        "small": [*_rows_of("full_precision", "none", "layer"),
                  *_rows_of("binary_connect", *NORMALIZED_IN_FIGURES),
                  *_rows_of("ter_connect", "none", "layer")],
        "large": [],
        "deep": [],
        "sequential_image": [PLAIN, *_rows_of("binary_connect")],
        "statistics": [],
        "gru": [PLAIN, *_rows_of("binary_connect", "none", "layer")],
        "diagnoses": [],
    },
}
"""The rows that the small profiles run, by variant, cell or task; the other rows are left to
``paper``."""


def _rows(panel: Panel, profile: str) -> list[Row]:
    """The rows of a panel that a profile runs."""
    if profile not in REDUCED_ROWS:
        return panel.rows
    reduced = REDUCED_ROWS[profile]
    named = next((name for name in ("statistics", "diagnoses") if panel in ARTEFACTS[name]), None)
    kinds = (named, panel.settings.get("cell"), panel.variant, panel.task)
    kept = next(reduced[kind] for kind in kinds if kind in reduced)
    return [row for row in panel.rows if row in kept]


def _datasets(panel: Panel, profile: str, asked: list[str] | None) -> list[str]:
    """The data sets that a profile runs a panel on, of those that were asked for, if any were."""
    if asked is None:
        return [panel.dataset if profile == "paper" else TASKS[panel.task].stand_in]
    fitting = [name for name in asked if (data.task_of(name) or "char_lm") == panel.task]
    return [name for name in fitting
            if name == panel.dataset or profile != "paper" or name not in PAPER_DATASETS]


def grid(profile: str = "quick", *, only: list[str] | None = None,
         datasets: list[str] | None = None, seeds: int = 1,
         epochs: int | None = None) -> list[ExperimentConfig]:
    """The runs that tables and figures are made from.

    Args:
        profile: how much is trained, one of :data:`~qlstm.study.tasks.PROFILES`.
        only: names of tables and figures (:data:`ARTEFACTS`); None stands for all.
        datasets: names or paths of data sets. One that the paper does not have stands in for those
            of its task. None stands for the paper's in profile ``paper``, for the embedded ones
            in the others.
        seeds: how often each run is repeated, with the seeds 0 .. seeds - 1.
        epochs: passes over the training data, instead of the profile's.

    Returns:
        Each run once, in the order of the tables.

    Raises:
        ConfigError: a profile, table or figure, or a number that cannot be.
        DataError: an unknown data set.
    """
    if profile not in PROFILES:
        raise ConfigError(unknown("profile", profile, PROFILES))
    check_number("seeds", seeds, Range(int, 1))
    for name in only or []:
        if name not in ARTEFACTS and name not in FROM_ALL:
            raise ConfigError(unknown("table or figure", name, [*ARTEFACTS, *FROM_ALL]))
    for name in datasets or []:
        data.task_of(name)
    panels = [panel for name in only or ARTEFACTS for panel in ARTEFACTS.get(name, [])]
    return _each_once(config for panel in panels
                      for config in _runs(panel, profile, datasets, epochs, range(seeds)))


def no_runs(profile: str, only: list[str] | None) -> str:
    """Why a selection has no runs, as an error message.

    Args:
        profile: as in :func:`grid`.
        only: the tables and figures that were asked for.
    """
    others = [name for name in only or [] if name in ARTEFACTS and not grid(profile, only=[name])]
    if others:
        able = [f"PROFILE={name}" for name in PROFILES
                if all(grid(name, only=[other]) for other in others)]
        return f"profile {profile} has no runs for {', '.join(others)}; try {' or '.join(able)}"
    return ("this selection has no runs: the tables and figures asked for are not made from these "
            "data sets")


def most_wanted(profile: str = "paper", *, datasets: list[str] | None = None,
                epochs: int | None = None) -> list[ExperimentConfig]:
    """The runs of :data:`MOST_WANTED`, each once, in the order in which they are wanted.

    Args:
        profile: as in :func:`grid`; the small ones have the rows that they run, on the embedded
            data sets.
        datasets: as in :func:`grid`.
        epochs: as in :func:`grid`.

    Raises:
        ConfigError: an unknown profile, or a number of epochs that cannot be.
        DataError: an unknown data set.
    """
    return _each_once(config for panel, seed in MOST_WANTED
                      for config in _runs(panel, profile, datasets, epochs, [seed]))


def _each_once(configs: Iterable[ExperimentConfig]) -> list[ExperimentConfig]:
    return list({config.run_id: config for config in configs}.values())


def _runs(panel: Panel, profile: str, datasets: list[str] | None, epochs: int | None,
          seeds: Iterable[int]) -> Iterator[ExperimentConfig]:
    """The runs of a panel, row by row."""
    settings = {"profile": profile, "epochs": epochs} | panel.overrides(profile)
    for dataset in _datasets(panel, profile, datasets):
        for quantizer, normalizer in _rows(panel, profile):
            for seed in seeds:
                yield ExperimentConfig(dataset=dataset, quantizer=quantizer,
                                       normalizer=normalizer, seed=seed, **settings)
