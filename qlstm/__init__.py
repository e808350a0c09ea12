"""A reproducible study of "Normalization Helps Training of Quantized LSTM" (Hou et al., NeurIPS 2019).

Symbols, as in the paper: T time steps, N samples of a minibatch, D (or n) inputs, d hidden units; gates in the order
i (input), f (forget), a (candidate), o (output), always stacked in one tensor; W_x, W_h input and recurrent matrices;
alpha the scale of a quantized matrix; g, beta gain and shift of a normalizer, mu, sigma its statistics; a tilde (the
name ``gates``) marks pre-activations; xi_m the loss of time step m. Reading order: :mod:`~qlstm.quantizers`,
:mod:`~qlstm.normalizers`, :mod:`~qlstm.cell`, :mod:`qlstm.recurrence.naive`, :mod:`~qlstm.layer`,
:mod:`~qlstm.models`, :mod:`~qlstm.data`, :mod:`~qlstm.experiments`, :mod:`~qlstm.train`, :mod:`~qlstm.records`,
:mod:`~qlstm.tables`, :mod:`~qlstm.figures`.
"""

from qlstm.data import DataError, load_dataset
from qlstm.errors import ConfigError
from qlstm.experiments import ExperimentConfig, grid
from qlstm.layer import QuantLSTM
from qlstm.models import LanguageModel
from qlstm.quantizers import Quantized, straight_through
from qlstm.records import RecordError
from qlstm.sizes import round_half_up, size_kb
from qlstm.train import load_model, run

__version__ = "0.1.0"
__all__ = ["ConfigError", "DataError", "ExperimentConfig", "LanguageModel", "QuantLSTM", "Quantized", "RecordError",
           "grid", "load_dataset", "load_model", "round_half_up", "run", "size_kb", "straight_through"]  # fmt: skip
