"""The size of a model: what its LSTM layers take when weights are stored with their 1, 2 or 32
bits."""

import math

from qlstm import data
from qlstm.quantizers import find_quantizer
from qlstm.study.config import ExperimentConfig


def size_kb(config: ExperimentConfig, *, row_scales: bool = True) -> float:
    """KB (1024 bytes) of the recurrent layers of a run's model, without embedding, decoder and
    initial state; exact.

    An LSTM layer has 4d(n + d) weights, a bias of 4d floats, the normalizer's parameters and
    statistics (weight 8d, layer 16d, batch shared 32d, batch separate 16d + 16d steps floats; SBN
    and STN 2d + 2d steps for the cell), and the quantizer's scales, one float for each of its eight
    matrices (alternating: one for each row and plane; the sizes printed in the paper leave these
    out, as ``row_scales=False`` does). A GRU has three gates for four. The n of the first layer:
    the vocabulary (characters), d (words' embedding), 1 (images, where W_x stays at 32 bits but for
    SBN and STN). To be rounded half up for the paper's sizes.

    >>> config = ExperimentConfig(profile="paper", dataset="war_and_peace", quantizer="binary_connect")
    >>> size_kb(config), round_half_up(size_kb(config))
    (157.75, 158)
    """
    quantizer = find_quantizer(config.quantizer)
    bits, scales = getattr(quantizer, "bits", 32), getattr(quantizer, "scales", None)
    d, steps, gates = config.hidden_size, config.steps, {"lstm": 4, "gru": 3}[config.cell]
    floats = {"none": 0, "weight": 2, "layer": 4, "batch_shared": 8,
              "batch_separate": 4 + 4 * steps}.get(config.normalizer, 0)
    floats = floats * gates * d + gates * d * config.biases
    stochastic = getattr(quantizer, "stochastic", False)
    if stochastic:
        floats += 2 * d + 2 * d * steps
    total = 0.0
    for layer in range(config.num_layers):
        n = d if layer else input_size(config)
        # W_x at 32 bits
        kept = (
            layer == 0 and config.task == "sequential_image" and not stochastic)
        matrices = gates if kept else 2 * gates
        total += gates * d * (n * (32 if kept else bits) + d * bits) / 8 + 4 * floats
        total += 4 * {None: 0, "matrix": matrices, "row": matrices * d * bits * row_scales}[scales]
    return total / 1024


def input_size(config: ExperimentConfig, vocabulary_size: int | None = None) -> int:
    """The number n of inputs to the first layer of a run's model.

    Args:
        config: the settings of the run.
        vocabulary_size: the number of different characters; None looks it up, which may read the
            text.

    Returns:
        The vocabulary size for characters (each is one-hot), d for words (each is embedded in as
        many dimensions as the layer has units), 1 for images (a pixel a step).
    """
    if config.task == "char_lm":
        return vocabulary_size or data.vocabulary_size(config.dataset)
    return config.hidden_size if config.task == "word_lm" else 1


def round_half_up(x: float) -> int:
    """The whole number nearest to ``x``, halves up, as the paper's sizes are (Python's ``round``
    takes halves to even).

    >>> round_half_up(2.5), round(2.5)
    (3, 2)
    """
    return math.floor(x + 0.5)
