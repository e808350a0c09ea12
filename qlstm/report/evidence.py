"""The records of a profile as the claims of the paper read them, and what they answer."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from qlstm.report import frames, verdicts
from qlstm.report.statistics import over_seeds
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.profiles import VARIANTS, defaults

EXPLODES = 1e4
"""A gradient explodes if it grows by more than this factor from the last time step back to the
first.

It is the growth over all steps that counts, not a rate: 1.3 % a step is harmless over the 35 steps
of a text and a factor of 25,000 over the 784 pixels of an image. Every task here clips the norm of
the gradient, so that the sum over steps is scaled to a fixed length: past this factor what the last
steps have to teach makes less than a ten-thousandth of an update, and is lost. Over the 100 steps
of the paper's character models it is 10 % a step.

This was changed on 2026-11-26, after reduced runs of words and images and the first runs at the
paper's scale (words) had been looked at. Until then it was a rate, 1.1 a step, written before the
first run was looked at, which called a factor of 26 over the 35 steps of words an explosion and one
of 20,000 over 784 pixels none. For characters the two are nearly the same; for words the new one
asks for more growth, for images for less. Claims on training ask for it at initialization since
that day; until then they asked for nothing."""
SMALLEST = 100
"""Hidden units of the paper's smallest network: how fast a gradient grows depends on the size."""
GUESSING = 10.0
"""Accuracy of guessing one of ten classes, in percent."""
BASE = ("full_precision", "none")

EXPLODING = (f"the gradient of the network with these weights and no normalization grows more than "
             f"{EXPLODES:,.0f} times over all steps at initialization; full precision has not "
             f"diverged and, on images, has learned (is more than {verdicts.FAILS_POINTS:.0f} "
             f"points above guessing); below the paper's scale, the answer would stand after as "
             f"long a training again at its last pace")
LARGE = f"at least {SMALLEST} hidden units, the paper's smallest network"
OTHERWISE_EXPLODING = f"without normalization it explodes; {LARGE}"
CHARACTERS = "characters, as in the figure"
ONE_LEARNED = (f"at least one of the others is more than {verdicts.FAILS_POINTS:.0f} points above "
               f"guessing")
"""The conditions of claims, in words."""


class Answer(NamedTuple):
    """What the records of one setting say on a claim.

    Attributes:
        setting: its label.
        paper_scale: whether it is at the paper's scale.
        holds: whether the claim holds there; None: it is not judged.
        evidence: the numbers, in words.
        because: why it is not judged.
    """

    setting: str
    paper_scale: bool
    holds: bool | None
    evidence: str
    because: str = ""


Answers = Iterator[Answer]


