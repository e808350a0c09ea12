"""Minibatches of texts and images: pairs of inputs and targets, time first.

``batch_size``: N, the streams, sequences or images side by side. ``device``: where the whole part
is moved to, once; None leaves it.

>>> steps, samples = 4, 3
>>> split = torch.zeros(samples, steps, dtype=torch.uint8), torch.tensor([7, 2, 1])
>>> [(x.shape, y.tolist()) for x, y in image_minibatches(split, batch_size=2, levels=255)]
[(torch.Size([4, 3, 1]), [7, 2, 1])]
"""

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from qlstm.data.files import DataError
from qlstm.data.images import Part

PERMUTATION_SEED = 2019
"""Of the one pixel permutation of all runs."""


def count_predicted(n: int, batch_size: int) -> int:
    """How many symbols :func:`minibatches` predicts: all but the first of each stream.

    Args:
        n: the symbols of the text.
        batch_size: the streams that it is cut into.

    Raises:
        DataError: the text has fewer than two symbols a stream.
    """
    if batch_size < 1 or n < 2 * batch_size:
        raise DataError(
            f"{n:,} symbols are too few for {batch_size} parallel streams of two symbols or more")
    return batch_size * (n // batch_size - 1)


def minibatches(symbols: Tensor, batch_size: int, steps: int,
                device: torch.device | str | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches of a text, for a state that is carried along from one to the next.

    The text is cut into N streams of n // N symbols. Column j of every minibatch continues column j
    of the one before; up to N - 1 symbols at the end are not used.

    Args:
        symbols: the ids of a text, (n,).
        batch_size: N, the streams side by side.
        steps: T, the time steps of a minibatch; the last one has what is left.
        device: where the whole text is moved to, once.

    Returns:
        Pairs (inputs, targets), both (T, N) int64: a target is the symbol after its input.

    Raises:
        DataError: as :func:`count_predicted`, and for ``steps`` below 1.

    Example:
        >>> pairs = minibatches(torch.arange(6), batch_size=2, steps=5)
        >>> [(x.tolist(), y.tolist()) for x, y in pairs]
        [([[0, 3], [1, 4]], [[1, 4], [2, 5]])]
    """
    count_predicted(len(symbols), batch_size)
    if steps < 1:
        raise DataError(f"a minibatch of {steps} steps predicts nothing")
    length = len(symbols) // batch_size
    streams = symbols[: length * batch_size].to(device).view(batch_size, length).t().contiguous()
    chunks = (streams[start : start + steps + 1].long() for start in range(0, length - 1, steps))
    return ((chunk[:-1], chunk[1:]) for chunk in chunks)


def shuffled_sequences(symbols: Tensor, batch_size: int, steps: int,
                       device: torch.device | str | None = None
                       ) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches of sequences of a text that are read each for itself, in random order.

    The text is cut into sequences from a random one of its first T symbols on; up to T symbols at
    both ends are not used. The order is of torch's random numbers.

    Args:
        symbols: the ids of a text, (n,).
        batch_size: N, the sequences of a minibatch; the last one has what is left.
        steps: T, the time steps of a sequence.
        device: where the whole text is moved to, once.

    Returns:
        Pairs (inputs, targets), both (T, N) int64: a target is the symbol after its input.

    Raises:
        DataError: the text is too short for three sequences.
    """
    if len(symbols) < 3 * steps + 1:
        raise DataError(f"a text of {len(symbols):,} symbols has not the {3 * steps + 1:,} "
                        f"that three sequences of {steps} take")
    first = int(torch.randint(steps, ()))
    starts = first + steps * torch.randperm((len(symbols) - 1 - first) // steps)
    windows = symbols.to(device).unfold(0, steps + 1, 1)
    chunks = (windows[rows.to(device)].t().contiguous().long()
              for rows in in_batches(starts, batch_size))
    return ((chunk[:-1], chunk[1:]) for chunk in chunks)


def pixel_permutation(steps: int) -> Tensor:
    """The order in which *permuted* images are read, always and everywhere the same.

    Args:
        steps: T, the pixels of an image.

    Returns:
        The positions 0 .. T - 1 in another order, (T,) int64.

    Example:
        >>> pixel_permutation(6)
        tensor([3, 4, 1, 0, 5, 2])
    """
    # the one random sequence that Python promises to keep in all versions (torch and numpy do not)
    uniform = random.Random(PERMUTATION_SEED)
    return torch.tensor(sorted(range(steps), key=lambda _: uniform.random()), dtype=torch.int64)


def image_minibatches(split: Part, batch_size: int, *, levels: int, order: Tensor | None = None,
                      permuted: bool = False, device: torch.device | str | None = None
                      ) -> Iterator[tuple[Tensor, Tensor]]:
    """Minibatches of images, a pixel a time step.

    Args:
        split: a part of an :class:`~qlstm.data.images.ImageDataset`: pixels (n, T) and labels (n,).
        batch_size: N, the images of a minibatch; the last one has what is left. One image alone is
            joined to the minibatch before, as batch normalization needs two.
        levels: the pixel value that becomes 1.0.
        order: a permutation of the images, (n,) int64, with which training shuffles; None leaves
            them as they are.
        permuted: whether the pixels of each image come in the order of :func:`pixel_permutation`.
        device: where the whole part is moved to, once, as uint8.

    Returns:
        Pairs (inputs, labels): (T, N, 1) from 0 to 1 in torch's default type, and (N,) int64.

    Raises:
        DataError: for a part without images, a ``batch_size`` below 1, and an ``order`` that is no
            permutation.
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
    return ((pixels[chunk][:, columns].t().contiguous().to(dtype).div_(levels).unsqueeze(-1),
             labels[chunk]) for chunk in in_batches(rows, batch_size))


def in_batches(rows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Cut ``rows``, (n,), into pieces of ``batch_size`` and a last one of what is left.

    One row alone is joined to the piece before, as batch normalization needs two.

    >>> [len(batch) for batch in in_batches(torch.arange(7), 3)]
    [3, 4]
    """
    n = len(rows)
    # the last of a single row has no end of its own
    ends = [*range(batch_size, n - (batch_size > 1), batch_size), n]
    return (rows[start:end] for start, end in zip([0, *ends], ends, strict=False))
