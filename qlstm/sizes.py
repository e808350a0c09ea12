"""The size of a model: what its LSTM layers take when weights are stored with their 1, 2 or 32 bits."""

import math

from qlstm import data
from qlstm.experiments import ExperimentConfig
from qlstm.quantizers import find_quantizer


def size_kb(config: ExperimentConfig) -> float:
    """KB (1024 bytes) of the LSTM layers of a run's model, without decoder; exact, to be rounded half up.

    A layer has 4d(n + d) weights, a bias of 4d floats, the normalizer's parameters and statistics (weight 8d,
    layer 16d, batch shared 32d, batch separate 16d + 16d steps floats; SBN and STN 2d + 2d steps for the cell), and
    the quantizer's scales, one float for each of its eight matrices (alternating: one for each row and plane, which
    the sizes printed in the paper leave out).

    >>> config = ExperimentConfig(profile="paper", dataset="war_and_peace", quantizer="binary_connect")
    >>> size_kb(config), round_half_up(size_kb(config))
    (157.75, 158)
    """
    quantizer = find_quantizer(config.quantizer)
    bits, scales = getattr(quantizer, "bits", 32), getattr(quantizer, "scales", None)
    d, steps = config.hidden_size, config.steps
    floats = {"none": 0, "weight": 8 * d, "layer": 16 * d, "batch_shared": 32 * d,
              "batch_separate": 16 * d + 16 * d * steps}.get(config.normalizer, 0)  # fmt: skip
    floats += 4 * d  # the bias
    if config.quantizer in ("sbn", "stn"):
        floats += 2 * d + 2 * d * steps
    floats += {None: 0, "matrix": 8, "row": 8 * d * bits}[scales]
    total = 0.0
    for layer in range(config.num_layers):
        n = data.vocabulary_size(config.dataset) if layer == 0 else d
        total += 4 * d * (n + d) * bits / 8 + 4 * floats
    return total / 1024


def round_half_up(x: float) -> int:
    """The nearest whole number, halves up, as the paper's sizes are (Python's ``round`` takes halves to even).

    >>> round_half_up(2.5), round(2.5)
    (3, 2)
    """
    return math.floor(x + 0.5)
