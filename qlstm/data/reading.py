"""From the content of files to the three parts of a text: training, validation, test.

``contents``: the contents of a data set's files, bytes.
"""

import codecs
import os
import platform
import re
import sys
import unicodedata
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from qlstm.data.files import DataError, read_bytes
from qlstm.data.text import LINE_END, UNKNOWN, TextDataset, text_dataset

MINIMUM_SYMBOLS = 1000
"""Symbols, characters or words, that a text of one's own has at least."""

LEAST_OCCURRENCES = 2
"""A word that the training part of a text has less often is
:data:`~qlstm.data.text.UNKNOWN` (not in texts prepared so already)."""


def cut(text: str | list[str], train: float, valid: float) -> list:
    """Cut a text by position into training, validation and test part.

    Args:
        text: n symbols: a string of characters, or a list of words.
        train: the share of the first part, which has int(train n) symbols.
        valid: the share of the second part. The third has the rest.
    """
    a = int(train * len(text))
    b = a + int(valid * len(text))
    return [text[:a], text[a:b], text[b:]]


def bytes_as_symbols(contents: list[bytes], train: float, valid: float) -> list[str]:
    """The parts of the first of the ``contents``, one symbol a byte; UTF-8 or a translation of
    line ends would change the vocabulary. Shares ``train`` and ``valid`` as in :func:`cut`."""
    return cut(contents[0].decode("latin-1"), train, valid)


def words_to_characters(contents: list[bytes]) -> list[str]:
    """The characters of three texts of words: lines without outer spaces, an inner space is "_",
    the line end stays."""
    return [
        "\n".join(line.strip(" ").replace(" ", "_") for line in content.decode("ascii").split("\n"))
        for content in contents]


def words_prepared(contents: list[bytes]) -> list[str]:
    """The words of three texts that are prepared as such: what white space separates, and one
    "<eos>" a line end."""
    return [" ".join(content.decode("ascii").replace("\n", f" {LINE_END} ").split())
            for content in contents]


def help_text() -> str:
    """Python's help on the language, the topics in alphabetical order, joined by line ends."""
    from pydoc_data.topics import topics

    return "\n".join(topics[topic] for topic in sorted(topics))


def help_source() -> str:
    """Where :func:`help_text` is from; it differs between versions of Python."""
    return f"pydoc_data.topics of Python {platform.python_version()}"


_UNSEEN = r"[\xad\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
"""Soft hyphens, marks of direction and byte order: what a reader does not see in a word."""
_ALONE = (r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u309f\u3400-\u9fff\uf900-\ufaff"
          r"\U00020000-\U0003ffff")
"""Letters of scripts without white space between words (Thai, Khmer, Chinese, ...): without a
dictionary each is a word (Unicode's annex 29)."""


def tokens(text: str) -> list[str]:
    r"""The words of any text: words, numbers and punctuation marks in lower case, "<eos>" after a
    line that has any.

    A letter or emoji keeps what Unicode joins to it: accents and vowel signs, joiners, tones of
    skin. A mark four times or more in a row (an underline) is one; "<unk>" stays.

    >>> tokens("It's 3.5\n========\n\n<unk> == x")
    ['it', "'", 's', '3', '.', '5', '<eos>', '=', '<eos>', '<unk>', '=', '=', 'x', '<eos>']
    >>> len(tokens("\u0939\u093f\u0928\u094d\u0926\u0940 e\u0301te\u0301"))   # two words and <eos>
    3
    """
    text = re.sub(_UNSEEN, "", text.lower()).replace("\u200b", " ")
    marks = "".join(c for c in set(text) if unicodedata.category(c).startswith("M"))
    joined = rf"[{marks}\u200c\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
    symbol = rf"\S{joined}*(?:(?<=\u200d)[^\w\s]{joined}*)*"  # a family: people and joiners
    flag = "[\U0001f1e6-\U0001f1ff]{2}"
    pattern = re.compile(rf"{UNKNOWN}|[^\W{_ALONE}](?:[^\W{_ALONE}]|{joined})*|{flag}|{symbol}")
    words = []
    for line in re.sub(r"([^\w\s])\1{3,}", r"\1", text).splitlines():
        if found := pattern.findall(line):
            words += [*map(sys.intern, found), LINE_END]  # interned: each word is in memory once
    return words


def rare_words_replaced(words: list[str]) -> list[str]:
    """The parts of a text of ``words``, 80/10/10 by position; a word that is rare in the first is
    "<unk>" in all of them."""
    parts = cut(words, 0.8, 0.1)
    known = {word for word, n in Counter(parts[0]).items() if n >= LEAST_OCCURRENCES}
    return [" ".join(word if word in known else UNKNOWN for word in part) for part in parts]


_MARK = re.compile(r"""^[ \t]*(?:
      (?P<start> \*{3}[ ]?START[ ]OF[ ]TH(?:E|IS)[ ](?:COPYRIGHTED[ ])?PROJECT[ ]GUTENBERG
                 (?: [^*\n]* (?:\n[^*\n]+){0,3} \*{3} )?
               | \*END[ ]?\*?[ ]?THE[ ]SMALL[ ]PRINT )
    | (?P<end> \*{3}[ ]?END[ ]OF[ ]TH(?:E|IS)[ ](?:COPYRIGHTED[ ])?PROJECT[ ]GUTENBERG
             | End[ ]of[ ](?:(?:the|this)[ ])?Project[ ]Gutenberg )
    ).*$""", re.I | re.M | re.X)
