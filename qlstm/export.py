"""A trained network as one C header, for microcontrollers and other languages.

The header holds the packed weights and a function of one time step (``export.h.j2`` is its
template). It needs a C99 compiler and math.h, allocates nothing and has no global state. What is
fixed in evaluation is folded beforehand: a weight is planes of signs (one bit each) with scales;
ternary codes are half the sum of two planes; weight normalization becomes a scale for each row;
batch normalization, with its running statistics, a gain and a shift for each row.
"""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError
from qlstm.layer import QuantRNN
from qlstm.models import LanguageModel, SequenceClassifier
from qlstm.normalizers import BatchNorm, LayerNorm, Normalizer, WeightNorm
from qlstm.packing import _network, _settings

INCLUDED = ("math", "stdint")  # a header so named would stand in for the compiler's


def export_c(model: nn.Module, folder: str | Path, name: str | None = None) -> Path:
    """Write a network, as it is in evaluation, to ``<folder>/<name>.h``: one C99 header without
    dependencies.

    Args:
        model: A ``QuantLSTM``, ``QuantGRU``, ``LanguageModel`` or ``SequenceClassifier`` in
            float32. It stays as it is.
        folder: Where the header goes; it is made if need be.
        name: What the names of functions and types in the header start with, a C identifier. None:
            the name of the class in lower case.

    Returns:
        The path of the header.

    Raises:
        ConfigError: The model is of another class, not in float32, has weights that are not finite
            or binary codes of 0, or quantizers or normalizers of your own; ``name`` is no C
            identifier.
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_c(LanguageModel(87, 8, quantizer="bwn"), folder, "text").name
        'text.h'
    """
    settings = _settings(model)
    if _network(model)[1].bidirectional:
        raise ConfigError("a bidirectional network reads a sequence from its end too: a header, "
                          "which runs a step at a time, cannot hold it")
    name = type(model).__name__.lower() if name is None else name
    if (not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII)
            or name in INCLUDED):
        raise ConfigError("name must be a C identifier (a letter, then letters, digits and _; not "
                          f"{' or '.join(INCLUDED)}, which the header includes), got {name!r}")
    other = [key for key, value in model.state_dict().items() if value.dtype != torch.float32]
    if other:
        raise ConfigError(
            f"exported networks are in float32, {other[0]} is not: call model.float() first")
    from jinja2 import Environment, StrictUndefined  # slow to import

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
                              keep_trailing_newline=True)
    template = environment.from_string(Path(__file__).with_name("export.h.j2").read_text("utf-8"))
    path = Path(folder) / f"{name}.h"
    text = template.render(_contents(model, settings, name))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return path


@torch.no_grad()
def _contents(model: nn.Module, settings: dict[str, Any], name: str) -> dict[str, Any]:
    """What the template is filled with."""
    model = copy.deepcopy(model).cpu().eval()
    rnn = _network(model)[1]
    arrays, kind, d = _Arrays(), type(model).__name__, rnn.hidden_size
    normalizer = rnn.settings["normalizer"]
    layers = [_layer(rnn, k, arrays) for k in range(rnn.num_layers)]
    embedding, outputs = getattr(model, "embedding", None), 0
    if embedding is not None:
        arrays.floats("embedding", embedding.weight)
    if kind in ("LanguageModel", "SequenceClassifier"):
        outputs = model.decoder.out_features
        arrays.floats("decoder", model.decoder.weight)
        arrays.floats("decoder_bias", model.decoder.bias)
    initial = _initial_state(model)
    if initial is not None:
        for part, value in zip("hc", initial, strict=False):
            arrays.floats(f"initial_{part}", value)
    symbols = isinstance(model, LanguageModel)
    return dict(
        kind=kind, name=name, NAME=name.upper(), d=d, gates=rnn.gates, outputs=outputs,
        gate_names="i, f, a, o" if rnn.gates == 4 else "r, z, n",
        inputs=outputs if symbols else rnn.input_size,
        inputs_are="symbols" if symbols else "numbers of an input",
        layers=layers, arrays=arrays.all, normalizer=normalizer, stochastic=rnn.stochastic,
        separate=rnn.settings["max_steps"] if normalizer == "batch_separate" else 0,
        embedding=embedding is not None, initial=initial is not None,
        ternary=_is_ternary(rnn), usage=_usage(kind, name),
        title=f"{kind}, {rnn.num_layers} x {d} units, quantizer {settings['quantizer']}, "
              f"normalizer {normalizer}.")


def _usage(kind: str, name: str) -> list[str]:
    """Lines of C that use the header."""
    steps = {
        "LanguageModel": [f"float logits[{name.upper()}_OUTPUTS];",
                          f"{name}_step(&s, symbol, logits);      of each symbol"],
        "SequenceClassifier": [f"float logits[{name.upper()}_OUTPUTS];",
                               f"{name}_step(&s, &number);             of each number",
                               f"{name}_logits(&s, logits);            after the last"]}
    own = [f"{name}_step(&s, x);          of each vector, or",
           f"{name}_step_symbol(&s, j);   of each integer that stands for a one-hot vector;",
           f"s.h[{name.upper()}_LAYERS - 1]   is the output of the step"]
    lines = [f"{name}_state s;", f"{name}_start(&s);", *steps.get(kind, own)]
    return ["Use:", *(f"  {line}" for line in lines)]


