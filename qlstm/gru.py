"""QuantGRU: the layer with gated recurrent units."""

from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN
from qlstm.recurrence import naive


class QuantGRU(QuantRNN):
    """The same with gated recurrent units: six matrices, one bias vector of 3d, a state of h alone.

    ``output, (h_n,) = gru(x, (h_0,))``. The equations are those of ``torch.nn.GRU`` with its bias
    $b_{hn} = 0$ (:func:`qlstm.recurrence.cell.gru_step`); the naive backend runs them.

    Args:
        input_size: D, the features of an input.
        hidden_size: d, the units of a layer.
        num_layers: Layers, each above the one before.
        backend: ``"auto"`` or ``"naive"``; ``settings`` are the other keywords.

    Example:
        >>> import torch
        >>> gru = QuantGRU(10, 20, quantizer="binary_connect", normalizer="layer")
        >>> output, (h,) = gru(torch.zeros(5, 3, 10))
        >>> output.shape, gru.weight_hh_l0.shape
        (torch.Size([5, 3, 20]), torch.Size([60, 20]))
    """

    gates, states = 3, 1
    _naive = staticmethod(naive.gru_recurrence)

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, *,
                 backend: str = "auto", **settings):
        if backend not in ("auto", "naive"):
            raise ConfigError(f"a GRU runs on backend 'naive' only, not {backend!r}")
        usual = dict(quantizer="full_precision", normalizer="none", max_steps=None, biases=1,
                     dropout=0.0, quantize_input=True)
        super().__init__(input_size, hidden_size, num_layers, backend=backend, **usual | settings)
        if self.stochastic:
            raise ConfigError("quantizers 'sbn' and 'stn' normalize the cell state, which a GRU "
                              "does not have")

    def _fastest(self, x, w_h, norms):
        return self._naive
