"""A recurrent network that is given one step at a time, as a stream of symbols is."""

import torch
from torch import Tensor, nn

from qlstm.arguments import check_size
from qlstm.errors import ConfigError
from qlstm.recurrence.cpu import Evaluation
from qlstm.sequences import Sequences


class Stream:
    """Layers in evaluation, without gradients, that keep their state between steps.

    A step is what a call of the layers with T = 1 and the last state gives. On the CPU, with 1- or
    2-bit weights, all that can be is made ready in advance: the weights are those that the layers
    had when the stream was made. :meth:`qlstm.QuantLSTM.stream` makes one.

    Args:
        layers: A :class:`qlstm.layer.QuantRNN` in evaluation mode.
        samples: N.
        state: The state to start from, as the layers take it; None: zeros.

    Raises:
        ConfigError: The layers are in training mode, or some run backwards in time.

    Example:
        >>> import qlstm
        >>> stream = qlstm.QuantLSTM(50, 32, quantizer="binary_connect").eval().stream()
        >>> for symbol in (3, 1, 4):
        ...     h = stream(torch.tensor([symbol]))
        >>> h.shape
        torch.Size([1, 32])
    """

    @torch.no_grad()
    def __init__(self, layers: nn.Module, samples: int = 1, state=None):
        if layers.training:
            raise ConfigError("a stream is for evaluation: call eval() first")
        if layers.bidirectional:
            raise ConfigError("a bidirectional layer reads a sequence from its end too: it cannot "
                              "be given a step at a time")
        check_size("samples", samples)
        self.layers, self.samples = layers, samples
        like = torch.zeros(1, samples, dtype=torch.int64, device=layers.like.device)
        self._state = state = self._read(like).state(layers.as_parts(state))
        device = state[0].device
        self._usual = (((samples, layers.input_size), state[0].dtype, device),
                       ((samples,), torch.int64, device))
        packed = [layers.packed(k, like) for k in range(layers.num_layers)]
        self._steps = None if None in packed else [
            Evaluation(w_x.clone() if isinstance(w_x, Tensor) else w_x, w_h, layers.bias_vector(k),
                       tuple(part[k] for part in state), layers.norms(k), 1)
            for k, (w_x, w_h) in enumerate(packed)]

    @property
    def state(self) -> tuple[Tensor, ...] | Tensor:
        """The state after the last step, as the layers give it."""
        return self.layers.as_hx(self._parts)

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        if self._steps is None:
            return self._state
        return tuple(torch.stack([part[0] for part in parts])
                     for parts in zip(*(step.states for step in self._steps), strict=True))

    def _read(self, x: Tensor) -> Sequences:
        return Sequences(self.layers, x.transpose(0, 1) if self.layers.batch_first else x)

    def _expanded(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step by the layers themselves: outputs and state."""
        output, state = self.layers.run(self._read(x[None]), self._parts, None)
        return output[0], state

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """The hidden state of the last layer, (N, d), after one more step.

        Args:
            x: (N, D), or integers (N,), which stand for one-hot vectors.

        Raises:
            IndexError: An integer is not from 0 to D - 1.
            TypeError: No tensor of numbers.
            ValueError: Another number of samples or inputs.
        """
        x = self._checked(x)
        if self._steps is None:
            output, self._state = self._expanded(x)
            return output
        h = x
        for step in self._steps:
            if not step(h[None]):  # a variance overflows: by expanded matrices
                output, state = self._expanded(x)
                for k, known in enumerate(self._steps):
                    known.start(tuple(part[k] for part in state))
                return output
            h = step.states[0][1]
        h = h.clone()
        for step in self._steps:
            step.carry()
        return h

    def _checked(self, x: Tensor) -> Tensor:
        """What a step takes, in the precision of the layers. The usual cases are told apart first:
        all of the layers' own checks take longer than the step."""
        if type(x) is Tensor and (x.shape, x.dtype, x.device) in self._usual:
            return x
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor (N, D) or integers (N,), got {type(x).__name__}")
        if x.shape[:1] != (self.samples,):
            raise ValueError(f"expected {self.samples} samples, got {tuple(x.shape)}")
        found = self._read(x[None])
        if found.unbatched:
            raise ValueError(f"expected (N, {self.layers.input_size}) or integers (N,), got "
                             f"{tuple(x.shape)}")
        return found.x[0]

    def __reduce__(self):
        """A copy goes on from the same state."""
        return Stream, (self.layers, self.samples, self.state)
