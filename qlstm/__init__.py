"""A reproducible study of "Normalization Helps Training of Quantized LSTM" (Hou et al., NeurIPS
2019).

Symbols, as in the paper: T time steps, N samples of a minibatch, D (or n) inputs, d hidden units;
gates in the order i (input), f (forget), a (candidate), o (output), always stacked in one tensor;
W_x, W_h input and recurrent matrices; alpha the scale of a quantized matrix; g, beta gain and shift
of a normalizer, mu, sigma its statistics; a tilde (the name ``gates``) marks pre-activations; xi_m
the loss of time step m. Reading order: :mod:`~qlstm.quantizers`, :mod:`~qlstm.normalizers`,
:mod:`~qlstm.recurrence.cell`, :mod:`qlstm.recurrence.naive`, :mod:`~qlstm.weight`,
:mod:`~qlstm.layer`, :mod:`~qlstm.lstm`, :mod:`qlstm.recurrence.codes` (what makes one bit fast),
:mod:`~qlstm.models`, :mod:`~qlstm.data`, :mod:`~qlstm.study.config`, :mod:`~qlstm.study.training`,
:mod:`~qlstm.study.records`, :mod:`~qlstm.study.theory.propositions`, :mod:`~qlstm.packing`,
:mod:`~qlstm.export`, :mod:`~qlstm.report.tables`, :mod:`~qlstm.report.figures`,
:mod:`~qlstm.report.scorecard`.
"""

import os
from importlib import import_module

# Huge pages for torch's large tensors, if torch has allocated none yet: on Linux a training step on
# the CPU spent up to half of its time on getting ordinary ones. A torch setting; 0 in the
# environment turns it off.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

_HOME = {"ConfigError": "errors", "DataError": "data.files", "ExperimentConfig": "study.config",
         "LanguageModel": "models", "MissingError": "errors", "PackedError": "packing",
         "QuantGRU": "gru", "QuantLSTM": "lstm", "Quantized": "quantizers",
         "RecordError": "study.records", "SequenceClassifier": "models",
         "export_c": "export", "grid": "study.grid",
         "load_dataset": "data.catalogue", "load_model": "study.networks",
         "load_packed": "packing", "packed_bytes": "packing",
         "round_half_up": "study.sizes", "run": "study.training", "save_packed": "packing",
         "size_kb": "study.sizes", "straight_through": "quantizers"}
__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str):
    """Import on first use: a command that only starts a notebook need not wait seconds for
    torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'qlstm' has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"qlstm.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
