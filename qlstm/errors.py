"""Errors that name their cause and the way out."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from typing import Any


class ConfigError(ValueError):
    """A setting that does not exist or cannot be: the message lists what is possible."""


def unknown(what: str, name: Any, possible: Iterable[str], hint: str = "") -> str:
    """One line: ``what`` is unknown by ``name``, the nearest ``possible`` name, all of them, and a
    ``hint``.

    >>> unknown("quantizer", "bnw", ["bwn", "lab"])
    "unknown quantizer 'bnw': did you mean 'bwn'? Possible: bwn, lab"
    """
    possible = list(possible)

    def likeness(candidate: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, str(name), candidate).ratio(), candidate[:1] == str(
            name)[:1]

    nearest = max(possible, key=likeness)
    suggestion = f" did you mean '{nearest}'?" if likeness(nearest)[0] >= 0.5 else ""
    return f"unknown {what} {name!r}:{suggestion} Possible: {', '.join(possible)}{hint}"


def lookup(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry ``name`` of ``table``, or the object behind an importable ``"module:name"``.

    ``what``: what the message calls it. Raises ``ConfigError`` for any other name.
    """
    if name in table:
        return table[name]
    if not isinstance(name, str) or ":" not in name:
        raise ConfigError(unknown(what, name, table, ', or your own as "module:name"'))
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot import the {what} {name!r}: {error}") from error


def first_line(error: Exception) -> str:
    """What an ``error`` says in its first line, its type where it says nothing: a GPU's errors go
    on for many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
