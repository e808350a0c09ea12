"""QuantLSTM, QuantGRU: latent weights -> quantize, normalize -> recurrence; called like
``torch.nn.LSTM``."""

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from qlstm.errors import ConfigError
from qlstm.normalizers import Normalizer, make_normalizer
from qlstm.quantizers import QUANTIZERS, Quantized, find_quantizer, straight_through
from qlstm.recurrence import check_backend, choose_backend, naive
from qlstm.recurrence.linear import linear

State = tuple[Tensor, ...]


class QuantLSTM(nn.Module):
    """LSTM layers with quantized weight matrices and normalized matrix-vector products.

    Called like ``torch.nn.LSTM``, time first: ``output, (h_n, c_n) = lstm(x, (h_0, c_0))`` with
    ``x`` (T, N, D) or (T, D), or integers (T, N), each standing for a one-hot vector of size D;
    ``output`` (T, N, d); states (num_layers, N, d), zero if left out. Gate order i, f, a, o
    (torch's i, f, g, o); one bias vector of 4d a layer.

    ``input_size``, ``hidden_size``: D and d. ``quantizer``: a name of
    ``qlstm.quantizers.QUANTIZERS``; an importable ``"module:name"``; a function of one matrix (d,
    n) that returns a tensor or a ``Quantized`` (its gradient is straight-through; it may take
    ``second_moment`` or ``generator``); or a module of one matrix, which defines its own gradient
    and trains with the layer. ``normalizer``: a name of ``qlstm.normalizers.NORMALIZERS``, a
    function or a module, see :func:`qlstm.normalizers.make_normalizer`. ``max_steps``: time steps
    with statistics of their own (batch_separate). ``biases``: bias vectors of a layer; torch has 2,
    of which the sum alone matters, but which moves twice as fast in training. ``dropout``: between
    layers, in training. ``quantize_input``: whether the first layer's W_x is quantized too (not in
    sequential MNIST, where it is one column). ``backend``: see :mod:`qlstm.recurrence`.

    The weights that train are the latent ones (``weight_ih_l0``, ...). Loss-aware quantizers read
    buffers ``second_moment_*``, to be set with :meth:`set_second_moment` after each optimizer step.
    Stochastic quantizers sample anew in each training pass, and the same fixed sample
    (``sample_seed``) in every evaluation pass. Under autocast the layer computes in the precision
    of its parameters.

    >>> lstm = QuantLSTM(10, 20, quantizer="binary_connect", normalizer="layer")
    >>> output, (h, c) = lstm(torch.zeros(5, 3, 10))
    >>> output.shape, h.shape
    (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))

    Raises ``ConfigError`` (a ``ValueError``) for settings that do not exist or cannot be combined.
    """

    sample_seed = 0
    backend_used = "naive"
    """The backend of the last forward pass, without a trace."""
    gates = 4
    """i, f, a, o."""
    states = 2
    """Tensors of the state: h and c."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *,
                 quantizer: str | Callable | nn.Module = "full_precision",
                 normalizer: str | Callable | nn.Module = "none", max_steps: int | None = None,
                 biases: int = 1, dropout: float = 0.0, quantize_input: bool = True,
                 backend: str = "auto"):
        super().__init__()
        self.settings = dict(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
                             quantizer=quantizer, normalizer=normalizer, max_steps=max_steps,
                             biases=biases, dropout=dropout, quantize_input=quantize_input)
        sizes = dict(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, biases=biases)
        for name, size in sizes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ConfigError(f"{name} must be a positive integer, got {size!r}")
        if not 0 <= dropout <= 1:
            raise ConfigError(f"dropout must be a probability, got {dropout!r}")
        if biases > 2:
            raise ConfigError(f"biases must be 1 or 2, got {biases!r}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout, self.quantize_input, self.backend = dropout, quantize_input, backend
        check_backend(backend)
        self.quantizer = find_quantizer(quantizer) if isinstance(quantizer, str) else quantizer
        if isinstance(self.quantizer, type) or not callable(self.quantizer):
            raise ConfigError(
                f"quantizer: expected a name, a function or a module (not a class), got {quantizer!r}"
            )
        self._arguments = _arguments(self.quantizer)
        self.stochastic = getattr(self.quantizer, "stochastic", False)
        if self.stochastic and normalizer != "batch_separate":
            raise ConfigError(
                "quantizers 'sbn' and 'stn' are defined with normalizer 'batch_separate' only")
        d, gates = hidden_size, self.gates
        for k in range(num_layers):
            for side, n in [("ih", input_size if k == 0 else d), ("hh", d)]:
                self.register_parameter(
                    f"weight_{side}_l{k}", nn.Parameter(torch.empty(gates * d, n)))
                self.add_module(
                    f"norm_{side}_l{k}", make_normalizer(normalizer, (gates, d), n, max_steps))
                if "second_moment" in self._arguments:  # 1 stands for D = 1: no optimizer step yet
                    self.register_buffer(f"second_moment_{side}_l{k}", torch.ones(gates * d, n))
            self.register_parameter(f"bias_l{k}", nn.Parameter(torch.empty(gates * d)))
            if biases == 2:
                self.register_parameter(f"bias_hh_l{k}", nn.Parameter(torch.empty(gates * d)))
            # SBN and STN normalize the cell state too
            norm_c = make_normalizer(normalizer if self.stochastic else "none", (d,), d, max_steps)
            self.add_module(f"norm_c_l{k}", norm_c)
            if (
                self.stochastic
            ):  # and have one vector for the bias and the two betas of the products
                norms = [getattr(self, f"norm_{side}_l{k}") for side in ("ih", "hh")]
                for norm in norms:
                    norm.fix_shift()
                for norm in (*norms, norm_c):
                    norm.momentum, norm.biased = 0.05, True
        self.reset_parameters()

    def reset_parameters(self):
        """U(-1/sqrt(d), 1/sqrt(d)) for weights and biases, as torch; normalizers as they define
        (SBN, STN: 0.1)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        for module in self.modules():
            if isinstance(module, Normalizer):
                module.reset_parameters()
                if self.stochastic:
                    nn.init.constant_(module.gain, 0.1)

    @classmethod
    def from_torch(cls, lstm: nn.LSTM, **settings) -> "QuantLSTM":
        """A QuantLSTM with the weights of a plain ``torch.nn.LSTM`` (the two bias vectors added
        up).

        ``settings``: keywords of :class:`QuantLSTM`. With weight normalization the gains start at
        the row norms of the given weights, so that the unquantized network computes what the plain
        one does. Raises ``ConfigError`` for a bidirectional, projected or batch-first LSTM.
        """
        if (not isinstance(lstm, nn.LSTM) or lstm.bidirectional or lstm.proj_size
            or lstm.batch_first):
            raise ConfigError(
                "from_torch takes a time-first, one-directional LSTM without projection")
        settings = {"dropout": lstm.dropout} | settings
        own = cls(lstm.input_size, lstm.hidden_size, lstm.num_layers, **settings).to(
            lstm.weight_ih_l0)
        with torch.no_grad():
            for k in range(lstm.num_layers):
                for side in ("ih", "hh"):
                    weight = getattr(lstm, f"weight_{side}_l{k}")
                    getattr(own, f"weight_{side}_l{k}").copy_(weight)
                    norm = getattr(own, f"norm_{side}_l{k}")
                    if settings.get("normalizer") == "weight":
                        norm.gain.copy_(torch.linalg.vector_norm(weight, dim=-1).view_as(norm.gain))
                bias = getattr(own, f"bias_l{k}").zero_()
                if lstm.bias:
                    bias += getattr(lstm, f"bias_ih_l{k}") + getattr(lstm, f"bias_hh_l{k}")
        return own.train(lstm.training)

    def set_second_moment(self, second_moment: dict[str, Tensor]):
        """Give the loss-aware quantizers v by weight name, e.g. ``{"weight_hh_l0":
        adam.state[p]["exp_avg_sq"]}``.

        Each of the shape of its weight; copied. Names other than weights are ignored, and so is the
        whole call if the quantizer takes no second moment.
        """
        for name, moment in second_moment.items():
            buffer = self._buffers.get(name.replace("weight", "second_moment"))
            if buffer is None:
                continue
            if moment.shape != buffer.shape:
                raise ValueError(
                    f"second moment of {name}: expected {tuple(buffer.shape)}, got {tuple(moment.shape)}"
                )
            buffer.copy_(moment.detach())

    def bias(self, k: int) -> Tensor:
        """The bias (4d) that layer ``k`` adds to its products: its vector, or the sum of its
        two."""
        first, second = getattr(self, f"bias_l{k}"), getattr(self, f"bias_hh_l{k}", None)
        return first if second is None else first + second

    @property
    def coded(self) -> bool:
        """Whether each row of a quantized matrix is one magnitude times codes of {-1, 0, +1},
        normalized or not."""
        return (self.quantizer in QUANTIZERS.values() and self.quantizer.scales != "row"
                and self.quantizer.bits <= 2)

    def quantizes(self, name: str) -> bool:
        """Whether the weight of that name is quantized: not in full precision, nor W_x without
        ``quantize_input``."""
        if self.quantizer is QUANTIZERS["full_precision"]:
            return False
        return self.quantize_input or name != "weight_ih_l0"

    def quantized(self, name: str) -> Quantized:
        """Codes (k, 4, d, n) and scales of the four gates' matrices of a weight, e.g.
        ``"weight_hh_l0"``."""
        result = self._quantize(name)
        if isinstance(result, Quantized):
            return result
        return Quantized(result[None], result.new_ones(1, self.gates, 1, 1))

    def freeze(self, weights: dict[str, Quantized]):
        """Fix codes and scales by weight name, in place of what the quantizer computes from a
        latent weight.

        From then on the layer needs no latent weight: its parameter holds the dense values and does
        not train.
        """
        for name, fixed in weights.items():
            for part, value in fixed._asdict().items():
                self.register_buffer(
                    name.replace("weight", f"frozen_{part}"), value.detach(), persistent=False)
            latent = getattr(self, name).requires_grad_(False)
            latent.copy_(fixed.dense().detach().flatten(0, 1))

    def _quantize(self, name: str) -> Quantized | Tensor:
        weight = getattr(self, name).view(self.gates, self.hidden_size, -1)
        if not self.quantizes(name):
            return QUANTIZERS["full_precision"](weight.detach())
        if name.replace("weight", "frozen_codes") in self._buffers:
            return Quantized(
                *(getattr(self, name.replace("weight", f"frozen_{part}"))
                  for part in Quantized._fields)
            )
        extra = {}
        if "generator" in self._arguments and not self.training:
            index = [key for key, _ in self.named_parameters(recurse=False)].index(name)
            extra["generator"] = torch.Generator(weight.device).manual_seed(
                self.sample_seed * 1000 + index)
        if "second_moment" in self._arguments:
            extra["second_moment"] = getattr(self, name.replace("weight", "second_moment")).view_as(
                weight)
        if isinstance(self.quantizer, nn.Module):
            return torch.stack([_dense(self.quantizer(matrix)) for matrix in weight])
        with torch.no_grad():
            if (
                self.quantizer in QUANTIZERS.values()
            ):  # these take the four gates as a batch of matrices
                return self.quantizer(weight, **extra)
            batched = ("second_moment",)
            results = [
                self.quantizer(
                    matrix,
                    **{key: value[g] if key in batched else value for key, value in extra.items()})
                for g, matrix in enumerate(weight)
            ]
            if isinstance(results[0], Quantized):
                return Quantized(*(torch.stack(parts, 1) for parts in zip(*results, strict=True)))
            return torch.stack(results)

    def effective_weight(self, name: str) -> Tensor:
        """The matrix (4d, n) that products are taken with: quantized, then weight-normalized;
        differentiable."""
        latent = getattr(self, name).view(self.gates, self.hidden_size, -1)
        if not self.quantizes(name):
            weight = latent
        else:
            weight = _dense(self._quantize(name))
            if weight.shape != latent.shape:
                raise ConfigError(
                    f"the quantizer returned {tuple(weight.shape[1:])} for a {tuple(latent.shape[1:])} matrix"
                )
            if not isinstance(self.quantizer, nn.Module):
                weight = straight_through(latent, weight)
        return getattr(self, name.replace("weight", "norm")).normalize_weight(weight).flatten(0, 1)

    def forward(
        self, x: Tensor, state: State | None = None, *, trace: list | None = None
    ) -> tuple[Tensor, State]:
        """Run all layers over all steps from ``state``; shapes above.

        ``trace``: if given, receives one list a layer of (h_t, c_t), each (N, d), part of the
        autograd graph, so that the gradient of a loss with respect to any of them can be taken
        (naive backend).
        """
        if isinstance(x, PackedSequence):
            raise TypeError("QuantLSTM takes a padded tensor (T, N, D), not a PackedSequence")
        dtype, autocast = self.weight_ih_l0.dtype, torch.is_autocast_enabled(x.device.type)
        one_hot = not x.is_floating_point()
        unbatched = x.dim() == (1 if one_hot else 2)
        if unbatched:
            x, state = (x.unsqueeze(1),
                        None if state is None else tuple(s.unsqueeze(1) for s in state))
        if x.dim() != (2 if one_hot else 3) or len(x) == 0:
            raise ValueError(
                f"expected at least one time step and (T, N, D) or integers (T, N), got {tuple(x.shape)}"
            )
        if not one_hot and x.shape[-1] != self.input_size:
            got = f"{tuple(x.squeeze(1).shape if unbatched else x.shape)}"
            raise ValueError(
                f"expected input (T, N, {self.input_size}) or (T, {self.input_size}), got {got}")
        shape = (self.num_layers, x.shape[1], self.hidden_size)
        state = (x.new_zeros(shape, dtype=dtype),) * self.states if state is None else state
        if [tuple(s.shape) for s in state] != [shape] * self.states:
            raise ValueError(
                f"expected states {shape}, got {' and '.join(str(tuple(s.shape)) for s in state)}")
        with torch.autocast(x.device.type, enabled=False):
            if autocast:
                x, state = x if one_hot else x.to(dtype), tuple(s.to(dtype) for s in state)
            output, state = self._layers(x, state, trace)
        if unbatched:
            output, state = output.squeeze(1), tuple(s.squeeze(1) for s in state)
        return output, state

    def _recurrence(self, products, norms, traced: bool):
        if traced:
            return naive.recurrence
        module = choose_backend(self.backend, products, norms)
        self.backend_used = module.__name__.rpartition(".")[2]
        return module.recurrence

    def _layers(self, x, state, trace):
        last = []
        for k in range(self.num_layers):
            w_x, w_h = (self.effective_weight(f"weight_ih_l{k}"),
                        self.effective_weight(f"weight_hh_l{k}"))
            # W_x x_t of all steps at once; a one-hot x_t picks a column of W_x
            products = linear(x, w_x) if x.is_floating_point() else F.embedding(x.long(), w_x.T)
            norms = [getattr(self, f"norm_{side}_l{k}") for side in ("ih", "hh", "c")]
            steps = {}
            if trace is not None:
                trace.append([])
                steps["trace"] = trace[-1]
            first = tuple(s[k] for s in state)
            recurrence = self._recurrence(products, norms, trace is not None)
            x, final = recurrence(
                products, w_h, self.bias(k), first, norms, coded=self.coded, **steps)
            last.append(final)
            if k < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    def extra_repr(self):
        """Shown by ``print(lstm)``."""
        name = getattr(self.quantizer, "__name__", type(self.quantizer).__name__)
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, quantizer={name}, backend={self.backend}"


