"""QuantGRU: the layer with gated recurrent units."""

import torch
from torch import Tensor
from torch.nn import functional as F

from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN


class QuantGRU(QuantRNN):
    """The same with gated recurrent units: six matrices, one bias vector of 3d, a state of h alone.

    ``output, (h_n,) = gru(x, (h_0,))``. The equations are those of ``torch.nn.GRU``
    (:func:`qlstm.recurrence.cell.gru_step`), with its bias $b_{hn} = 0$ unless ``biases=2``.

    Args:
        input_size: D, the features of an input.
        hidden_size: d, the units of a layer.
        num_layers: Layers, each above the one before.
        backend: As in ``settings``, the other keywords.

    Example:
        >>> gru = QuantGRU(10, 20, quantizer="binary_connect", normalizer="layer")
        >>> output, (h,) = gru(torch.zeros(5, 3, 10))
        >>> output.shape, gru.weight_hh_l0.shape
        (torch.Size([5, 3, 20]), torch.Size([60, 20]))
    """

    gates, states = 3, 1
    loop = "gru_recurrence"

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *,
                 backend: str = "auto", **settings):
        usual = dict(quantizer="full_precision", normalizer="none", max_steps=None, biases=1,
                     dropout=0.0, quantize_input=True)
        super().__init__(input_size, hidden_size, num_layers, backend=backend, **usual | settings)
        if self.stochastic:
            raise ConfigError("quantizers 'sbn' and 'stn' normalize the cell state, which a GRU "
                              "does not have")

    def bias_vector(self, k: int) -> Tensor:
        """The biases (4d) of r, z, n and of the recurrent product of n in layer ``k``."""
        bias, d = getattr(self, f"bias_l{k}"), self.hidden_size
        second = getattr(self, f"bias_hh_l{k}", None)
        if second is None:
            return F.pad(bias, (0, d))  # b_hn = 0
        of_gates, b_hn = second.split([2 * d, d])
        return torch.cat([bias[: 2 * d] + of_gates, bias[2 * d :], b_hn])
