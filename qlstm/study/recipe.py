"""The recipe of training: a number that changes when the same settings would give other numbers.

It stands in every record and checkpoint. A record of an earlier recipe is outdated and its run is
trained again; comments, moved files, faster code and anything else that leaves the numbers alone
changes no recipe. ``tests/test_recipe.py`` holds it to that: it trains small networks of every kind
and compares their losses with stored ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


class Change(NamedTuple):
    """A change that gives some runs other numbers than before."""

    number: int
    """The recipe that it makes, counted from 1."""
    what: str
    """What is other, and why."""
    touches: Callable[[dict[str, Any]], bool]
    """Tells by its settings whether a run is one of them."""


def _every(settings: dict[str, Any]) -> bool:
    return True


def _images(settings: dict[str, Any]) -> bool:
    return settings["task"] == "sequential_image"


def _stochastic(settings: dict[str, Any]) -> bool:
    return settings["quantizer"] in ("sbn", "stn")


def _sampled_in_evaluation(settings: dict[str, Any]) -> bool:
    return _stochastic(settings) or settings.get("state_noise", 0) > 0


CHANGES = [
    Change(1, "the first recipe", _every),
    Change(2, "images: an exact zero stays 0, the decoder's bias starts at 0, the rate's last step "
              "is the release's", _images),
    Change(3, "SBN and STN: initialization, statistics, learning and sequences of their own "
              "release", _stochastic),
    Change(4, "what evaluation draws, codes of SBN and STN and the noise of initial states, is the "
              "same on every device and in every precision", _sampled_in_evaluation),
]
"""Oldest first. Never edit an entry: append one."""


def recipe(settings: dict[str, Any]) -> int:
    """Return the number of the last change that touches a run.

    Args:
        settings: The fields of the run's configuration by name.

    Example:
        >>> recipe({"task": "word_lm", "quantizer": "binary_connect"})
        1
    """
    return max(change.number for change in CHANGES if change.touches(settings))
