"""What is measured of a network during training, always on the same minibatch."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qlstm.study import traces


class Probe(NamedTuple):
    """Measures a network without changing it or the random numbers of its training."""

    model: nn.Module
    """The network, as it is at the moment of a measurement."""
    inputs: Tensor
    """The first minibatch of the training data: symbols (T, N) or pixels (T, N, 1)."""
    targets: Tensor
    """What is to be predicted of it: symbols (T, N) or labels (N,)."""
    seed: int
    """The random numbers of every measurement (dropout, noise, quantizers) start from here."""

    def gradients(self) -> dict[str, Any]:
        """Return gradient norms over time and the two sides of the proposition that applies."""
        minibatch = (self.model, self.inputs, self.targets)
        with self._own_random_numbers():
            return {"gradient_norms": traces.gradient_norms(*minibatch),
                    "propositions": traces.propositions(*minibatch)}

    def weights(self, *, finite: bool = True) -> dict[str, Any]:
        """Return the scales, gains and spectral norms of the recurrent matrices.

        Args:
            finite: Whether the weights are finite; else they have no spectral norms (None).
        """
        rnn = self.model.rnn
        with self._own_random_numbers():
            return {"alpha": traces.scales(rnn), "gains": traces.gains(rnn),
                    "spectral": traces.spectral(self.model, self.inputs) if finite else None}

    @contextlib.contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        with own_random_numbers(self.inputs.device):
            torch.manual_seed(self.seed)
            yield


def own_random_numbers(device: torch.device) -> contextlib.AbstractContextManager:
    """Return a context after which torch's random generators are as they were before.

    Args:
        device: The device whose generator is put aside, beside that of the CPU.
    """
    return torch.random.fork_rng(
        devices=[torch.cuda.current_device()] if device.type == "cuda" else [])
