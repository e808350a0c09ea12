"""QuantLSTM: the layer of the study."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qlstm.conversion import from_torch, to_torch
from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN


class QuantLSTM(QuantRNN):
    """LSTM layers with quantized weight matrices and normalized matrix-vector products.

    It takes the place of ``torch.nn.LSTM``: arguments, inputs and outputs are the same, and more
    follow after them. ``output, (h_n, c_n) = lstm(x, (h_0, c_0))``. What trains are the latent
    weights (``weight_ih_l0``, ...). Gate order i, f, a, o (torch's i, f, g, o). Stochastic
    quantizers sample anew in each training pass, and take the same fixed sample in every evaluation
    pass. In evaluation without gradients (``torch.no_grad()``) on the CPU, 1- and 2-bit matrices
    are packed once and stay so, until a parameter changes.

    Args:
        input_size: D, the features of an input.
        hidden_size: d, the units of a layer.
        num_layers: Layers, each above the one before.
        bias: Whether layers have bias vectors.
        batch_first: Whether inputs and outputs are (N, T, D); states stay as they are.
        dropout: Probability of dropout between layers, in training.
        bidirectional: Whether each layer has a second direction, which runs backwards in time, with
            weights and normalizers of its own (names that end in ``_reverse``).
        proj_size: 0; projections are refused.
        device: Where the tensors are made.
        dtype: ``torch.float32`` (default) or ``torch.float64``.
        quantizer: How matrices are quantized: a name of ``qlstm.quantizers.QUANTIZERS``; an
            importable ``"module:name"``; a function of one matrix (d, n) that returns a tensor or
            a ``Quantized``, whose gradient is straight-through and which may take
            ``second_moment`` or ``generator``; or a module of one matrix, which defines its own
            gradient and trains with the layer.
        normalizer: How products are normalized: a name of ``qlstm.normalizers.NORMALIZERS``, a
            function or a module (:func:`qlstm.normalizers.make_normalizer`).
        max_steps: Time steps with statistics of their own (``batch_separate`` only).
        biases: Bias vectors of a layer that has any. torch has 2: their sum alone matters, but it
            moves twice as fast in training.
        quantize_input: Whether the first layer's $W_x$ is quantized too. It is not in sequential
            MNIST, where it is one column.
        backend: Who runs the loop over time (:mod:`qlstm.recurrence`).

    Shape:
        x (T, N, D), output (T, N, d), each state (num_layers, N, d). With two directions 2 d and
        2 num_layers.

    Raises:
        ConfigError: Settings that do not exist or cannot be combined.

    Example:
        >>> lstm = QuantLSTM(10, 20, quantizer="binary_connect", normalizer="layer")
        >>> output, (h, c) = lstm(torch.zeros(5, 3, 10))
        >>> output.shape, h.shape
        (torch.Size([5, 3, 20]), torch.Size([1, 3, 20]))
    """

    mode, plain, loop = "LSTM", nn.LSTM, "recurrence"
    gates = 4
    """i, f, a, o."""
    states = 2
    """Tensors of the state: h and c."""

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 proj_size: int = 0, device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None, *,
                 quantizer: str | Callable | nn.Module = "full_precision",
                 normalizer: str | Callable | nn.Module = "none", max_steps: int | None = None,
                 biases: int = 1, quantize_input: bool = True, backend: str = "auto"):
        if proj_size:
            raise ConfigError(
                f"proj_size must be 0, got {proj_size!r}: neither the paper nor its propositions "
                "know a projection of h; take a smaller hidden_size, or torch.nn.Linear on top")
        super().__init__(
            dict(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias,
                 batch_first=batch_first, dropout=dropout, bidirectional=bidirectional,
                 quantizer=quantizer, normalizer=normalizer, max_steps=max_steps, biases=biases,
                 quantize_input=quantize_input), backend, device, dtype)

    @classmethod
    def from_torch(cls, lstm: nn.LSTM, **settings) -> "QuantLSTM":
        """Take over a plain LSTM: its weights, the sum of its two bias vectors, its arguments.

        Args:
            lstm: The trained network.
            settings: Keywords of :class:`QuantLSTM`. With weight normalization the gains start at
                the norms of the given rows, so that the unquantized network computes the same. With
                ``biases=2`` both bias vectors stay.

        Raises:
            ConfigError: It is no LSTM, or a projected one.
        """
        return from_torch(cls, lstm, settings)

    def to_torch(self) -> nn.LSTM:
        """A plain LSTM that computes the same, with the effective weights: quantized, normalized.

        Raises:
            ConfigError: Products are normalized, which a plain LSTM cannot do.
        """
        return to_torch(self)

    def bias_vector(self, k: int, reverse: bool = False) -> Tensor:
        """What a step of a place adds, (4d): its bias vector, the sum of its two, or zeros.

        Args:
            k: The number of the layer, from 0.
            reverse: Whether of the reverse direction.
        """
        biases = self.biases(k, reverse)
        return sum(biases[1:], biases[0]) if biases else self.like.new_zeros(4 * self.hidden_size)
