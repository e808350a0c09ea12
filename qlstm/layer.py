"""What QuantLSTM and QuantGRU share: latent weights, quantized and normalized, run over time.

:class:`qlstm.lstm.QuantLSTM` explains what both are made with. ``k`` is the number of a layer, from
0, and ``reverse`` says whether of its direction that runs backwards in time; both name a *place*.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from qlstm.arguments import check_layer, check_quantizer
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import Normalizer, make_normalizer
from qlstm.quantizers import QUANTIZERS, Quantized, find_quantizer
from qlstm.recurrence import check_backend, choose_backend, cpu, naive
from qlstm.recurrence.codes import Codes
from qlstm.sequences import Sequences, State
from qlstm.stream import Stream
from qlstm.tracing import between_graphs, without_autocast
from qlstm.weight import LatentWeight, suffix


class QuantRNN(nn.Module):
    """What :class:`~qlstm.lstm.QuantLSTM`, which explains the settings, and
    :class:`~qlstm.gru.QuantGRU` share.

    Args:
        settings: The layer's arguments by name, but for the next three.
        backend: As the layer has it, like ``device`` and ``dtype``.
        device: See above.
        dtype: See above.
    """

    mode: str
    """"LSTM" or "GRU", as torch's layers have it."""
    plain: type[nn.LSTM] | type[nn.GRU]
    """The layer of torch with the same arguments."""
    gates: int
    states: int
    loop: str
    """The function of a backend that runs it."""
    sample_seed = 0
    """Of the one sample that a stochastic quantizer takes in all evaluation passes."""
    backend_used = "naive"
    """The backend of the last forward pass without a trace."""
    proj_size = 0

    def __init__(self, settings: dict[str, Any], backend: str, device, dtype: torch.dtype | None):
        super().__init__()
        self.settings = settings
        check_layer(settings, dtype)
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
                     "bidirectional", "quantize_input"):
            setattr(self, name, settings[name])
        self.backend = backend
        check_backend(backend)
        quantizer, normalizer = settings["quantizer"], settings["normalizer"]
        self.quantizer = find_quantizer(quantizer) if isinstance(quantizer, str) else quantizer
        self.stochastic = getattr(self.quantizer, "stochastic", False)
        check_quantizer(self.quantizer, self.stochastic, normalizer)
        with torch.device(torch.get_default_device() if device is None else device):
            for place in self.places:
                self._add(*place)
        if device is not None or dtype is not None:  # quantizers of one's own too
            self.to(device=device, dtype=dtype)
        self.reset_parameters()

    @property
    def directions(self) -> tuple[bool, ...]:
        """Whether each direction is the reverse one."""
        return (False, True) if self.bidirectional else (False,)

    @property
    def places(self) -> list[tuple[int, bool]]:
        """All layers and directions, in torch's order."""
        return list(itertools.product(range(self.num_layers), self.directions))

    @property
    def like(self) -> Tensor:
        """A tensor of the layer's precision, on its device: a bias, a weight, or of a packed one
        its scales."""
        names = ("bias_l0", "weight_hh_l0", "frozen_scales_hh_l0")
        return next(tensor for name in names if (tensor := getattr(self, name, None)) is not None)

    def _add(self, k: int, reverse: bool):
        """Give one place its tensors, not yet filled."""
        d, place = self.hidden_size, suffix(k, reverse)
        for side in ("ih", "hh"):
            LatentWeight(self, side, k, reverse).register()
        for name in self._bias_names:
            self.register_parameter(f"{name}_{place}", nn.Parameter(torch.empty(self.gates * d)))
        # SBN and STN normalize the cell state too
        kind = self.settings["normalizer"] if self.stochastic else "none"
        norm_c = make_normalizer(kind, (d,), d, self.settings["max_steps"])
        self.add_module(f"norm_c_{place}", norm_c)
        if self.stochastic:  # and have one vector for the bias and the shifts of the products
            for side in ("ih", "hh"):
                self.weight(side, k, reverse).norm.fix_shift()

    def reset_parameters(self):
        r"""Weights and biases start at $U(-1/\sqrt d, 1/\sqrt d)$; SBN and STN as released."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        for weight in self._weights.values():
            weight.reset()
        for module in self.modules():
            if isinstance(module, Normalizer):
                module.reset_parameters()
                if self.stochastic:
                    nn.init.constant_(module.gain, 0.1)
                    module.momentum, module.biased = 0.05, True

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """Of each place its matrices and bias vectors, as torch's layers have it."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _all_weights(self) -> list[list[str]]:
        """Their names: scripts use them to choose initial values."""
        return [[f"{kind}_{suffix(*place)}" for kind in
                 ("weight_ih", "weight_hh", *self._bias_names)] for place in self.places]

    @property
    def _bias_names(self) -> list[str]:
        return ["bias", "bias_hh"][: self.settings["biases"] if self.bias else 0]

    def flatten_parameters(self):
        """Nothing, as there is nothing to do; torch's layers have it, and scripts call it."""

    def weight(self, side: str, k: int, reverse: bool = False) -> LatentWeight:
        """The latent matrix of one ``side`` of one place: ``"ih"`` for $W_x$, ``"hh"`` for
        $W_h$."""
        return self._weight(f"weight_{side}_{suffix(k, reverse)}")

    def _weight(self, name: str) -> LatentWeight:
        weights = self._weights
        if name not in weights:
            raise ConfigError(unknown("weight", name, weights))
        return weights[name]

    @property
    def _weights(self) -> dict[str, LatentWeight]:
        """Made anew, as a shallow copy of the layer (torch's DataParallel makes some) has tensors
        of its own."""
        weights = [LatentWeight(self, side, *place)
                   for place in self.places for side in ("ih", "hh")]
        return {weight.name: weight for weight in weights}

    def weight_names(self, k: int) -> list[str]:
        """The names of the matrices of layer ``k``."""
        return [self.weight(side, k, reverse).name
                for reverse in self.directions for side in ("ih", "hh")]

    def biases(self, k: int, reverse: bool = False) -> list[Tensor]:
        """The bias vectors (gates d) of a place: none, one or two."""
        return [getattr(self, f"{name}_{suffix(k, reverse)}") for name in self._bias_names]

    def bias_vector(self, k: int, reverse: bool = False) -> Tensor:
        """What a step of a place adds, (4d): an LSTM's bias vector, or the sum of its two; a GRU's
        as :func:`qlstm.recurrence.naive.gru_recurrence` takes it."""
        raise NotImplementedError

    @property
    def coded(self) -> bool:
        """Whether each row of a quantized matrix is one magnitude times codes of {-1, 0, +1}."""
        known = self.quantizer in QUANTIZERS.values()
        return known and self.quantizer.scales != "row" and self.quantizer.bits <= 2

    def columns(self, name: str) -> int:
        """The columns n of the weight of a ``name``."""
        return self._weight(name).columns

    def quantizes(self, name: str) -> bool:
        """Whether the weight of a ``name`` such as ``"weight_hh_l0"`` is quantized."""
        return self._weight(name).is_quantized

    def quantized(self, name: str) -> Quantized:
        """Codes (planes, gates, d, n) and scales of the weight of a ``name``."""
        return self._weight(name).quantized()

    def effective_weight(self, name: str) -> Tensor:
        """The matrix (gates d, n) that stands for the weight of a ``name`` in all products."""
        return self._weight(name).effective()

    def freeze(self, weights: dict[str, Quantized] | None = None):
        """Fix the codes and scales of the ``weights`` that are named, as in a packed model; None:
        those that all have now, before an export."""
        if weights is None:
            weights = {name: self.quantized(name) for name in self._weights if self.quantizes(name)}
        for name, fixed in weights.items():
            self._weight(name).freeze(fixed)

    def set_second_moment(self, second_moment: dict[str, Tensor]):
        """Tell the loss-aware quantizers Adam's second moment; after each step of the optimizer.

        Args:
            second_moment: $v$ by the weight's name, for example
                ``{"weight_hh_l0": adam.state[lstm.weight_hh_l0]["exp_avg_sq"]}``; copied. Names of
                other parameters are ignored; another shape raises ``ValueError``.
        """
        for name in self._weights.keys() & second_moment.keys():
            self._weight(name).set_second_moment(second_moment[name])

    def forward(self, input: Tensor | PackedSequence, hx=None, *, trace: list | None = None):
        """Run all layers over all time steps.

        Args:
            input: (T, N, D), with ``batch_first`` (N, T, D), without samples (T, D); integers, each
                for a one-hot vector of size D, without the axis D; or a ``PackedSequence`` of such.
            hx: The state to start from: h and c, or of a GRU h, each (num_layers, N, d), with two
                directions (2 num_layers, N, d); None: zeros.
            trace: A list that receives, for each layer and direction, the list of its states after
                each step, each (N, d), in the order of computation, so that a gradient with respect
                to them can be taken (naive backend).

        Returns:
            The hidden states of the last layer in the form of ``input``, d of each direction beside
            each other, and the state after the last step, in that of ``hx``.
        """
        if isinstance(input, PackedSequence) and torch.compiler.is_compiling():
            return between_graphs(self.forward, input, hx, trace=trace)
        sequences = Sequences(self, input)
        state = sequences.state(self.as_parts(hx))
        output, state = self.run(sequences, state, trace)
        return sequences.output(output), self.as_hx(sequences.last(state))

    def as_parts(self, hx) -> State | None:
        """The tensors of a state ``hx`` in a tuple, of a GRU of one; None if it is None."""
        return hx

    def as_hx(self, parts: State):
        """The state that the layer gives back, of its ``parts``."""
        return parts

    def run(self, sequences: Sequences, state: State, trace: list | None = None):
        """As :meth:`forward`, in the form that sequences have inside.

        Args:
            sequences: The inputs.
            state: Each tensor (layers and directions, N, d).
            trace: As in :meth:`forward`.

        Returns:
            Outputs, (T, N, d) of each direction, and state.
        """
        x, last = sequences.x, []
        with without_autocast(x.device.type):
            for k in range(self.num_layers):
                outputs = []
                for reverse in self.directions:
                    if trace is not None:
                        trace.append([])
                    loop = functools.partial(
                        self._loop, k, reverse, {}, trace if trace is None else trace[-1])
                    start = tuple(part[len(last)] for part in state)
                    output, final = sequences.run(loop, x, start, reverse)
                    outputs.append(output)
                    last.append(final)
                x = torch.cat(outputs, -1) if self.bidirectional else outputs[0]
                if k < self.num_layers - 1:
                    x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _loop(self, k: int, reverse: bool, matrices: dict[str, Any], trace: list | None, x: Tensor,
              state: State) -> tuple[Tensor, State]:
        """One place over time. ``matrices`` keeps W_x and W_h, quantized once in a forward pass, as
        quantizers may draw them."""
        norms, bias = self.norms(k, reverse), self.bias_vector(k, reverse)
        if "packed" not in matrices:
            matrices["packed"] = self.packed(k, x, reverse) if trace is None else None
        found = matrices["packed"] and cpu.evaluate(x, *matrices["packed"], bias, state, norms)
        if found:
            return found
        if "effective" not in matrices:
            matrices["effective"] = [
                self.weight(side, k, reverse).effective() for side in ("ih", "hh")]
        w_x, w_h = matrices["effective"]
        if trace is not None:
            return getattr(naive, self.loop)(x, w_x, w_h, bias, state, norms, trace=trace)
        return self._fastest(x, w_h, norms)(x, w_x, w_h, bias, state, norms, coded=self.coded)

    def packed(self, k: int, x: Tensor,
               reverse: bool = False) -> tuple[Codes | Tensor, Codes] | None:
        """The packed matrices $W_x$ (the matrix itself, where it has no codes) and $W_h$.

        Args:
            x: Inputs, of which the device and N matter.

        Returns:
            None where the expanded matrices are needed: in training, with gradients, on another
            device than the CPU, without a C++ compiler, without codes.
        """
        weight_x, weight_h = (self.weight(side, k, reverse) for side in ("ih", "hh"))
        if torch.is_grad_enabled():
            for weight in (weight_x, weight_h):  # they may be about to change
                weight.forget()
            return None
        like, d = self.like, self.hidden_size
        if self.training or like.dtype != torch.float32 or torch.compiler.is_compiling():
            return None
        like_w_h = like.new_empty(()).expand(self.gates * d, d)  # without its numbers
        if self._fastest(x, like_w_h, self.norms(k, reverse)) is not getattr(cpu, self.loop):
            return None
        w_h, w_x = weight_h.packed(), weight_x.packed()
        return w_h and (w_x or weight_x.effective(), w_h)

    def norms(self, k: int, reverse: bool = False) -> list[Normalizer]:
        """The normalizers of a place: of input product, recurrent product and cell state."""
        return [getattr(self, f"norm_{what}_{suffix(k, reverse)}") for what in ("ih", "hh", "c")]

    def stream(self, samples: int = 1, state=None) -> Stream:
        """What runs the layers a step at a time, in evaluation, with the weights as they are now.

        Args:
            samples: N.
            state: The state to start from, ``hx`` of :meth:`forward`.
        """
        return Stream(self, samples, state)

    def train(self, mode: bool = True):
        """Set the ``mode``: training or evaluation, for which matrices are then packed anew."""
        for weight in self._weights.values():
            weight.forget()
        return super().train(mode)

    def _fastest(self, x: Tensor, w_h: Tensor, norms: list[Normalizer]) -> Callable:
        """The loop of the backend that is to run."""
        module = choose_backend(
            self.backend, x, w_h, norms, coded=self.coded, loop=self.loop)
        self.backend_used = module.__name__.rpartition(".")[2]
        return getattr(module, self.loop)

    def extra_repr(self) -> str:
        """For ``print(lstm)``."""
        usual = dict(num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False)
        name = getattr(self.quantizer, "__name__", type(self.quantizer).__name__)
        own = {name: self.settings[name] for name, value in usual.items()
               if self.settings[name] != value} | {"quantizer": name, "backend": self.backend}
        return ", ".join([f"{self.input_size}, {self.hidden_size}",
                          *(f"{name}={value}" for name, value in own.items())])
