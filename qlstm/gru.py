"""QuantGRU: the layer with gated recurrent units."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.conversion import from_torch, to_torch
from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN


class QuantGRU(QuantRNN):
    """The same with gated recurrent units, in the place of ``torch.nn.GRU``: three gates r, z, n,
    and a state of h alone.

    ``output, h_n = gru(x, h_0)``. The equations are those of ``torch.nn.GRU``
    (:func:`qlstm.recurrence.cell.gru_step`), with its bias $b_{hn} = 0$ unless ``biases=2``. The
    arguments are those of :class:`~qlstm.lstm.QuantLSTM`, which explains them.

    Args:
        input_size: D, the features of an input.
        hidden_size: d, the units of a layer.
        num_layers: Layers, each above the one before.
        bias: As in ``QuantLSTM``, like ``batch_first``, ``dropout``, ``bidirectional``, ``device``,
            ``dtype``, ``quantizer``, ``normalizer``, ``max_steps``, ``quantize_input`` and
            ``backend``; quantizers ``"sbn"`` and ``"stn"`` are refused.
        biases: 2 for torch's two bias vectors. 1: only the one beside the input product.

    Example:
        >>> gru = QuantGRU(10, 20, quantizer="binary_connect", normalizer="layer")
        >>> output, h = gru(torch.zeros(5, 3, 10))
        >>> output.shape, gru.weight_hh_l0.shape
        (torch.Size([5, 3, 20]), torch.Size([60, 20]))
    """

    mode, plain, loop = "GRU", nn.GRU, "gru_recurrence"
    gates, states = 3, 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None, *,
                 quantizer: str | Callable | nn.Module = "full_precision",
                 normalizer: str | Callable | nn.Module = "none", max_steps: int | None = None,
                 biases: int = 1, quantize_input: bool = True, backend: str = "auto"):
        super().__init__(
            dict(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias,
                 batch_first=batch_first, dropout=dropout, bidirectional=bidirectional,
                 quantizer=quantizer, normalizer=normalizer, max_steps=max_steps, biases=biases,
                 quantize_input=quantize_input), backend, device, dtype)
        if self.stochastic:
            raise ConfigError("quantizers 'sbn' and 'stn' normalize the cell state, which a GRU "
                              "does not have")

    @classmethod
    def from_torch(cls, gru: nn.GRU, **settings) -> "QuantGRU":
        """Take over a plain GRU: its weights, both bias vectors, its arguments.

        Args:
            gru: The trained network.
            settings: Keywords of :class:`QuantGRU`, as in :meth:`qlstm.QuantLSTM.from_torch`. With
                ``biases=1`` it must have $b_{hn} = 0$.

        Raises:
            ConfigError: It is no GRU, or its biases do not fit into one vector.
        """
        return from_torch(cls, gru, {"biases": 2} | settings)

    def to_torch(self) -> nn.GRU:
        """A plain GRU that computes the same, as :meth:`qlstm.QuantLSTM.to_torch`."""
        return to_torch(self)

    def as_parts(self, hx):
        """The state ``hx``, one tensor, as a tuple of one; None if it is None."""
        return None if hx is None else (hx,)

    def as_hx(self, parts):
        """The only one of the ``parts`` of a state."""
        return parts[0]

    def bias_vector(self, k: int, reverse: bool = False) -> Tensor:
        """The biases (4d) of r, z, n and of the recurrent product of n.

        Args:
            k: The number of the layer, from 0.
            reverse: Whether of the reverse direction.
        """
        biases, d = self.biases(k, reverse), self.hidden_size
        if len(biases) < 2:  # b_hn = 0
            return F.pad(biases[0], (0, d)) if biases else self.like.new_zeros(4 * d)
        beside_x, beside_h = biases
        gates = beside_x[: 2 * d] + beside_h[: 2 * d]
        return torch.cat([gates, beside_x[2 * d :], beside_h[2 * d :]])
