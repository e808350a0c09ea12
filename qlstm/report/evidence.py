"""The records of a profile as the claims of the paper read them, and what they answer."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from qlstm.report import frames
from qlstm.report.statistics import over_seeds
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.profiles import VARIANTS, defaults


class Answer(NamedTuple):
    """What the records of one setting say on a claim.

    Attributes:
        setting: its label.
        paper_scale: whether it is at the paper's scale.
        holds: whether the claim holds there; None: it cannot be judged.
        evidence: the numbers, in words.
    """

    setting: str
    paper_scale: bool
    holds: bool | None
    evidence: str


Answers = Iterator[Answer]


class Setting(NamedTuple):
    """The results of one setting.

    Attributes:
        label: its name.
        paper_scale: whether it is at the paper's scale.
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        means: mean test metric over seeds by (quantizer, normalizer); NaN: diverged.
        size_kb: size of each of these networks.
    """

    label: str
    paper_scale: bool
    metric: str
    means: dict[tuple[str, str], float]
    size_kb: dict[tuple[str, str], float]

    def told(self, *row: str) -> str:
        """The result of a ``row`` (quantizer, normalizer), in words."""
        return number(self.metric, self.means[row])


class View:
    """Records as the claims read them.

    Args:
        records: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
    """

    def __init__(self, records: list[dict]):
        self.records = records
        self.results = over_seeds(frames.frame(records))
        self.gradients = frames.gradients(records)
        self.epochs = frames.by_epoch(records)

    def settings(self, cell: str = "lstm", images: bool = False) -> Iterator[Setting]:
        """Each setting of language models with a ``cell``, and of ``images`` too if wanted;
        experiments on statistics are left out."""
        for name, group in self.results.groupby("label", sort=False):
            config, metric = group["config"].iloc[0], group["metric"].iloc[0]
            usual = all(getattr(c, field) == c.usual(field)
                        for c in group["config"] for field in SPECIAL)
            if config.cell != cell or not usual or (metric == "accuracy" and not images):
                continue
            runs = {(run.quantizer, run.normalizer): run for run in group.itertuples()}
            means = {row: np.nan if run.diverged else run.mean for row, run in runs.items()}
            yield Setting(name, bool(group["paper_scale"].iloc[0]), metric, means,
                          {row: run.size_kb for row, run in runs.items()})

    def growth(self, quantizer: str, normalizers: list[str], **wanted
               ) -> Iterator[tuple[str, bool, pd.Series]]:
        """The largest growth of the gradient a step, of language models.

        Args:
            quantizer: of the networks looked at.
            normalizers: of the networks looked at.
            wanted: other settings that they must have.

        Yields:
            Of each setting: its label, whether the sizes are the paper's, and growth by normalizer
            (over moments and seeds).
        """
        chosen = self.gradients[(self.gradients["quantizer"] == quantizer)
                                & self.gradients["normalizer"].isin(normalizers)]
        fits = [c.task != "sequential_image"
                and all(getattr(c, name) == value for name, value in wanted.items())
                for c in chosen["config"]]
        chosen = chosen[np.array(fits, dtype=bool)].dropna(subset=["rate"])
        for name, group in chosen.groupby("label", sort=False):
            rates = group.groupby("normalizer", sort=False)["rate"].max()
            yield name, _of_papers_size(group["config"].iloc[0]), rates


def _of_papers_size(config: ExperimentConfig) -> bool:
    """Whether the network and its minibatch have the paper's sizes: what a gradient's growth
    depends on first."""
    usual = defaults("paper", config.task, config.dataset) | VARIANTS.get(config.variant, {}).get(
        "paper", {})
    return all(getattr(config, name) == usual[name]
               for name in ("hidden_size", "num_layers", "steps", "batch_size"))


def number(metric: str, value: float) -> str:
    """A ``value`` of a ``metric`` with its unit; NaN: diverged.

    >>> number("ppl", 87.612)
    'PPL 87.6'
    """
    if np.isnan(value):
        return "diverged"
    return {"bpc": f"{value:.2f} BPC", "ppl": f"PPL {value:.1f}", "accuracy": f"{value:.1f} %"}[
        metric]
