"""Texts as ids of characters or words: vocabularies, words, minibatches.

``contents``: of files, bytes. ``train``, ``valid``: shares of a text, by position. ``text``:
symbols, or words; ``words``: of a text.
"""

import hashlib
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qlstm.data.files import DataError
from qlstm.data.images import in_batches

MINIMUM_SYMBOLS = 1000
"""Symbols, characters or words, that a text of one's own has at least."""

LEAST_OCCURRENCES = 2
"""A word that the training part of a text has less often is :data:`UNKNOWN` (not in texts prepared
so already)."""

UNKNOWN, LINE_END = "<unk>", "<eos>"
"""The words that stand for a rare word and for the end of a line, as in the Penn Treebank."""


@dataclass(frozen=True)
class TextDataset:
    """A text as symbol ids, cut into training, validation and test part.

    ``train``, ``valid``, ``test``: ids, one axis, uint8 (int32 for words, and for more than 256
    characters), which :func:`minibatches` converts. ``vocabulary``: the symbols of all three parts
    in code point order, an id is a position in it. ``sha256``: of the text, its three parts joined;
    a text of words is its words with one space between each two. Results on different texts are
    never pooled. ``reduced``: a part of, or not, a data set of the paper. ``source``: where the
    bytes came from. ``unit``: what a symbol is, "character" or "word".
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    sha256: str
    reduced: bool
    source: str
    unit: str = "character"

    def summary(self) -> str:
        """Counts in a line."""
        counts = " / ".join(f"{len(part):,}" for part in (self.train, self.valid, self.test))
        return f"{counts} {self.unit}s, vocabulary {self.vocabulary_size:,}"

    @property
    def vocabulary_size(self) -> int:
        """Number of distinct symbols."""
        return len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """The ids of ``text``, dtype as ``train``; its words are what white space separates.

        An unknown word is "<unk>" where the vocabulary has that; else an unknown symbol raises
        ``DataError``.
        """
        return encode(text, self.vocabulary, self.unit)

    def decode(self, ids: Tensor) -> str:
        """The text of ``ids``, one axis; words with a space between."""
        return _SEPARATOR[self.unit].join(self.vocabulary[i] for i in ids.tolist())


_SEPARATOR = {"character": "", "word": " "}


def cut(text: str | list[str], train: float, valid: float) -> list:
    """Cut by position: the first int(train n) symbols, the next int(valid n), the rest."""
    a = int(train * len(text))
    b = a + int(valid * len(text))
    return [text[:a], text[a:b], text[b:]]


def bytes_as_symbols(contents: list[bytes], train: float, valid: float) -> list[str]:
    """One symbol a byte: neither UTF-8 nor newline translation, which would change the
    vocabulary."""
    return cut(contents[0].decode("latin-1"), train, valid)


def words_to_characters(contents: list[bytes]) -> list[str]:
    """Characters of texts of words: lines without outer spaces, an inner space is "_", the line end
    stays."""
    return [
        "\n".join(line.strip(" ").replace(" ", "_") for line in content.decode("ascii").split("\n"))
        for content in contents]


def words_prepared(contents: list[bytes]) -> list[str]:
    """The words of texts prepared as such: what white space separates, and one "<eos>" a line
    end."""
    return [" ".join(content.decode("ascii").replace("\n", f" {LINE_END} ").split())
            for content in contents]


def help_text() -> str:
    """Python's help on the language, the topics in alphabetical order, joined by line ends."""
    from pydoc_data.topics import topics

    return "\n".join(topics[topic] for topic in sorted(topics))


def help_source() -> str:
    """Where :func:`help_text` is from."""
    return f"pydoc_data.topics of Python {platform.python_version()}"


def tokens(text: str) -> list[str]:
    r"""The words of any text: words, numbers and punctuation marks in lower case, "<eos>" after a
    line that has any.

    A mark four times or more in a row (an underline) is one; "<unk>" stays.

    >>> tokens("It's 3.5\n========\n\n<unk> == x")
    ['it', "'", 's', '3', '.', '5', '<eos>', '=', '<eos>', '<unk>', '=', '=', 'x', '<eos>']
    """
    words = []
    for line in re.sub(r"([^\w\s])\1{3,}", r"\1", text.lower()).splitlines():
        if found := re.findall(rf"{UNKNOWN}|\w+|[^\w\s]", line):
            words += [*map(sys.intern, found), LINE_END]  # interned: each word is in memory once
    return words


def rare_words_replaced(words: list[str]) -> list[str]:
    """Three parts, 80/10/10 by position; a word that is rare in the first is "<unk>" in all of
    them."""
    parts = cut(words, 0.8, 0.1)
    known = {word for word, n in Counter(parts[0]).items() if n >= LEAST_OCCURRENCES}
    return [" ".join(word if word in known else UNKNOWN for word in part) for part in parts]


