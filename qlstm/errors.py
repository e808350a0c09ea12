"""Errors that name their cause and the way out."""

import difflib
import importlib
import reprlib
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
    except (Exception, SystemExit) as error:  # whatever a module of the user's own raises
        raise ConfigError(f"cannot import the {what} {name!r}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an ``error`` says in its first line, its type where it says nothing: a GPU's errors go
    on for many."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def brief(value: Any) -> str:
    """How messages show any ``value``: in one line, and not more of it than says what it is.

    >>> brief(None), brief({"a": []}), brief("x" * 99)
    ('None', "{'a': []}", "'xxxxxxxxxxxx...xxxxxxxxxxxxx'")
    """
    try:
        text = " ".join(reprlib.repr(value).split())
    except ValueError:  # an int of thousands of digits
        return "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."
