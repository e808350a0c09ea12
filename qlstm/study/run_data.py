"""The data of one run: the parts that it is trained and evaluated on, and their minibatches."""

from collections.abc import Iterator

import torch
from torch import Tensor

from qlstm import data
from qlstm.study.config import ExperimentConfig

EVALUATION_STREAMS = 64
"""Parallel streams that a text is read in to be evaluated."""
EVALUATION_IMAGES = 250
"""Images of a minibatch in evaluation."""


class RunData:
    """The data set of a run, cut to the length that its configuration asks for.

    Attributes:
        dataset: The whole data set, as :func:`qlstm.data.load_dataset` returns it.
        splits: The parts ``train``, ``valid`` and ``test``: a text is a tensor of symbols (n,),
            images are a pair of pixels (n, T) and labels (n,).

    Args:
        config: The settings of the run, which name the data set and how much of it is used.
        device: Where the minibatches are put.

    Raises:
        DataError: The data set is missing, damaged, or of another task.
    """

    def __init__(self, config: ExperimentConfig, device: torch.device):
        self.config, self.device = config, device
        self.dataset = data.load_dataset(config.dataset, config.task)
        limits = {"train": config.max_train, "valid": config.max_train // 8,
                  "test": config.max_train // 8}
        self.splits = {
            name: _first(getattr(self.dataset, name), most) for name, most in limits.items()}
        if config.task == "sequential_image" and config.steps != self.dataset.steps:
            self.splits = {
                name: data.smaller(part, config.steps) for name, part in self.splits.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """The number of symbols or images of each part."""
        return {name: len(split[0] if isinstance(split, tuple) else split)
                for name, split in self.splits.items()}

    def minibatches(self, split: str, *, shuffled: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the minibatches of one pass over a part of the data.

        Args:
            split: The part: ``"train"``, ``"valid"`` or ``"test"``.
            shuffled: Whether the samples of the training part come in a random order. A text whose
                state is carried on is always read in its own order, and so are the other parts.

        Returns:
            Pairs of inputs and targets: (T, N) symbols and the (T, N) symbols that follow them, or
            (T, N, 1) pixels and (N,) labels.
        """
        config, part, training = self.config, self.splits[split], split == "train"
        shuffled = shuffled and training
        if config.task == "sequential_image":
            order = torch.randperm(self.sizes[split]) if shuffled else None
            return data.image_minibatches(
                part, config.batch_size if training else EVALUATION_IMAGES, order=order,
                levels=self.dataset.levels, permuted=config.permuted, device=self.device)
        if shuffled and not config.carry_state:
            return data.shuffled_sequences(
                part, config.batch_size, config.steps, device=self.device)
        streams = config.batch_size if training else min(EVALUATION_STREAMS, len(part) // 2)
        return data.minibatches(part, streams, config.steps, device=self.device)


def _first(split: Tensor | tuple[Tensor, ...], most: int) -> Tensor | tuple[Tensor, ...]:
    """So many symbols of a text, or images, from the first on; 0: all."""
    if not most:
        return split
    return tuple(tensor[:most] for tensor in split) if isinstance(split, tuple) else split[:most]
