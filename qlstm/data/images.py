"""Images with one label each, whose pixels are read one after the other."""

import hashlib
import math
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import torch
from torch import Tensor

from qlstm.data.files import DataError
from qlstm.errors import needs

Part = tuple[Tensor, Tensor]
"""Pixels (n, T), uint8, an image a row, from left to right and top to bottom; labels (n,),
int64."""

CLASSES = 10
"""The labels of all image data sets here are digits."""


@dataclass(frozen=True)
class ImageDataset:
    """Images of T pixels, in a training, a validation and a test part.

    Attributes:
        name: the data set's name in the catalogue.
        train: pixels and labels to train on, as :data:`Part`.
        valid: those to validate on.
        test: those to test on.
        classes: the number of different labels, which count from 0.
        levels: the pixel value that stands for 1.0.
        sha256: of the pixels and labels (a byte each) of the three parts in turn. Results on
            different images are never pooled.
        reduced: whether it is no data set of the paper.
        source: where the bytes came from.
    """

    name: str
    train: Part
    valid: Part
    test: Part
    classes: int
    levels: int
    sha256: str
    reduced: bool
    source: str

    def summary(self) -> str:
        """How many images the parts have, in a line."""
        counts = " / ".join(f"{len(labels):,}" for _, labels in (self.train, self.valid, self.test))
        return f"{counts} images of {self.steps} pixels"

    @property
    def steps(self) -> int:
        """T, the pixels of an image."""
        return self.train[0].shape[1]


def image_dataset(name: str, parts: list[Part], levels: int, reduced: bool,
                  source: str) -> ImageDataset:
    """Make a data set, with its checksum, of its three ``parts``; ``name``, ``levels``, ``reduced``
    and ``source`` are as in :class:`ImageDataset`."""
    digest = hashlib.sha256()
    for pixels, labels in parts:
        digest.update(pixels.contiguous().numpy())
        digest.update(labels.to(torch.uint8).numpy())
    return ImageDataset(name, *parts, CLASSES, levels, digest.hexdigest(), reduced, source)


def smaller_sizes(pixels: int) -> list[int]:
    """The numbers of pixels that square images can be read with: their own, and those of each
    smaller image whose pixels are the means of square blocks.

    Args:
        pixels: of an image as it is.

    Example:
        >>> smaller_sizes(64), smaller_sizes(784)
        ([64, 16, 4, 1], [784, 196, 49, 16, 4, 1])
    """
    side = math.isqrt(pixels)
    if side * side != pixels:
        return [pixels]
    return [(side // block) ** 2 for block in range(1, side + 1) if side % block == 0]


def smaller(part: Part, steps: int) -> Part:
    """Square images with fewer pixels, each the rounded mean of a square block.

    Args:
        part: pixels (n, T) and labels (n,).
        steps: the pixels that an image shall have, one of :func:`smaller_sizes`.

    Returns:
        Pixels (n, ``steps``), uint8, and the labels.

    Example:
        >>> image = torch.tensor([[0, 4, 8, 8, 0, 4, 8, 8, 1, 1, 0, 0, 1, 1, 0, 2]])
        >>> smaller((image.to(torch.uint8), torch.tensor([3])), steps=4)[0].tolist()
        [[2, 8, 1, 0]]
    """
    pixels, labels = part
    side, new = math.isqrt(pixels.shape[1]), math.isqrt(steps)
    blocks = pixels.view(-1, new, side // new, new, side // new).float()
    return blocks.mean((2, 4)).round().to(torch.uint8).view(-1, steps), labels


def read_mnist(contents: list[bytes], valid: int = 10_000) -> list[Part]:
    """Read the parts of MNIST.

    Args:
        contents: of its files: training images and labels, test images and labels.
        valid: how many training images, the last ones, are kept to validate on.

    Raises:
        DataError: the contents are not those of such files.
    """
    train, test = _labelled(*contents[:2]), _labelled(*contents[2:])
    n = len(train[1]) - valid
    return [(train[0][:n], train[1][:n]), (train[0][n:], train[1][n:]), test]


def read_digits(_: list[bytes]) -> list[Part]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, 0 to 16, by position: all but 600, 300, 300."""
    needs("reproduce", "sklearn", error=DataError)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    cuts = [len(labels) - 600, len(labels) - 300]
    parts = zip(np.split(pixels.astype(np.uint8), cuts), np.split(labels.astype(np.int64), cuts),
                strict=True)
    return [(torch.from_numpy(pixels), torch.from_numpy(labels)) for pixels, labels in parts]


def digits_source() -> str:
    """Where :func:`read_digits` has its digits from."""
    return f"load_digits of scikit-learn {metadata.version('scikit-learn')}"


def _labelled(images: bytes, labels: bytes) -> Part:
    """Pixels and labels from the contents of two idx files."""
    pixels, classes = _idx(images, 3), _idx(labels, 1)
    if len(pixels) != len(classes):
        raise DataError(f"{len(pixels):,} images have {len(classes):,} labels")
    if len(classes) and int(classes.max()) >= CLASSES:
        raise DataError(f"a label is {int(classes.max())} instead of 0 to {CLASSES - 1}")
    return pixels.flatten(1), classes.long()


def _idx(content: bytes, axes: int) -> Tensor:
    """The array of an idx file of unsigned bytes.

    Its header: two zero bytes, 8 for unsigned bytes, the number of axes; their lengths, 4 bytes
    each, highest first.

    >>> _idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 7]), axes=1)
    tensor([5, 7], dtype=torch.uint8)
    """
    start = 4 + 4 * axes
    if len(content) < start or content[:4] != bytes([0, 0, 8, axes]):
        raise DataError(f"not an idx file of unsigned bytes with {axes} axes: "
                        f"it begins with {content[:4].hex(' ')!r}")
    shape = np.frombuffer(content, ">u4", count=axes, offset=4).tolist()
    values = np.frombuffer(content, np.uint8, offset=start)
    if len(values) != (said := math.prod(shape)):
        raise DataError(f"an idx file has {len(values):,} values after its header, "
                        f"which says {shape}: {said:,}")
    return torch.from_numpy(values.reshape(shape).copy())
