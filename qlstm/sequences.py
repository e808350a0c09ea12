"""What a layer reads and gives back: sequences in every form that ``torch.nn.LSTM`` takes.

Inside of a layer time comes first, and samples have an axis. Sequences of several lengths
(``torch.nn.utils.rnn.PackedSequence``) fall into stretches of time in which the samples stay the
same. The loop over time runs through one stretch after the other: nothing is computed for padding.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from qlstm.arguments import check_precision
from qlstm.errors import ConfigError, brief
from qlstm.normalizers import Identity, LayerNorm, WeightNorm

State = tuple[Tensor, ...]
"""h and c of an LSTM, h of a GRU."""


class Sequences:
    """The inputs of one call, and the form that its outputs are to have.

    Args:
        layer: The :class:`qlstm.layer.QuantRNN` that reads them.
        given: (T, N, D), with ``batch_first`` (N, T, D); without samples (T, D); integers, each for
            a one-hot vector, without the axis D; or a ``PackedSequence`` of such.

    Attributes:
        x: (T, N, D) or integers (T, N); of packed sequences all steps of all samples, as torch has
            them, (S, D) or (S,).

    Raises:
        ConfigError: The layer is in half precision, or normalizes packed sequences over samples.
        TypeError: The inputs are of another kind.
        ValueError: They are of other sizes or precision, or on device "meta".
    """

    def __init__(self, layer, given: Tensor | PackedSequence):
        self.layer, self.packed = layer, given if isinstance(given, PackedSequence) else None
        x = given if self.packed is None else given.data
        _check_kind(layer, x)
        axes = 1 if x.is_floating_point() else 0  # of what is read in a step
        self.unbatched = self.packed is None and x.dim() == 1 + axes
        if self.packed is not None:
            self.stretches = _stretches(layer, self.packed)
        elif self.unbatched:
            x = x.unsqueeze(1)
        elif layer.batch_first and x.dim() > 1:
            x = x.transpose(0, 1)
        form = "S" if self.packed is not None else "N, T" if layer.batch_first else "T, N"
        if x.dim() != form.count(",") + 1 + axes or x.shape[0] == 0:
            raise ValueError(f"expected at least one time step and ({form}, D) or integers "
                             f"({form}), got {tuple(getattr(given, 'shape', x.shape))}")
        if axes and x.shape[-1] != layer.input_size:
            raise ValueError(f"expected input ({form}, {layer.input_size}) or without samples (T, "
                             f"{layer.input_size}), got {tuple(getattr(given, 'shape', x.shape))}")
        if axes and torch.is_autocast_enabled(x.device.type):
            x = x.to(layer.like.dtype)
        if (axes and x.dtype != layer.like.dtype) or x.device != layer.like.device:
            raise ValueError(f"expected input in {layer.like.dtype} on {layer.like.device}, as the "
                             f"weights are, got {x.dtype} on {x.device}")
        self.x = x

    @property
    def _samples(self) -> int:
        return self.x.shape[1] if self.packed is None else self.stretches[0][1]

    def state(self, given: State | None) -> State:
        """The state to start from, each tensor (layers, N, d) in the order of the samples inside.

        Args:
            given: As many tensors as the layer has states, in the form that it takes; None: zeros.

        Raises:
            TypeError: It is something else.
            ValueError: Its tensors are of other sizes or precision.
        """
        layer, dtype = self.layer, self.layer.like.dtype
        samples = () if self.unbatched else (self._samples,)
        shape = (layer.num_layers * len(layer.directions), *samples, layer.hidden_size)
        if given is None:
            given = (self.x.new_zeros(shape, dtype=dtype),) * layer.states
        if not (isinstance(given, tuple | list) and len(given) == layer.states
                and all(isinstance(part, Tensor) for part in given)):
            wanted = "(h, c), two tensors" if layer.states == 2 else "h, a tensor"
            got = given if layer.states == 2 else given[0]
            raise TypeError(f"expected the state {wanted}, got {brief(got)}")
        if [tuple(part.shape) for part in given] != [shape] * layer.states:
            got = " and ".join(str(tuple(part.shape)) for part in given)
            raise ValueError(f"expected states {shape}, got {got}")
        if torch.is_autocast_enabled(self.x.device.type):
            given = tuple(part.to(dtype) if part.is_floating_point() else part for part in given)
        for part in given:
            if part.dtype != dtype or part.device != layer.like.device:
                raise ValueError(f"expected state in {dtype} on {layer.like.device}, as the weights"
                                 f" are, got {part.dtype} on {part.device}")
        if self.unbatched:
            return tuple(part.unsqueeze(1) for part in given)
        order = None if self.packed is None else self.packed.sorted_indices
        return tuple(given) if order is None else tuple(h.index_select(1, order) for h in given)

    def run(self, loop: Callable[[Tensor, State], tuple[Tensor, State]], x: Tensor, state: State,
            reverse: bool) -> tuple[Tensor, State]:
        """Run a loop over time through all sequences.

        Args:
            loop: A function of inputs (T, N, D) and a state that returns outputs and state.
            x: The inputs, in the form of :attr:`x`.
            state: Before the first step, each tensor (N, d).
            reverse: Whether time runs backwards, for each sample from its own end.

        Returns:
            The outputs, in the form of :attr:`x`, and the state after the last step of each sample.
        """
        if self.packed is None:
            output, last = loop(x.flip(0) if reverse else x, state)
            return output.flip(0) if reverse else output, last
        sizes = [steps * samples for steps, samples in self.stretches]
        pieces = [piece.unflatten(0, stretch)
                  for piece, stretch in zip(x.split(sizes), self.stretches, strict=True)]
        pieces = [piece.flip(0) for piece in reversed(pieces)] if reverse else pieces
        outputs, ended, now = [], [], tuple(part[:0] for part in state)
        for n, piece in ((piece.shape[1], piece) for piece in pieces):
            ended.insert(0, [part[n:] for part in now])
            # samples that have begun before, and those that begin here
            now = tuple(torch.cat([part[:n], first[len(part) : n]])
                        for part, first in zip(now, state, strict=True))
            output, now = loop(piece, now)
            outputs.append(output)
        last = tuple(torch.cat([now[k], *(parts[k] for parts in ended)])
                     for k in range(len(state)))
        outputs = [output.flip(0) for output in reversed(outputs)] if reverse else outputs
        return torch.cat([output.flatten(0, 1) for output in outputs]), last

    def output(self, output: Tensor) -> Tensor | PackedSequence:
        """The ``output`` of all steps, in the form of :attr:`x`, as it was given."""
        if self.packed is not None:
            return self.packed._replace(data=output)
        if self.unbatched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.layer.batch_first else output

    def last(self, state: State) -> State:
        """The last ``state``, with samples in the order in which they were given."""
        if self.unbatched:
            return tuple(part.squeeze(1) for part in state)
        order = None if self.packed is None else self.packed.unsorted_indices
        return state if order is None else tuple(part.index_select(1, order) for part in state)


def _check_kind(layer, x: Tensor):
    name = type(layer).__name__
    if not isinstance(x, Tensor) or x.is_complex():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} takes a tensor (T, N, D) or integers (T, N), or a PackedSequence "
                        f"of such, not {kind}")
    if layer.like.is_meta or x.is_meta:
        raise ValueError(f"{name} does not run on device 'meta', where no numbers are: first "
                         "to_empty(device='cpu') and reset_parameters(), or load_state_dict()")
    if torch.jit.is_tracing():  # it would draw a fixed sample anew
        raise ValueError(f"{name} cannot be recorded by torch.jit.trace; take torch.export")
    check_precision(layer.like)


def _stretches(layer, packed: PackedSequence) -> list[tuple[int, int]]:
    """Steps and samples of each stretch of time in which the samples stay the same."""
    norms = [norm for place in layer.places for norm in layer.norms(*place)]
    if not all(isinstance(norm, Identity | WeightNorm | LayerNorm) for norm in norms):
        raise ConfigError(
            "packed sequences go with normalizers none, weight and layer, which look at each "
            "sample alone: batch statistics would be of few samples in late steps, of one at last, "
            "or of padding")
    sizes = packed.batch_sizes
    if len(sizes) == 0 or (sizes < 1).any() or (sizes.diff() > 0).any() or (
            sizes.sum() != len(packed.data)):
        raise ValueError("the batch_sizes of a PackedSequence must not grow, and add up to its "
                         f"steps, {len(packed.data)}; got {sizes.tolist()[:9]}")
    samples, steps = sizes.unique_consecutive(return_counts=True)
    return list(zip(steps.tolist(), samples.tolist(), strict=True))