class Setting(NamedTuple):
    """The results of one setting.

    Attributes:
        label: its name.
        paper_scale: whether it is at the paper's scale.
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        means: mean test metric over seeds by (quantizer, normalizer); NaN: diverged.
        curves: best validation metric so far by epoch, mean over seeds, of each of these networks.
        size_kb: size of each.
        growth: by quantizer, how much the gradient of the network without normalization grows over
            all steps at initialization (the least of its seeds).
    """

    label: str
    paper_scale: bool
    metric: str
    means: dict[tuple[str, str], float]
    curves: dict[tuple[str, str], list[float]]
    size_kb: dict[tuple[str, str], float]
    growth: dict[str, float]

    def told(self, *row: str) -> str:
        """The result of a ``row`` (quantizer, normalizer), in words."""
        return with_unit(self.metric, self.means[row])

    def failed(self, row: tuple[str, str]) -> bool | None:
        """Whether a ``row`` (quantizer, normalizer) failed to train by full precision without
        normalization; None: that is open (rule 5 of :mod:`qlstm.report.verdicts`)."""
        if self.paper_scale:
            return verdicts.fails(self.metric, self.means[row], self.means[BASE])
        ours, base = ((self.means[key], self.curves[key]) for key in (row, BASE))
        return verdicts.stands(self.metric, ours, base)

    def better(self, row: tuple[str, str], other: tuple[str, str]) -> bool:
        """Whether the result of a ``row`` is better than that of the ``other``; a diverged one
        never is."""
        a, b = self.means[row], self.means[other]
        return not np.isnan(a) and not (a <= b if self.metric == "accuracy" else a >= b)

    def outside(self, quantizer: str) -> str:
        """Why the setting is outside the conditions of a claim on training with a ``quantizer``.

        "" if it is within them: full precision did not diverge and, on images, learned; and the
        gradient of the quantized, unnormalized network explodes at initialization
        (:data:`EXPLODES`).
        """
        if np.isnan(self.means[BASE]):
            return "full precision diverged"
        if self.metric == "accuracy" and not learned(self.means[BASE]):
            return f"full precision did not learn ({self.told(*BASE)})"
        growth = self.growth.get(quantizer, np.nan)
        if np.isnan(growth):
            return "no trace of its gradient at initialization"
        if not growth > EXPLODES:
            return f"its gradient does not explode at initialization ({times(growth)})"
        return ""


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
                          self._curves(name, metric), {row: r.size_kb for row, r in runs.items()},
                          self._growth_at_first(name))

    def _curves(self, name: str, metric: str) -> dict[tuple[str, str], list[float]]:
        epochs = self.epochs[(self.epochs["label"] == name) & (self.epochs["epoch"] > 0)]
        curves = {}
        for row, runs in epochs.groupby(["quantizer", "normalizer"], sort=False):
            by_seed = runs.pivot_table("valid_metric", "epoch", "seed", aggfunc="first",
                                       dropna=False).astype(float)
            best = by_seed.cummax() if metric == "accuracy" else by_seed.cummin()
            curves[row] = best.ffill().mean(axis=1).tolist()
        return curves

    def _growth_at_first(self, name: str) -> dict[str, float]:
        first = self.gradients[(self.gradients["label"] == name)
                               & (self.gradients["normalizer"] == "none")
                               & (self.gradients["moment"] == "initial")]
        return first.groupby("quantizer")["growth"].min().to_dict()

    def growth(self, quantizer: str, normalizers: list[str], moment: str | None = None, **wanted
               ) -> Iterator[tuple[str, ExperimentConfig, pd.Series]]:
        """The largest growth of the gradient over all steps, of language models.

        Args:
            quantizer: of the networks looked at.
            normalizers: of the networks looked at.
            moment: of their training; None: any.
            wanted: other settings that they must have.

        Yields:
            Of each setting: its label, the configuration of one of its runs, and growth by
            normalizer (over moments and seeds).
        """
        chosen = self.gradients[(self.gradients["quantizer"] == quantizer)
                                & self.gradients["normalizer"].isin(normalizers)
                                & (self.gradients["moment"].eq(moment) | (moment is None))]
        fits = [c.task != "sequential_image"
                and all(getattr(c, name) == value for name, value in wanted.items())
                for c in chosen["config"]]
        chosen = chosen[np.array(fits, dtype=bool)].dropna(subset=["growth"])
        for name, group in chosen.groupby("label", sort=False):
            yield name, group["config"].iloc[0], group.groupby(
                "normalizer", sort=False)["growth"].max()


def of_papers_size(config: ExperimentConfig) -> bool:
    """Whether network and minibatch of a run with this ``config`` have the paper's sizes: what a
    gradient's growth depends on first."""
    usual = defaults("paper", config.task, config.dataset) | VARIANTS.get(config.variant, {}).get(
        "paper", {})
    return all(getattr(config, name) == usual[name]
               for name in ("hidden_size", "num_layers", "steps", "batch_size"))


def learned(accuracy: float) -> bool:
    """Whether an ``accuracy``, in percent, is clearly above that of guessing; NaN: it is not."""
    return accuracy > GUESSING + verdicts.FAILS_POINTS


def too_small(config: ExperimentConfig) -> str:
    """Why a network of this ``config`` says nothing on a gradient's growth; "" if it does."""
    return f"only {config.hidden_size} hidden units" if config.hidden_size < SMALLEST else ""


def with_unit(metric: str, value: float) -> str:
    """A ``value`` of a ``metric`` with its unit; NaN: diverged.

    >>> with_unit("ppl", 87.612)
    'PPL 87.6'
    """
    if np.isnan(value):
        return "diverged"
    return {"bpc": f"{value:.2f} BPC", "ppl": f"PPL {value:.1f}", "accuracy": f"{value:.1f} %"}[
        metric]


def times(growth: float) -> str:
    """A factor of growth as people read it.

    >>> times(2.2e11), times(1.9634)
    ('×2e+11', '×1.96')
    """
    return f"×{growth:.0e}" if growth >= 1e4 or growth < 0.01 else f"×{growth:.3g}"
