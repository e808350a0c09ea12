"""What a network is given: where it cannot be, it is refused at once and by its name.

``name``: what the message calls an argument. ``value``: what was given for it. The functions
``check_...`` raise ``ConfigError``.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from qlstm.errors import ConfigError

LARGEST = 2**31 - 1
"""Of sizes: torch has no larger tensor of two axes."""


def check_size(name: str, value: Any):
    """Refuse all but a positive integer.

    >>> check_size("classes", 0)
    Traceback (most recent call last):
    qlstm.errors.ConfigError: classes must be a positive integer, got 0
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ConfigError(f"{name} must be a positive integer, got {value!r}")


def check_number(name: str, value: Any, most: float = math.inf):
    """Refuse all but a finite number from 0 to ``most``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value <= most and math.isfinite(value)):
        bound = "of 0 or more" if most == math.inf else f"from 0 to {most}"
        raise ConfigError(f"{name} must be a number {bound}, got {value!r}")


def check_seed(value: Any):
    """Refuse all but an integer that torch takes as a seed."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise ConfigError(f"seed must be an integer from 0 to 2^63 - 1, got {value!r}")


def check_flag(name: str, value: Any):
    """Refuse all but True and False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")


def check_precision(weight: Tensor):
    """Refuse a ``weight`` in half precision, whose sums overflow and whose small numbers are 0."""
    if weight.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"the weights are {weight.dtype}, not float32 or float64, in which they "
                          "are quantized; torch.autocast may be around the layers")


def check_layer(settings: dict[str, Any], dtype: torch.dtype | None):
    """Refuse ``settings`` of a :class:`qlstm.layer.QuantRNN`, numbers and flags, that cannot be,
    and a ``dtype`` in which it does not compute."""
    for name in ("input_size", "hidden_size", "num_layers", "biases"):
        check_size(name, settings[name])
    check_number("dropout", settings["dropout"], most=1)
    for name in ("bias", "batch_first", "bidirectional", "quantize_input"):
        check_flag(name, settings[name])
    if dtype not in (None, torch.float32, torch.float64):
        raise ConfigError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    if settings["max_steps"] is not None:
        check_size("max_steps", settings["max_steps"])
    if settings["biases"] > 2:
        raise ConfigError(f"biases must be 1 or 2, got {settings['biases']!r}")
    if settings["dropout"] and settings["num_layers"] == 1:
        warnings.warn("dropout acts between layers, so that with num_layers=1 "
                      f"dropout={settings['dropout']} does nothing", UserWarning, stacklevel=4)


def check_network(model: str, settings: dict[str, Any]):
    """Refuse ``settings`` of a layer that a ``model`` around it cannot have."""
    for name in ("batch_first", "bidirectional", "device", "dtype"):
        if name in settings:
            raise ConfigError(f"{model} takes no {name}: it reads (T, N), forwards in time, and "
                              "to() moves it; take QuantLSTM in a model of your own")


def check_quantizer(quantizer: Any, stochastic: bool, normalizer: Any):
    """Refuse a ``quantizer`` that cannot be called, and a ``stochastic`` one with another
    ``normalizer`` than its own."""
    if isinstance(quantizer, type) or not callable(quantizer):
        raise ConfigError("quantizer: expected a name, a function or a module (not a class), "
                          f"got {quantizer!r}")
    if stochastic and normalizer != "batch_separate":
        raise ConfigError("quantizers 'sbn' and 'stn' are defined with normalizer "
                          "'batch_separate' only")
