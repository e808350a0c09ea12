"""The loop over time, the only place with several implementations of one thing: they share one signature."""

from qlstm.errors import ConfigError, unknown
from qlstm.recurrence import naive

BACKENDS = {"naive": naive.recurrence}
"""The implementations by name; :mod:`~qlstm.recurrence.naive` is the ground truth."""


def find_backend(name: str):
    """The recurrence of that ``name``; ``"auto"`` takes the fastest that applies. Raises ``ConfigError``."""
    if name == "auto":
        return naive.recurrence
    if name not in BACKENDS:
        raise ConfigError(unknown("backend", name, ["auto", *BACKENDS]))
    return BACKENDS[name]
