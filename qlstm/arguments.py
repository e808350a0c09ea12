"""What a network is given: where it cannot be, it is refused at once and by its name.

``name``: what the message calls an argument. ``value``: what was given for it. The functions
``check_...`` raise ``ConfigError``.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

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


def check_layer(settings: dict[str, Any]):
    """Refuse ``settings`` of a :class:`qlstm.layer.QuantRNN`, numbers and flags, that cannot be."""
    for name in ("input_size", "hidden_size", "num_layers", "biases"):
        check_size(name, settings[name])
    check_number("dropout", settings["dropout"], most=1)
    check_flag("quantize_input", settings["quantize_input"])
    if settings["max_steps"] is not None:
        check_size("max_steps", settings["max_steps"])
    if settings["biases"] > 2:
        raise ConfigError(f"biases must be 1 or 2, got {settings['biases']!r}")


def check_quantizer(quantizer: Any, stochastic: bool, normalizer: Any):
    """Refuse a ``quantizer`` that cannot be called, and a ``stochastic`` one with another
    ``normalizer`` than its own."""
    if isinstance(quantizer, type) or not callable(quantizer):
        raise ConfigError("quantizer: expected a name, a function or a module (not a class), "
                          f"got {quantizer!r}")
    if stochastic and normalizer != "batch_separate":
        raise ConfigError("quantizers 'sbn' and 'stn' are defined with normalizer "
                          "'batch_separate' only")


def as_minibatch(layer, x: Tensor, state: tuple[Tensor, ...] | None):
    """Input and state with an axis of samples, the state in the layer's precision.

    Args:
        layer: The :class:`qlstm.layer.QuantRNN` that they are for.
        x: The inputs, with or without samples.
        state: As many tensors as the layer has states; None: zeros.

    Returns:
        Input, state, and whether the axis was missing.

    Raises:
        ConfigError: The layer is in half precision.
        TypeError: The inputs or the state are of another kind.
        ValueError: They are of other sizes or precision, or on device "meta".
    """
    name, weight = type(layer).__name__, next(layer.parameters(recurse=False), layer.bias_l0)
    if isinstance(x, PackedSequence) or not isinstance(x, Tensor) or x.is_complex():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"{name} takes a padded tensor (T, N, D) or integers (T, N), not {kind}")
    if weight.is_meta or x.is_meta:
        raise ValueError(f"{name} does not run on device 'meta', where no numbers are: first "
                         "to_empty(device='cpu') and reset_parameters(), or load_state_dict()")
    if torch.jit.is_tracing():  # it would draw a fixed sample anew
        raise ValueError(f"{name} cannot be recorded by torch.jit.trace; take torch.export")
    check_precision(weight)
    one_hot, dtype = not x.is_floating_point(), weight.dtype
    axes = 1 if one_hot else 2
    if x.dim() not in (axes, axes + 1) or x.shape[0] == 0:
        raise ValueError("expected at least one time step and (T, N, D) or integers (T, N), "
                         f"got {tuple(x.shape)}")
    if not one_hot and x.shape[-1] != layer.input_size:
        raise ValueError(f"expected input (T, N, {layer.input_size}) or (T, {layer.input_size}), "
                         f"got {tuple(x.shape)}")
    unbatched = x.dim() == axes
    shape = (layer.num_layers, *(() if unbatched else x.shape[1:2]), layer.hidden_size)
    if state is None:
        state = (x.new_zeros(shape, dtype=dtype),) * layer.states
    if not isinstance(state, tuple | list) or not all(isinstance(part, Tensor) for part in state):
        raise TypeError(f"expected a state of {layer.states} tensors, got a {type(state).__name__}")
    if [tuple(part.shape) for part in state] != [shape] * layer.states:
        got = " and ".join(str(tuple(part.shape)) for part in state)
        raise ValueError(f"expected states {shape}, got {got}")
    if torch.is_autocast_enabled(x.device.type):
        x, state = x if one_hot else x.to(dtype), tuple(part.to(dtype) for part in state)
    for what, tensor in (("state", state[0]), ("state", state[-1]), ("input", x)):
        if tensor.is_floating_point() and tensor.dtype != dtype:
            raise ValueError(f"expected {what} in {dtype}, as the weights are, got {tensor.dtype}")
    if unbatched:
        x, state = x.unsqueeze(1), tuple(part.unsqueeze(1) for part in state)
    return x, state, unbatched