class _Arrays:
    """The arrays of the header, as C."""

    def __init__(self):
        self.all: list[dict[str, Any]] = []

    def floats(self, name: str, values: Tensor):
        """Numbers with 9 digits, which give each float32 back."""
        numbers = values.detach().to(torch.float32).flatten().numpy()
        if not np.isfinite(numbers).all():
            raise ConfigError(f"cannot export {name}: it has values that are not finite numbers. "
                              "The network has diverged: train it again")
        self._add("float", name, [_float(number) for number in numbers], 6)

    def signs(self, name: str, planes: Tensor):
        """A bit for each of {-1, +1}, (planes, rows, columns); a row takes whole bytes."""
        packed = np.packbits(planes.numpy() > 0, axis=-1, bitorder="little")
        self._add("uint8_t", name, [str(byte) for byte in packed.flatten()], 18)

    def _add(self, kind: str, name: str, values: list[str], width: int):
        lines = [", ".join(values[i : i + width]) for i in range(0, len(values), width)]
        self.all.append({"type": kind, "name": name, "size": len(values),
                         "numbers": ",\n".join(f"    {line}" for line in lines)})


def _float(number: np.float32) -> str:
    text = f"{number:.9g}"
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


def _is_ternary(rnn: QuantRNN) -> bool:
    return rnn.quantizer.bits == 2 and rnn.quantizer.scales != "row"


def _layer(rnn: QuantRNN, k: int, arrays: _Arrays) -> dict[str, Any]:
    """A layer's matrices; its numbers go into ``arrays``."""
    matrices = {side: _matrix(rnn, f"{side}_l{k}", arrays) for side in ("ih", "hh")}
    arrays.floats(f"bias_l{k}", rnn.bias_vector(k))
    for place in (f"ih_l{k}", f"hh_l{k}", f"c_l{k}"):
        _normalizer(getattr(rnn, f"norm_{place}"), place, arrays)
    return matrices


def _matrix(rnn: QuantRNN, place: str, arrays: _Arrays) -> dict[str, Any]:
    """One matrix: planes of signs, of which ``group`` rows share a scale, or floats."""
    name = f"weight_{place}"
    matrix = {"place": place, "columns": rnn.columns(name), "signs": rnn.quantizes(name)}
    if not matrix["signs"]:
        arrays.floats(name, rnn.effective_weight(name))
        return matrix
    codes, scales = rnn.quantized(name)
    scales = scales.double()
    norm = getattr(rnn, f"norm_{place}")
    if isinstance(norm, WeightNorm):  # g_j W_j / ||W_j||
        norms = torch.linalg.vector_norm((scales * codes).sum(0), dim=-1, keepdim=True)
        scales = scales * (norm.gain.double()[..., None] / (norms + norm.eps))
        scales = scales.where(norms > 0, 0)  # a row of zeros stays one: its planes cancel
    if _is_ternary(rnn):  # 0 is (1 - 1) / 2
        codes, scales = torch.cat([2 * codes - 1, 2 * codes + 1]).sign(), scales.repeat(2, 1, 1, 1)
        scales = scales / 2
    elif (codes == 0).any():
        raise ConfigError(f"cannot export {name}: it has codes of 0, and one bit holds -1 or +1 "
                          "only. They are latent weights that are exactly 0: train the model first")
    planes, _, rows, _ = scales.shape
    matrix |= {"planes": planes, "group": rnn.hidden_size // rows}
    arrays.signs(f"signs_{place}", codes.flatten(1, 2))
    arrays.floats(f"scales_{place}", scales)
    return matrix


def _normalizer(norm: Normalizer, place: str, arrays: _Arrays):
    """Gain and shift of the products, of batch normalization (steps, rows)."""
    if isinstance(norm, LayerNorm):
        arrays.floats(f"gain_{place}", norm.gain)
        arrays.floats(f"shift_{place}", norm.shift)
    elif isinstance(norm, BatchNorm):
        # g (y - mu) / sigma + beta = (g / sigma) y + (beta - mu g / sigma)
        gain = norm.gain.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        arrays.floats(f"gain_{place}", gain)
        arrays.floats(f"shift_{place}", norm.shift.double() - norm.running_mean.double() * gain)


def _initial_state(model: nn.Module) -> list[Tensor] | None:
    """The learned state, each part (layers, d), with the noise of evaluation; None: zeros."""
    initial = getattr(model, "initial_state", None)
    if initial is None:
        return None
    parts = list(initial.detach())
    if isinstance(model, SequenceClassifier) and model.state_noise:
        noisy = 1 if model.rnn.stochastic else len(parts)
        noise = model.state_noise * model._noise((noisy, len(parts[0]), 1, model.rnn.hidden_size))
        for i in range(noisy):
            parts[i] = parts[i] + noise[i, :, 0]
    return parts
