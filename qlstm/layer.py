"""QuantLSTM, and what it shares with QuantGRU: latent weights, quantized and normalized, run over
time.

:class:`QuantLSTM` explains what both are made with: ``input_size``, ``hidden_size``,
``num_layers``, ``quantizer``, ``normalizer``, ``max_steps``, ``biases``, ``dropout``,
``quantize_input`` and ``backend``.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.arguments import as_minibatch, check_layer, check_quantizer
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import Normalizer, make_normalizer
from qlstm.quantizers import QUANTIZERS, Quantized, find_quantizer
from qlstm.recurrence import check_backend, choose_backend, cpu, naive
from qlstm.recurrence.codes import Codes
from qlstm.stream import Stream
from qlstm.tracing import without_autocast
from qlstm.weight import LatentWeight

State = tuple[Tensor, ...]  # h and c of an LSTM, h of a GRU; each (num_layers, N, d)


class QuantRNN(nn.Module):
    """What :class:`QuantLSTM`, which explains the arguments, and :class:`~qlstm.gru.QuantGRU`
    share."""

    gates: int
    states: int
    loop: str
    """The function of a backend that runs it."""
    sample_seed = 0
    """Of the one sample that a stochastic quantizer takes in all evaluation passes."""
    backend_used = "naive"
    """The backend of the last forward pass without a trace."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, *, biases: int,
                 dropout: float, quantize_input: bool, backend: str, quantizer, normalizer,
                 max_steps: int | None):
        super().__init__()
        self.settings = dict(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
            quantizer=quantizer, normalizer=normalizer, max_steps=max_steps, biases=biases,
            dropout=dropout, quantize_input=quantize_input)
        check_layer(self.settings)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.quantize_input, self.backend = dropout, quantize_input, backend
        check_backend(backend)
        self.quantizer = find_quantizer(quantizer) if isinstance(quantizer, str) else quantizer
        self.stochastic = getattr(self.quantizer, "stochastic", False)
        check_quantizer(self.quantizer, self.stochastic, normalizer)
        for k in range(num_layers):
            self._add_layer(k, biases)
        self.reset_parameters()

    def _add_layer(self, k: int, biases: int):
        d = self.hidden_size
        for side, columns in (("ih", self.input_size if k == 0 else d), ("hh", d)):
            LatentWeight(self, side, k).register(columns)
        self.register_parameter(f"bias_l{k}", nn.Parameter(torch.empty(self.gates * d)))
        if biases == 2:
            self.register_parameter(f"bias_hh_l{k}", nn.Parameter(torch.empty(self.gates * d)))
        # SBN and STN normalize the cell state too
        kind = self.settings["normalizer"] if self.stochastic else "none"
        norm_c = make_normalizer(kind, (d,), d, self.settings["max_steps"])
        self.add_module(f"norm_c_l{k}", norm_c)
        if self.stochastic:  # and have one vector for the bias and the shifts of the products
            for norm in (self.weight("ih", k).norm, self.weight("hh", k).norm):
                norm.fix_shift()

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

    def weight(self, side: str, k: int) -> LatentWeight:
        """The latent matrix of one side of one layer.

        ``side``: ``"ih"`` for $W_x$, ``"hh"`` for $W_h$; ``k``: the number of the layer, from 0.
        """
        return self._weight(f"weight_{side}_l{k}")

    def _weight(self, name: str) -> LatentWeight:
        weights = self._weights
        if name not in weights:
            raise ConfigError(unknown("weight", name, weights))
        return weights[name]

    @property
    def _weights(self) -> dict[str, LatentWeight]:
        """Made anew, as a shallow copy of the layer (torch's DataParallel makes some) has tensors
        of its own."""
        weights = [LatentWeight(self, side, k)
                   for k in range(self.num_layers) for side in ("ih", "hh")]
        return {weight.name: weight for weight in weights}

    def bias_vector(self, k: int) -> Tensor:
        """What a step of layer ``k`` adds, (4d): the bias vector of an LSTM, or the sum of its two;
        of a GRU as :func:`qlstm.recurrence.naive.gru_recurrence` takes it."""
        first, second = getattr(self, f"bias_l{k}"), getattr(self, f"bias_hh_l{k}", None)
        return first if second is None else first + second

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

    def forward(self, x: Tensor, state: State | None = None, *,
                trace: list | None = None) -> tuple[Tensor, State]:
        """Run all layers over all time steps.

        Args:
            x: The inputs, (T, N, D) or without samples (T, D); or integers (T, N), each of which
                stands for a one-hot vector of size D.
            state: The state to start from, each tensor (num_layers, N, d); None: zeros.
            trace: A list that receives, for each layer, the list of its states after each step,
                each (N, d), so that a gradient with respect to them can be taken (naive backend).

        Returns:
            The hidden states of the last layer, (T, N, d), and the state after the last step.
        """
        x, state, unbatched = as_minibatch(self, x, state)
        with without_autocast(x.device.type):
            output, state = self._layers(x, state, trace)
        if unbatched:
            output, state = output.squeeze(1), tuple(part.squeeze(1) for part in state)
        return output, state

    def _layers(self, x: Tensor, state: State, trace: list | None) -> tuple[Tensor, State]:
        last = []
        for k in range(self.num_layers):
            part = tuple(part[k] for part in state)
            packed = self.packed(k, x) if trace is None else None
            found = packed and cpu.evaluate(x, *packed, self.bias_vector(k), part, self.norms(k))
            x, final = found or self._recurrent(k, x, part, trace)
            last.append(final)
            if k < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def _recurrent(self, k: int, x: Tensor, state: State,
                   trace: list | None) -> tuple[Tensor, State]:
        w_x, w_h = (self.weight(side, k).effective() for side in ("ih", "hh"))
        norms, steps = self.norms(k), {}
        if trace is not None:
            trace.append([])
            steps["trace"] = trace[-1]
        recurrence = self._fastest(x, w_h, norms) if trace is None else getattr(naive, self.loop)
        return recurrence(x, w_x, w_h, self.bias_vector(k), state, norms, coded=self.coded, **steps)

    def packed(self, k: int, x: Tensor) -> tuple[Codes | Tensor, Codes] | None:
        """The packed matrices $W_x$ (the matrix itself, where it has no codes) and $W_h$.

        Args:
            k: The number of the layer, from 0.
            x: Inputs, of which the device and N matter.

        Returns:
            None where the expanded matrices are needed: in training, with gradients, on another
            device than the CPU, without a C++ compiler, without codes.
        """
        bias, d = getattr(self, f"bias_l{k}"), self.hidden_size
        if torch.is_grad_enabled():
            for side in ("ih", "hh"):  # they may be about to change
                self.weight(side, k).forget()
            return None
        if self.training or bias.dtype != torch.float32 or torch.compiler.is_compiling():
            return None
        like_w_h = bias.new_empty(()).expand(self.gates * d, d)  # without its numbers
        if self._fastest(x, like_w_h, self.norms(k)) is not getattr(cpu, self.loop, None):
            return None
        weight_x, weight_h = self.weight("ih", k), self.weight("hh", k)
        w_h, w_x = weight_h.packed(), weight_x.packed()
        return w_h and (w_x or weight_x.effective(), w_h)

    def norms(self, k: int) -> list[Normalizer]:
        """The normalizers of layer ``k``: of input product, recurrent product and cell state."""
        return [self.weight("ih", k).norm, self.weight("hh", k).norm, getattr(self, f"norm_c_l{k}")]

    def stream(self, samples: int = 1, state: State | None = None) -> Stream:
        """What runs the layers a step at a time, in evaluation, with the weights as they are now.

        Args:
            samples: N.
            state: As in :meth:`forward`.
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
        name = getattr(self.quantizer, "__name__", type(self.quantizer).__name__)
        return (f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, "
                f"quantizer={name}, backend={self.backend}")


class QuantLSTM(QuantRNN):
    """LSTM layers with quantized weight matrices and normalized matrix-vector products.

    Called like ``torch.nn.LSTM``, time first: ``output, (h_n, c_n) = lstm(x, (h_0, c_0))``. What
    trains are the latent weights (``weight_ih_l0``, ...). Gate order i, f, a, o (torch's i, f, g,
    o). Stochastic quantizers sample anew in each training pass, and take the same fixed sample in
    every evaluation pass. In evaluation without gradients (``torch.no_grad()``) on the CPU, 1- and
    2-bit matrices are packed once and stay so, until a parameter changes.

    Args:
        input_size: D, the features of an input.
        hidden_size: d, the units of a layer.
        num_layers: Layers, each above the one before.
        quantizer: How matrices are quantized: a name of ``qlstm.quantizers.QUANTIZERS``; an
            importable ``"module:name"``; a function of one matrix (d, n) that returns a tensor or
            a ``Quantized``, whose gradient is straight-through and which may take
            ``second_moment`` or ``generator``; or a module of one matrix, which defines its own
            gradient and trains with the layer.
        normalizer: How products are normalized: a name of ``qlstm.normalizers.NORMALIZERS``, a
            function or a module (:func:`qlstm.normalizers.make_normalizer`).
        max_steps: Time steps with statistics of their own (``batch_separate`` only).
        biases: Bias vectors of a layer. torch has 2: their sum alone matters, but it moves twice as
            fast in training.
        dropout: Probability of dropout between layers, in training.
        quantize_input: Whether the first layer's $W_x$ is quantized too. It is not in sequential
            MNIST, where it is one column.
        backend: Who runs the loop over time (:mod:`qlstm.recurrence`).

    Shape:
        x (T, N, D), output (T, N, d), each state (num_layers, N, d).

    Raises:
        ConfigError: Settings that do not exist or cannot be combined.

    Example:
        >>> lstm = QuantLSTM(10, 20, quantizer="binary_connect", normalizer="layer")
        >>> output, (h, c) = lstm(torch.zeros(5, 3, 10))
        >>> output.shape, h.shape
        (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    """

    gates = 4
    """i, f, a, o."""
    states = 2
    """Tensors of the state: h and c."""
    loop = "recurrence"

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *,
                 quantizer: str | Callable | nn.Module = "full_precision",
                 normalizer: str | Callable | nn.Module = "none", max_steps: int | None = None,
                 biases: int = 1, dropout: float = 0.0, quantize_input: bool = True,
                 backend: str = "auto"):
        super().__init__(input_size, hidden_size, num_layers, quantizer=quantizer,
                         normalizer=normalizer, max_steps=max_steps, biases=biases,
                         dropout=dropout, quantize_input=quantize_input, backend=backend)

    @classmethod
    @torch.no_grad()
    def from_torch(cls, lstm: nn.LSTM, **settings) -> "QuantLSTM":
        """Take over the weights of a plain LSTM, its two bias vectors added up.

        Args:
            lstm: The trained network.
            settings: Keywords of :class:`QuantLSTM`. With weight normalization the gains start at
                the norms of the given rows, so that the unquantized network computes the same.

        Raises:
            ConfigError: The LSTM is bidirectional, projected or batch-first.
        """
        plain = isinstance(lstm, nn.LSTM) and not (lstm.bidirectional or lstm.proj_size)
        if not plain or lstm.batch_first:
            raise ConfigError("from_torch takes a time-first, one-directional LSTM without "
                              "projection")
        settings = {"dropout": lstm.dropout} | settings
        own = cls(lstm.input_size, lstm.hidden_size, lstm.num_layers, **settings)
        own = own.to(lstm.weight_ih_l0)
        for name, weight in own._weights.items():
            theirs = getattr(lstm, name)
            weight.latent.copy_(theirs.view_as(weight.latent))
            if settings.get("normalizer") == "weight":
                gain = weight.norm.gain
                gain.copy_(torch.linalg.vector_norm(theirs, dim=-1).view_as(gain))
        for k in range(lstm.num_layers):
            bias = getattr(own, f"bias_l{k}").zero_()
            if lstm.bias:
                bias += getattr(lstm, f"bias_ih_l{k}") + getattr(lstm, f"bias_hh_l{k}")
        return own.train(lstm.training)