"""The lines after which a book of Project Gutenberg starts and before which it ends, as they were
over the years; a long title goes on in the next lines."""


def without_gutenberg(text: str) -> tuple[str, str]:
    """Cut Project Gutenberg's header and licence from a text, from each book of several.

    Args:
        text: it, with the line ends that Python has.

    Returns:
        What stands between the marks that begin and end a book, and what was left out in words:
        "" where there is no mark.
    """
    marks = [(mark.lastgroup, *mark.span()) for mark in _MARK.finditer(text)]
    if not marks:
        return text, ""
    between = pairwise([(None, 0, 0), *marks, (None, len(text), len(text))])
    book = "\n\n".join(text[begin:end].strip("\n")
                       for (before, _, begin), (after, end, _) in between
                       if before != "end" and after != "start")
    kinds = {kind for kind, _, _ in marks}
    what = " and ".join(name for kind, name in (("start", "header"), ("end", "licence"))
                        if kind in kinds)
    return book, f"{len(text) - len(book):,} characters of Project Gutenberg's {what} left out"


def _decoded(name: str, content: bytes) -> tuple[str, str, str]:
    """The text of a file, the encoding of its sha256, and how it was read in words."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16"), "utf-8", "read as UTF-16"
        except UnicodeDecodeError as error:
            raise DataError(f"{name} begins as UTF-16 and is not; save it as UTF-8") from error
    try:
        return content.decode("utf-8"), "utf-8", "read as UTF-8"
    except UnicodeDecodeError as error:
        if not content[: error.start].isascii():
            raise DataError(f"{name} is UTF-8 up to byte {error.start:,} and not there: it was cut "
                            "or joined in the wrong place; save it as UTF-8 again") from error
    latin = content.decode("latin-1")
    with suppress(UnicodeDecodeError):
        windows = content.decode("cp1252")
        if windows != latin:
            return windows, "utf-8", "not UTF-8: read as Windows-1252"
    return latin, "latin-1", "not UTF-8: one character a byte"


def _plain(text: str) -> tuple[str, list[str]]:
    """A text without byte order marks and with the line ends of Python, and each change in
    words."""
    changes = []
    if count := text.count("\ufeff"):
        text = text.replace("\ufeff", "")
        changes.append("byte order mark left out" if count == 1 else
                       f"{count:,} byte order marks left out")
    if ends := sorted({*re.findall("\r\n?", text)}, reverse=True):
        text = re.sub("\r\n?", "\n", text)
        names = " and ".join({"\r\n": "CRLF", "\r": "CR"}[end] for end in ends)
        changes.append(f"line ends {names} became LF")
    return text, changes


def read_text_file(name: str, unit: str) -> TextDataset:
    """Read a text of one's own, cut 80/10/10 by position; its ``notes`` say what was changed.

    Byte order marks go, line ends CRLF and CR become LF, and Project Gutenberg's header and licence
    are left out.

    Args:
        name: the path of the file: UTF-8, or UTF-16 that begins with its mark; else Windows-1252,
            or one character a byte where it is not that either.
        unit: what its symbols are, "character" or "word" (see :func:`tokens`).

    Raises:
        DataError: it is no text file, cannot be read, or has too little to learn from.
    """
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{name} is not a file: a data set of one's own is one text file")
    text, encoding, how = _decoded(name, read_bytes(path))
    if "\0" in text:
        raise DataError(f"{name} is not a text file (it has NUL bytes; UTF-16 without a byte order "
                        "mark and UTF-32 have to be saved as UTF-8)")
    text, changes = _plain(text)
    text, left_out = without_gutenberg(text)
    changes += [left_out] if left_out else []
    told = [how] * (how != "read as UTF-8") + changes
    # a folder's name may be of other bytes than UTF-8
    source = os.fsencode(path.resolve()).decode(errors="backslashreplace")
    source += f" ({'; '.join(told)})" if told else ""
    symbols = tokens(text) if unit == "word" else text
    what = "words" if unit == "word" else "symbols"
    if len(symbols) < MINIMUM_SYMBOLS:
        hint = f" ({left_out}: delete the lines with its marks to keep them)" if left_out else ""
        raise DataError(f"{name} has {len(symbols):,} {what}{hint}; a data set needs "
                        f"{MINIMUM_SYMBOLS:,} or more")
    parts = rare_words_replaced(symbols) if unit == "word" else cut(symbols, 0.8, 0.1)
    dataset = text_dataset(name, parts, encoding, True, source, unit, (how, *changes))
    if not (dataset.train != dataset.train[0]).any():
        cause = ("has no two words that stand twice in its training part, and all others count as "
                 "one" if unit == "word" else "has the same symbol all over its training part")
        raise DataError(f"{name} {cause}: a data set needs two kinds to learn from")
    return dataset
