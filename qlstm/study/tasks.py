r"""The three tasks of the paper, and the profiles, small to full, that each can be trained in.

What differs between the tasks stands here, once; other modules look it up in :data:`TASKS`.

>>> TASKS["word_lm"].metric.title, TASKS["word_lm"].unit, TASKS["word_lm"].stand_in
('PPL', 'word', 'python_help_words')
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qlstm.data import UNITS

PROFILES = ("smoke", "quick", "paper")
"""How much is trained: minutes, to see that everything works; the default, which shows the paper's
finding on embedded data and two cores; the settings of the paper's appendix."""


@dataclass(frozen=True)
class Metric:
    r"""What a task reports of a trained network.

    Attributes:
        name: what records call it.
        title: what tables and figures call it, with its unit.
        digits: digits after the point in tables, as many as the paper prints.
        less_is_better: whether the lower of two values is that of the better network.
        of: its value, a function of the mean cross-entropy in nats and of the share (0 to 1) of
            predictions that are right.
    """

    name: str
    title: str
    digits: int
    less_is_better: bool
    of: Callable[[float, float], float]


def _bits_per_character(loss: float, correct: float) -> float:
    r"""$\mathrm{BPC} = \mathcal{L} / \ln 2$."""
    return loss / math.log(2)


def _perplexity(loss: float, correct: float) -> float:
    r"""$\mathrm{PPL} = e^{\mathcal{L}}$, the exponent limited to what a float can hold."""
    return math.exp(min(loss, 700.0))


def _percent(loss: float, correct: float) -> float:
    return 100 * correct


METRICS = {metric.name: metric for metric in [
    Metric("bpc", "BPC", 2, True, _bits_per_character),
    Metric("ppl", "PPL", 1, True, _perplexity),
    Metric("accuracy", "accuracy (%)", 1, False, _percent)]}
"""Bits per character, perplexity and accuracy by the names that records have."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a network learns, and what a run of it takes where its configuration does not say.

    Attributes:
        name: what configurations and records call the task.
        metric: what its networks are compared by.
        stand_in: the embedded data set, which needs no download: the one of the small profiles.
        settings: settings of the paper's appendix A that do not depend on the profile.
        profiles: sizes and lengths by profile.
        own: settings that have an effect in this task alone.
    """

    name: str
    metric: Metric
    stand_in: str
    settings: dict[str, Any]
    profiles: dict[str, dict[str, Any]]
    own: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What its data is counted in: "character", "word" or "image"."""
        return UNITS[self.name]


TASKS = {task.name: task for task in [
    Task(name="char_lm", metric=METRICS["bpc"], stand_in="python_help",
         settings=dict(learning_rate=0.002, lr_decay=0.98, clip_norm=5.0),
         profiles=dict(
             smoke=dict(hidden_size=32, steps=25, batch_size=16, epochs=2, max_train=16_000),
             quick=dict(hidden_size=128, steps=50, batch_size=16, epochs=4, max_train=160_000),
             paper=dict(hidden_size=512, steps=100, batch_size=64, epochs=200, max_train=0))),
    Task(name="word_lm", metric=METRICS["ppl"], stand_in="python_help_words",
         settings=dict(learning_rate=20.0, lr_decay=0.25, clip_norm=0.25, dropout=0.5),
         profiles=dict(
             smoke=dict(hidden_size=16, steps=20, batch_size=10, epochs=2, max_train=4_000),
             quick=dict(hidden_size=300, steps=35, batch_size=20, epochs=3, max_train=40_000),
             paper=dict(hidden_size=300, steps=35, batch_size=20, epochs=120, max_train=0,
                        min_learning_rate=0.001)),
         own=("dropout",)),
    Task(name="sequential_image", metric=METRICS["accuracy"], stand_in="digits",
         settings=dict(learning_rate=0.002, lr_decay=0.5, clip_norm=1.0),
         profiles=dict(
             smoke=dict(hidden_size=16, batch_size=50, epochs=1, max_train=200),
             quick=dict(hidden_size=64, batch_size=20, epochs=12, max_train=0),
             paper=dict(hidden_size=100, batch_size=100, epochs=200, max_train=0)),
         own=("initial_gain", "state_noise", "permuted")),
]}
"""The tasks by name: the next character, the next word, the label of an image that is read pixel by
pixel (as sequential MNIST)."""
