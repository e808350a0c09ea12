"""Texts as ids of characters or words.

A text is a string; one of words has white space between each two of them.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qlstm.data.files import DataError
from qlstm.errors import brief

UNKNOWN, LINE_END = "<unk>", "<eos>"
"""The words that stand for a rare word and for the end of a line, as in the Penn Treebank."""

_SEPARATOR = {"character": "", "word": " "}


@dataclass(frozen=True)
class TextDataset:
    """A text as symbol ids, cut into a training, a validation and a test part.

    Attributes:
        name: the data set's name in the catalogue, or the path of the file.
        train: ids of the training part, one axis; uint8, for words and for more than 256 different
            characters int32, which :func:`~qlstm.data.batches.minibatches` converts.
        valid: ids of the validation part.
        test: ids of the test part.
        vocabulary: the symbols of all three parts in code point order. An id is a position in it.
        sha256: of the text, its three parts joined (words with one space between each two). Results
            on different texts are never pooled.
        reduced: whether it is a part of a data set of the paper, or none of them.
        source: where the bytes came from, and in parentheses what was changed.
        unit: what a symbol is, "character" or "word".
        notes: how a text of one's own was read, the encoding first, then each change in words.
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
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """How many symbols the parts have, and how many are different, in a line."""
        counts = " / ".join(f"{len(part):,}" for part in (self.train, self.valid, self.test))
        return f"{counts} {self.unit}s, vocabulary {self.vocabulary_size:,}"

    @property
    def vocabulary_size(self) -> int:
        """The number of different symbols."""
        return len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """The ids of a ``text``, as :func:`encode` gives them."""
        return encode(text, self.vocabulary, self.unit)

    def decode(self, ids: Tensor) -> str:
        """The text of ``ids``, a tensor of one axis; words with a space between."""
        return _SEPARATOR[self.unit].join(self.vocabulary[i] for i in ids.tolist())


def text_dataset(name: str, parts: list[str], encoding: str, reduced: bool, source: str,
                 unit: str = "character", notes: tuple[str, ...] = ()) -> TextDataset:
    """Make a data set of the parts of a text.

    Args:
        name: what the data set is called.
        parts: the texts for training, validation and test.
        encoding: how the text becomes bytes for its sha256.
        reduced: as in :class:`TextDataset`.
        source: as in :class:`TextDataset`.
        unit: what a symbol is, "character" or "word".
        notes: as in :class:`TextDataset`.
    """
    text = _SEPARATOR[unit].join(parts)
    vocabulary = tuple(sorted(_distinct(text, unit)))
    train, valid, test = (encode(part, vocabulary, unit) for part in parts)
    sha256 = hashlib.sha256(text.encode(encoding)).hexdigest()
    return TextDataset(name, train, valid, test, vocabulary, sha256, reduced, source, unit, notes)


def _distinct(text: str, unit: str) -> set[str]:
    return set(text.split() if unit == "word" else text)


def encode(text: str, vocabulary: tuple[str, ...], unit: str = "character") -> Tensor:
    """The ids of the symbols of a text.

    Args:
        text: characters, or words with white space between.
        vocabulary: the symbols that have an id, their position.
        unit: what a symbol is, "character" or "word".

    Returns:
        A tensor of one axis, uint8, or int32 for words and vocabularies of more than 256
        characters. A word that is not in the vocabulary has the id of "<unk>".

    Raises:
        DataError: a symbol is not in the vocabulary, nor is "<unk>".
    """
    outside = sorted(_distinct(text, unit).difference(vocabulary))
    if outside and UNKNOWN not in vocabulary:
        raise DataError(
            f"{brief(outside[0])} is not among the {len(vocabulary)} symbols of the vocabulary")
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
