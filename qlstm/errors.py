"""Errors that name their cause and the way out."""

import difflib
import importlib
import importlib.util
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 120, 120


class LineError(ValueError):
    """An error whose ``message`` is one line that any terminal and file takes, whatever it quotes:
    what cannot be printed, a line break too, is escaped.

    >>> str(LineError("no file named two\\nlines"))
    'no file named two\\\\nlines'
    """

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


class ConfigError(LineError):
    """A setting that does not exist or cannot be: the message lists what is possible."""


class MissingError(LineError, ImportError):
    """A package that only some of the commands need, and that is not installed."""


def needs(extra: str, *modules: str, error: Callable[[str], Exception] = MissingError):
    """Raise an error, unless all ``modules`` of an ``extra`` of ``pyproject.toml`` are installed.

    ``error``: makes it of the message, which says what to install.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise error(f'the package {module} is not installed: pip install ".[{extra}]" in the '
                        "folder of the repository")


def unknown(what: str, name: Any, possible: Iterable[str], hint: str = "") -> str:
    """One line: ``what`` is unknown by ``name``, the nearest ``possible`` name, all of them, and a
    ``hint``.

    >>> unknown("quantizer", "bnw", ["bwn", "lab"])
    "unknown quantizer 'bnw': did you mean 'bwn'? Possible: bwn, lab"
    """
    possible, text = list(possible), str(name)[:99]

    def likeness(candidate: str) -> tuple[float, bool]:
        return difflib.SequenceMatcher(None, text, candidate).ratio(), candidate[:1] == text[:1]

    nearest = max(possible, key=likeness)
    suggestion = f" did you mean '{nearest}'?" if likeness(nearest)[0] >= 0.5 else ""
    return f"unknown {what} {brief(name)}:{suggestion} Possible: {', '.join(possible)}{hint}"


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
        raise ConfigError(f"cannot import the {what} {brief(name)}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an ``error`` says in its first line, its type where it says nothing: a GPU's errors go
    on for many, and those that repeat what a file says can be of any length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def brief(value: Any) -> str:
    """How messages show any ``value``: in one line, and not more of it than says what it is.

    >>> brief(None), brief({"a": []}), len(brief("long" * 10**6))
    ('None', "{'a': []}", 120)
    """
    try:
        text = " ".join(_SHORT.repr(value).split("\n"))
    except ValueError:  # an int of thousands of digits
        return "a huge number"
    return text if len(text) <= 120 else f"{text[:117]}..."
