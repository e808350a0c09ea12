"""What JSON files may contain, as tables of types and ranges, and the one way to read them.

A *kind* is a function of a value that returns what is wrong with it, after the place where that is
(``.epochs[3].valid_loss is None, not a number``); empty if nothing is. None of them imports torch.
"""

import json
import math
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from qlstm.errors import brief

Kind = Callable[[Any], str]

LARGEST_FILE = 16 * 2**20
"""Bytes of a file that are read at most: 50 times those of the largest record so far."""
MAX = 1.7976931348623157e308
"""The largest float: what is beyond it, or NaN, is no number of a record."""


class Range(NamedTuple):
    """The numbers that a setting may have.

    Attributes:
        kind: ``int`` for whole numbers, ``float`` for any.
        least, most: the ends.
        open: whether ``least`` itself is left out.
    """

    kind: type
    least: float = 0
    most: float = MAX
    open: bool = False

    def __contains__(self, value: Any) -> bool:
        large = self.kind is float and type(value) is int and abs(value) > 2**53  # no float
        return (type(value) in (int, self.kind) and self.least <= value <= self.most
                and not large and not (self.open and value == self.least))

    def __str__(self) -> str:
        words = "a whole number" if self.kind is int else "a number"
        return words + (f" above {self.least}" if self.open else f" of {self.least} or more")


PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,4096}")
"""A text in one line that can be written as UTF-8."""


def one_of(*values: Any) -> Kind:
    """One of the ``values``."""
    def fault(value):
        known = any(type(value) is type(one) and value == one for one in values)
        return "" if known else f" is {brief(value)}, not {' or '.join(map(brief, values))}"
    return fault


def number(least: float = 0, most: float = MAX, kind: type = float) -> Kind:
    """A number from ``least`` to ``most``; ``kind``: as in :class:`Range`."""
    within = Range(kind, least, most)
    upto = "" if most == MAX else f" and at most {most:,}"
    return lambda value: "" if value in within else f" is {brief(value)}, not {within}{upto}"


def text(pattern: str | re.Pattern = PRINTABLE) -> Kind:
    """A text that matches a ``pattern`` as a whole."""
    def fault(value):
        if type(value) is str and re.fullmatch(pattern, value):
            return ""
        return f" is {brief(value)}, not a {'' if pattern is PRINTABLE else 'fitting '}text"
    return fault


def maybe(kind: Kind) -> Kind:
    """None, or of the ``kind``."""
    return lambda value: "" if value is None else kind(value)


def each(kind: Kind, least: int = 0, most: float = math.inf) -> Kind:
    """A list of values of a ``kind``, ``least`` to ``most`` of them."""
    def fault(value):
        if type(value) is not list:
            return f" is {brief(value)}, not a list"
        if not least <= len(value) <= most:
            return f" has {len(value)} entries, not {least}{f' to {most}' * (most > least)}"
        return next((f"[{k}]{why}" for k, one in enumerate(value) if (why := kind(one))), "")
    return fault


def table(fields: dict[str, Kind], optional: dict[str, Kind] | None = None) -> Kind:
    """A table with all of the ``fields``, some of the ``optional`` ones, and no other."""
    kinds = fields | (optional or {})

    def fault(value):
        if type(value) is not dict:
            return f" is {brief(value)}, not a table"
        for name in fields:
            if name not in value:
                return f" has no {name}"
        for name in value:
            if name not in kinds:
                return f" has an unknown field {brief(name)}"
        return next((f".{name}{why}" for name, one in value.items()
                     if (why := kinds[name](one))), "")
    return fault


def by_name(kind: Kind, name: Kind) -> Kind:
    """A table of values of one ``kind``, whose names are of the kind ``name``."""
    def fault(value):
        if type(value) is not dict:
            return f" is {brief(value)}, not a table"
        for key, one in value.items():
            if why := name(key):
                return f" has a name that{why}"
            if why := kind(one):
                return f"[{brief(key)}]{why}"
        return ""
    return fault


def anything(value: Any) -> str:
    """Nothing is wrong with any ``value``: another kind judges it."""
    return ""


def exactly(size: int, kind: Kind) -> Kind:
    """A list of ``size`` values of a ``kind``."""
    return each(kind, size, size)


def parse(content: bytes) -> Any:
    """The value that JSON ``content`` stands for; ``ValueError`` for what is no strict JSON in
    UTF-8: NaN, a name twice in one table, or tables in tables without end."""
    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the field {brief(twice)} stands there twice")
        return found

    def refuse(constant):
        raise ValueError(f"{constant} is no number")

    try:
        return json.loads(content.decode(), object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ValueError("lists or tables are nested too deeply") from None


def read(path: Path) -> Any:
    """What the JSON file at ``path`` contains; ``OSError`` or ``ValueError`` where it is none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a file")
    if found.st_size > LARGEST_FILE:
        raise ValueError(f"larger than {LARGEST_FILE >> 20} MB")
    return parse(path.read_bytes())


def read_as(kind: Kind, path: Path) -> Any:
    """What the JSON file at ``path`` contains, as :func:`read`; ``ValueError`` too where that is
    not of the ``kind``."""
    value = read(path)
    if why := kind(value):
        raise ValueError(why.strip().removeprefix("."))
    return value
