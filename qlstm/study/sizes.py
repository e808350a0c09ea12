"""The size of a model: what its recurrent layers take when weights are stored with their 1, 2 or
32 bits."""

import math
from collections.abc import Callable

from torch import nn

from qlstm import data
from qlstm.errors import lookup
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import find_quantizer
from qlstm.study.config import ExperimentConfig

GATES = {"lstm": 4, "gru": 3}


def size_kb(config: ExperimentConfig, *, row_scales: bool = True) -> float | None:
    r"""The size of the recurrent layers of a run's model, without embedding, decoder and initial
    state; exact.

    A layer with $d$ units and $n$ inputs has for each gate ($G = 4$ in an LSTM, 3 in a GRU)

    - $d(n + d)$ weights with the quantizer's bits; on images $W_x$ stays at 32 bits, unless the
      quantizer is SBN or STN;
    - a bias, $d$ floats;
    - the normalizer's parameters and statistics, floats: $2d$ (weight), $4d$ (layer), $8d$ (batch,
      shared) or $4d + 4dT$ (batch, separate); of one's own, for all gates together, twice what the
      module has;
    - two matrices with a scale each where the quantizer stores one: a float, or in ``alternating``
      one for each row and plane.

    SBN and STN normalize the cell too, with $2d + 2dT$ floats.

    Args:
        config: the settings of the run.
        row_scales: whether scales of rows count. The sizes printed in the paper leave them out.

    Returns:
        KB of 1024 bytes. :func:`round_half_up` makes them the paper's whole numbers. None: it is
        unknown, as a quantizer of one's own has no attribute ``bits``.

    Example:
        >>> settings = dict(profile="paper", dataset="war_and_peace")
        >>> size = size_kb(ExperimentConfig(quantizer="binary_connect", **settings))
        >>> size, round_half_up(size)
        (157.75, 158)
    """
    quantizer = find_quantizer(config.quantizer)
    bits, scales = getattr(quantizer, "bits", None), getattr(quantizer, "scales", None)
    if bits is None:
        return None
    stochastic = getattr(quantizer, "stochastic", False)
    d, steps, gates = config.hidden_size, config.steps, GATES[config.cell]
    a_unit = {"none": 0, "weight": 2, "layer": 4, "batch_shared": 8,
              "batch_separate": 4 + 4 * steps}.get(config.normalizer)
    floats = gates * d * (config.biases + (a_unit or 0))
    if a_unit is None:
        floats += 2 * _floats(lookup("normalizer", config.normalizer, NORMALIZERS))
    if stochastic:
        floats += 2 * d + 2 * d * steps
    total = 0.0
    for layer in range(config.num_layers):
        n = d if layer else input_size(config)
        input_kept = layer == 0 and config.task == "sequential_image" and not stochastic
        matrices = gates if input_kept else 2 * gates
        total += gates * d * (n * (32 if input_kept else bits) + d * bits) / 8 + 4 * floats
        total += 4 * {None: 0, "matrix": matrices, "row": matrices * d * bits * row_scales}[scales]
    return total / 1024


def _floats(normalizer: Callable) -> int:
    """The values that a normalizer of one's own keeps: a function has none."""
    if not isinstance(normalizer, nn.Module):
        return 0
    return sum(value.numel() for value in [*normalizer.parameters(), *normalizer.buffers()])


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
