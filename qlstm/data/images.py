"""Images read pixel by pixel: sequences of pixels with one label each, and their minibatches.

>>> steps, samples = 4, 3
>>> split = torch.zeros(samples, steps, dtype=torch.uint8), torch.tensor([7, 2, 1])
>>> [(x.shape, y.tolist()) for x, y in image_minibatches(split, batch_size=2, levels=255)]
[(torch.Size([4, 3, 1]), [7, 2, 1])]
"""

import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import numpy as np
import torch
from torch import Tensor

from qlstm.data.files import DataError, File

Part = tuple[Tensor, Tensor]
"""Pixels (n, T), uint8, an image a row, from left to right and top to bottom; labels (n,),
int64."""

CLASSES = 10
"""The labels of all image data sets here are digits."""

PERMUTATION_SEED = 2019
"""Of the one pixel permutation of all runs."""


@dataclass(frozen=True)
class ImageDataset:
    """Images of T pixels, in a training, a validation and a test part, each (pixels, labels) as
    :data:`Part`.

    ``classes``: number of labels, which count from 0. ``levels``: the pixel value that stands for
    1.0. ``sha256``: of the pixels and labels (a byte each) of the three parts in turn; results on
    different images are never pooled. ``reduced``: not a data set of the paper. ``source``: where
    the bytes came from.
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
        """Counts in a line."""
        counts = " / ".join(f"{len(labels):,}" for _, labels in (self.train, self.valid, self.test))
        return f"{counts} images of {self.steps} pixels"

    @property
    def steps(self) -> int:
        """T, the pixels of an image."""
        return self.train[0].shape[1]


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


def read_mnist(contents: list[bytes], valid: int = 10_000) -> list[Part]:
    """The parts from the contents of :data:`MNIST`; the last ``valid`` training images are the
    validation part.

    Raises ``DataError`` for contents that are not such files.
    """
    train, test = _labelled(*contents[:2]), _labelled(*contents[2:])
    n = len(train[1]) - valid
    return [(train[0][:n], train[1][:n]), (train[0][n:], train[1][n:]), test]


def read_digits(_: list[bytes]) -> list[Part]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, 0 to 16, by position: all but 600, 300, 300."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        reason = "the data set digits is part of scikit-learn, which cannot be imported"
        raise DataError(f"{reason}: pip install scikit-learn") from error
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
        raise DataError(
            f"not an idx file of unsigned bytes with {axes} axes: it begins with {content[:4].hex(' ')!r}"
        )
    shape = np.frombuffer(content, ">u4", count=axes, offset=4).tolist()
    values = np.frombuffer(content, np.uint8, offset=start)
    if len(values) != (said := math.prod(shape)):
        raise DataError(
            f"an idx file has {len(values):,} values after its header, which says {shape}: {said:,}"
        )
    return torch.from_numpy(values.reshape(shape).copy())


def image_dataset(
        name: str, parts: list[Part], levels: int, reduced: bool, source: str) -> ImageDataset:
    """The data set of three ``parts``, with its checksum; ``name``, ``levels``, ``reduced``,
    ``source`` as in :class:`ImageDataset`."""
    digest = hashlib.sha256()
    for pixels, labels in parts:
        digest.update(pixels.contiguous().numpy())
        digest.update(labels.to(torch.uint8).numpy())
    return ImageDataset(name, *parts, CLASSES, levels, digest.hexdigest(), reduced, source)


def pixel_permutation(steps: int) -> Tensor:
    """The order, (T,) int64, in which *permuted* images of T = ``steps`` pixels are read: for a T
    the same always and everywhere.

    >>> pixel_permutation(6)
    tensor([3, 4, 1, 0, 5, 2])
    """
    # the one random sequence that Python promises to keep in all versions (torch and numpy do not)
    uniform = random.Random(PERMUTATION_SEED)
    return torch.tensor(sorted(range(steps), key=lambda _: uniform.random()), dtype=torch.int64)


def image_minibatches(split: Part, batch_size: int, *, levels: int, order: Tensor | None = None,
                      permuted: bool = False,
                      device: torch.device | str | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs (inputs, labels): (T, N, 1) from 0 to 1 in torch's default type, a pixel a time step;
    (N,) int64.

    ``split``: a part of an :class:`ImageDataset`, ``levels`` as there. ``order``: a permutation of
    the samples, (n,) int64 (training shuffles); None leaves them as they are. ``permuted``: the
    pixels of each image in the order of :func:`pixel_permutation`. N is ``batch_size``, in the last
    minibatch what is left; one sample alone is joined to the minibatch before, as batch
    normalization needs two. The part is moved to ``device`` once, as uint8. Raises ``DataError``
    for a part without images, a ``batch_size`` below 1, and an ``order`` that is no permutation.
    """
    pixels, labels = split
    n, steps = pixels.shape
    if n < 1:
        raise DataError("a part without images has no minibatches")
    if batch_size < 1:
        raise DataError(f"a minibatch has at least one image, not {batch_size}")
    if order is not None and not torch.equal(order.cpu().sort().values, torch.arange(n)):
        raise DataError(f"the order of {n:,} images has to be a permutation of 0 to {n - 1:,}")
    pixels, labels = pixels.to(device), labels.to(device)
    columns = pixel_permutation(steps).to(device) if permuted else slice(None)
    rows = torch.arange(n, device=device) if order is None else order.to(device)
    dtype = torch.get_default_dtype()
    return (
        (pixels[chunk][:, columns].t().contiguous().to(dtype).div_(levels).unsqueeze(-1),
         labels[chunk])
        for chunk in in_batches(rows, batch_size)
    )


def in_batches(rows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """``rows``, cut into minibatches of ``batch_size`` and a last one of what is left.

    One row alone is joined to the minibatch before, as batch normalization needs two.

    >>> [len(batch) for batch in in_batches(torch.arange(7), 3)]
    [3, 4]
    """
    n = len(rows)
    ends = [
        *range(batch_size, n - (batch_size > 1), batch_size),
        n,
    ]  # the last of a single sample has no end
    return (rows[start:end] for start, end in zip([0, *ends], ends, strict=False))
