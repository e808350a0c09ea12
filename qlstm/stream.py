"""A recurrent network that is given one step at a time, as a stream of symbols is."""

import torch
from torch import Tensor, nn

from qlstm.arguments import as_minibatch
from qlstm.errors import ConfigError
from qlstm.recurrence.cpu import Evaluation


class Stream:
    """Layers in evaluation, without gradients, that keep their state between steps.

    A step is what a call of the layers with T = 1 and the last state gives. On the CPU, with 1- or
    2-bit weights, all that can be is made ready in advance: the weights are those that the layers
    had when the stream was made. :meth:`qlstm.QuantLSTM.stream` makes one.

    Args:
        layers: A :class:`qlstm.layer.QuantRNN` in evaluation mode.
        samples: N.
        state: The state to start from, each tensor (num_layers, N, d); None: zeros.

    Raises:
        ConfigError: The layers are in training mode.

    Example:
        >>> import qlstm
        >>> stream = qlstm.QuantLSTM(50, 32, quantizer="binary_connect").eval().stream()
        >>> for symbol in (3, 1, 4):
        ...     h = stream(torch.tensor([symbol]))
        >>> h.shape
        torch.Size([1, 32])
    """

    @torch.no_grad()
    def __init__(self, layers: nn.Module, samples: int = 1,
                 state: tuple[Tensor, ...] | None = None):
        if layers.training:
            raise ConfigError("a stream is for evaluation: call eval() first")
        like = torch.zeros(1, samples, dtype=torch.int64, device=layers.bias_l0.device)
        _, state, _ = as_minibatch(layers, like, state)
        self.layers, self.samples = layers, samples
        self.state = tuple(part.clone() for part in state)
        """The state after the last step, each tensor (num_layers, N, d)."""
        packed = [layers.packed(k, like) for k in range(layers.num_layers)]
        self._layers = None if None in packed else [
            Evaluation(*matrices, layers.bias(k), [part[k] for part in state], layers.norms(k), 1)
            for k, matrices in enumerate(packed)]

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The hidden state of the last layer, (N, d), after one more step.

        Args:
            x: (N, D), or integers (N,), which stand for one-hot vectors.

        Raises:
            ValueError: Another number of samples or inputs.
        """
        if x.shape[:1] != (self.samples,):
            raise ValueError(f"expected {self.samples} samples, got {tuple(x.shape)}")
        output = self._step(x[None])
        if output is None:
            output, state = self.layers(x[None], self.state)
            for part, new in zip(self.state, state, strict=True):
                part.copy_(new)
        return output[0]

    def _step(self, x: Tensor) -> Tensor | None:
        """The output of one step, (1, N, d), by packed matrices; None where that is not
        possible."""
        if self._layers is None:
            return None
        for k, layer in enumerate(self._layers):
            h, c = layer.states
            h[0].copy_(self.state[0][k])
            c[0].copy_(self.state[1][k])
            if not layer(x):
                return None
            x = h[1:]
        for k, layer in enumerate(self._layers):
            for part, own in zip(self.state, layer.states, strict=True):
                part[k].copy_(own[1])
        return x.clone()