def text_dataset(
    name: str, parts: list[str], encoding: str, reduced: bool, source: str, unit: str = "character"
) -> TextDataset:
    """The data set ``name`` of three ``parts`` of a text; ``encoding``: for its sha256;
    ``reduced``, ``source`` and ``unit`` as in :class:`TextDataset`."""
    text = _SEPARATOR[unit].join(parts)
    vocabulary = tuple(sorted(_distinct(text, unit)))
    train, valid, test = (encode(part, vocabulary, unit) for part in parts)
    sha256 = hashlib.sha256(text.encode(encoding)).hexdigest()
    return TextDataset(name, train, valid, test, vocabulary, sha256, reduced, source, unit)


def _distinct(text: str, unit: str) -> set[str]:
    return set(text.split() if unit == "word" else text)


def encode(text: str, vocabulary: tuple[str, ...], unit: str = "character") -> Tensor:
    """The ids of the symbols of a ``text`` in a ``vocabulary``; ``unit`` as in
    :class:`TextDataset`. Raises ``DataError``."""
    outside = sorted(_distinct(text, unit).difference(vocabulary))
    if outside and UNKNOWN not in vocabulary:
        raise DataError(
            f"{outside[0]!r} is not among the {len(vocabulary)} symbols of the vocabulary")
    if unit == "word":
        ids = {word: i for i, word in enumerate(vocabulary)}
        ids |= {word: ids[UNKNOWN] for word in outside}
        return torch.from_numpy(np.fromiter(map(ids.__getitem__, text.split()), np.int32))
    # the ids as code points: str.translate and encode are fast and never hold a list of 100 M
    # numbers
    ids = text.translate({ord(symbol): i for i, symbol in enumerate(vocabulary)})
    if len(vocabulary) <= 256:
        return torch.from_numpy(np.frombuffer(bytearray(ids, "latin-1"), np.uint8))
    return torch.from_numpy(
        np.frombuffer(bytearray(ids.encode("utf-32-le", "surrogatepass")), np.int32))


def count_predicted(n: int, batch_size: int) -> int:
    """Symbols that :func:`minibatches` predicts in a text of ``n``, in ``batch_size`` streams: all
    but the first of each stream.

    Raises ``DataError`` for a text with fewer than two symbols a stream.
    """
    if batch_size < 1 or n < 2 * batch_size:
        raise DataError(
            f"{n:,} symbols are too few for {batch_size} parallel streams of two symbols or more")
    return batch_size * (n // batch_size - 1)


def minibatches(
    symbols: Tensor, batch_size: int, steps: int, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (inputs, targets), int64, each (T, N) with T <= ``steps``, for a state that is carried
    along.

    The text of n ``symbols`` is cut into N = ``batch_size`` streams of n // N; column j of every
    minibatch continues column j of the one before, and up to N - 1 symbols at the end are not used.
    The whole text is moved to ``device`` once. Raises ``DataError`` as :func:`count_predicted`, and
    for ``steps`` < 1.

    >>> [(x.tolist(), y.tolist()) for x, y in minibatches(torch.arange(6), batch_size=2, steps=5)]
    [([[0, 3], [1, 4]], [[1, 4], [2, 5]])]
    """
    count_predicted(len(symbols), batch_size)
    if steps < 1:
        raise DataError(f"a minibatch of {steps} steps predicts nothing")
    length = len(symbols) // batch_size
    streams = symbols[: length * batch_size].to(device).view(batch_size, length).t().contiguous()
    chunks = (streams[start : start + steps + 1].long() for start in range(0, length - 1, steps))
    return ((chunk[:-1], chunk[1:]) for chunk in chunks)


def shuffled_sequences(
    symbols: Tensor, batch_size: int, steps: int, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (inputs, targets), int64, each (T, N) with T = ``steps``, of sequences that are read
    each for itself.

    The text of ``symbols`` is cut into sequences from a random one of its first T symbols on, and N
    = ``batch_size`` of them at a time are taken in random order (torch's random numbers); what is
    left makes the last minibatch, and up to T symbols at both ends are not used. The whole text is
    moved to ``device`` once. Raises ``DataError`` for a text of fewer than three sequences.
    """
    if len(symbols) < 3 * steps + 1:
        raise DataError(
            f"a text of {len(symbols):,} symbols has not the {3 * steps + 1:,} that three sequences of {steps} take"
        )
    first = int(torch.randint(steps, ()))
    starts = first + steps * torch.randperm((len(symbols) - 1 - first) // steps)
    windows = symbols.to(device).unfold(0, steps + 1, 1)
    chunks = (
        windows[rows.to(device)].t().contiguous().long() for rows in in_batches(starts, batch_size))
    return ((chunk[:-1], chunk[1:]) for chunk in chunks)
