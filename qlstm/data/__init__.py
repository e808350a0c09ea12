"""Data sets: a ``catalogue`` of texts and images, made by ``reading`` checked ``files``, and their
minibatches (``batches``).

>>> from qlstm.data import load_dataset
>>> text = load_dataset("python_help")                   # needs no download
>>> text.decode(text.encode("an object"))
'an object'
"""

from importlib import import_module

_HOME = {
    **dict.fromkeys(
        ["CATALOGUE", "Entry", "load_dataset", "steps_of", "task_of", "title", "vocabulary_size"],
        "catalogue"),
    **dict.fromkeys(
        ["count_predicted", "image_minibatches", "minibatches", "pixel_permutation",
         "shuffled_sequences"], "batches"),
    "TextDataset": "text", **dict.fromkeys(["ImageDataset", "smaller", "smaller_sizes"], "images"),
    **dict.fromkeys(["DataError", "File"], "files"),
}
UNITS = {"char_lm": "character", "word_lm": "word", "sequential_image": "image"}
"""The tasks that a data set can be for, and what the data of each is counted in. A language model
learns the next symbol of a text, ``sequential_image`` the label of an image that is read pixel by
pixel."""

__all__ = sorted(["UNITS", *_HOME])


def __getattr__(name: str):
    """Import on first use, as :mod:`qlstm` does: who only needs a folder's name need not wait for
    torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'qlstm.data' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"qlstm.data.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