class QuantGRU(QuantLSTM):
    """The same with a gated recurrent unit: gates r, z, n, six matrices, one bias vector of 3d, a
    state of h alone.

    ``output, (h_n,) = gru(x, (h_0,))``; everything else as :class:`QuantLSTM` has it. The equations
    are those of ``torch.nn.GRU`` with b_hn = 0 (:func:`qlstm.recurrence.cell.gru_step`). Only the
    naive backend has it. ``sizes``: input_size, hidden_size and num_layers; ``settings``: the
    keywords of :class:`QuantLSTM`.

    >>> gru = QuantGRU(10, 20, quantizer="binary_connect", normalizer="layer")
    >>> output, (h,) = gru(torch.zeros(5, 3, 10))
    >>> output.shape, gru.weight_hh_l0.shape
    (torch.Size([5, 3, 20]), torch.Size([60, 20]))
    """

    gates, states = 3, 1

    def __init__(self, *sizes, backend: str = "auto", **settings):
        if backend not in ("auto", "naive"):
            raise ConfigError(f"a GRU runs on backend 'naive' only, not {backend!r}")
        super().__init__(*sizes, backend=backend, **settings)
        if self.stochastic:
            raise ConfigError(
                "quantizers 'sbn' and 'stn' normalize the cell state, which a GRU does not have")

    @classmethod
    def from_torch(cls, gru: nn.GRU, **settings) -> "QuantGRU":
        """Not offered: nn.GRU has a bias inside the reset gate's product, which one bias vector
        cannot hold."""
        raise ConfigError("QuantGRU has no from_torch")

    def _recurrence(self, products, norms, traced):
        return naive.gru_recurrence


def _dense(result: Quantized | Tensor) -> Tensor:
    return result.dense() if isinstance(result, Quantized) else result


def _arguments(quantizer) -> set[str]:
    """Which of the optional arguments the quantizer takes."""
    function = quantizer.forward if isinstance(quantizer, nn.Module) else quantizer
    try:
        return {"second_moment", "generator"} & set(inspect.signature(function).parameters)
    except ValueError:  # a function of torch's own has no signature
        return set()
