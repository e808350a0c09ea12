"""Packed models: a trained model in one file, its quantized weights at the 1 or 2 bits that they
need.

A safetensors file. Of each layer, ``codes_l{k}`` (uint8) holds the codes of its quantized matrices,
input before recurrent, the reverse direction last, each flattened from (planes, gates, d, n): 1 bit
for a code of {-1, +1} (a bit of 0 is -1), 2 bits for one of {-1, 0, +1} (code + 1), high bits
first, the last byte filled up with zeros. ``scales_ih_l{k}`` and ``scales_hh_l{k}`` hold the scales
where the quantizer stores any. The rest is the model's state dict in float32, without latent
weights and second moments. The metadata: format, version, the model's class and settings, a card of
how it was made, and a sha256 over all of it. Reading a file imports and executes nothing that it
names.

>>> lstm = QuantLSTM(87, 512, quantizer="binary_connect")
>>> packed_bytes(lstm), 4 * sum(p.numel() for p in lstm.parameters())
(161536, 4915200)
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from qlstm.data.hashed_tensors import BYTES, Layout, describe, digest, dump, serialize
from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError, LineError, brief, first_line
from qlstm.gru import QuantGRU
from qlstm.layer import QuantRNN
from qlstm.lstm import QuantLSTM
from qlstm.models import CELLS, LanguageModel, SequenceClassifier
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS, Quantized

FORMAT, VERSION = "qlstm-packed", "1"
MODELS = {
    model.__name__: model for model in (QuantLSTM, QuantGRU, LanguageModel, SequenceClassifier)}
"""The models that a file can hold, by the name of their class."""
USUAL = {"bias": True, "batch_first": False, "bidirectional": False}  # not named in a file
FROM_RECORD = ("run_id", "config", "data", "metric", "test_metric", "size_kb")
ANEW = "take a good copy of the file, or save the model again"


class PackedError(LineError):
    """A file that is damaged, no packed model, or of a newer version; one line that says why and
    what to do."""


def save_packed(model: nn.Module, path: str | Path, record: dict[str, Any] | None = None):
    """Write a ``model`` of :data:`MODELS` to ``path`` as it is in evaluation: whole or, if anything
    fails, not at all.

    ``record``: of the run that made it (:func:`qlstm.load_model`), or the card of a loaded model;
    the file's card is taken from it. The same model and record give the same bytes. Raises
    ``ConfigError`` for a model that such a file cannot hold: of another class, with quantizers or
    normalizers of your own, not in float32, with binary codes of 0; ``OSError``.
    """
    settings, name = _settings(model), type(model).__name__
    other = [name for name, value in model.state_dict().items() if value.dtype != torch.float32]
    if other:
        raise ConfigError(
            f"packed models are in float32, {other[0]} is not: call model.float() first")
    try:
        metadata = {"format": FORMAT, "version": VERSION, "model": name,
                    "settings": dump(settings), "card": dump(_card(model, settings, record))}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"cannot pack the model: {error}") from error
    if _layout(model) != _layout(_build(name, settings, "cpu")):
        raise ConfigError("cannot pack a model that was changed after construction: its settings "
                          "do not describe it")
    tensors = _encode(model)
    metadata["sha256"] = digest(tensors, metadata)
    write_atomically(Path(path), serialize(tensors, metadata))


def load_packed(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model at ``path``, in evaluation mode on the CPU, and its card; its outputs are those of
    the saved one, bit for bit.

    Quantized weights are frozen (:meth:`qlstm.QuantLSTM.freeze`) and stay packed: the network takes
    the memory that the file does. Everything else can train. torch's random numbers stay as they
    are. Raises ``PackedError`` or ``FileNotFoundError``, naming the file.
    """
    try:
        metadata, tensors = _read(path)
        name, settings, card = (metadata.get("model"), _parse(metadata, "settings"),
                                _parse(metadata, "card"))
        _check(name, settings, tensors)
        model = _build(name, settings, "meta").eval()  # the file's tensors are its memory
        for key, value in _card(model, settings, None).items():
            if key != "size_kb" and card.get(key) != value:  # a record's counts differently
                raise PackedError(f"a card of another model: {key} {brief(card.get(key))}; {ANEW}")
        _network(model)[1].freeze(_decode(model, tensors))
        model.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()},
                              strict=False, assign=True)
    except PackedError as error:
        raise PackedError(f"{path}: {error}") from error.__cause__
    return model, card


def packed_bytes(model: nn.Module) -> int:
    """Bytes that a file's tensors take for the quantized network: a model's layers, without decoder
    and the like.

    ``model``: of :data:`MODELS`. Raises ``ConfigError`` for quantizers or normalizers of your own.
    """
    _settings(model)
    prefix = _network(model)[0]
    return sum(BYTES[dtype] * math.prod(shape) for name, (dtype, shape) in _layout(model).items()
               if name.startswith(prefix))


def pack_codes(codes: np.ndarray, width: int) -> np.ndarray:
    """``codes`` (m,) of {-1, +1} (``width`` 1) or {-1, 0, +1} (``width`` 2) as ceil(m width / 8)
    bytes.

    >>> pack_codes(np.array([1, -1, 1]), 1), pack_codes(np.array([1, 0, -1]), 2)     # 101, 10 01 00
    (array([160], dtype=uint8), array([144], dtype=uint8))
    """
    levels = (codes > 0 if width == 1 else codes + 1).astype(np.uint8)
    return np.packbits(levels if width == 1 else np.stack([levels >> 1, levels & 1], 1))


def unpack_codes(packed: np.ndarray, count: int, width: int) -> np.ndarray:
    """The ``count`` codes, float32, that :func:`pack_codes` has ``packed`` with ``width`` bits.
    Raises ``PackedError`` for bits that stand for none."""
    bits = np.unpackbits(packed)
    levels = bits[: count * width].reshape(count, width) @ np.array([2, 1][:width], np.uint8)
    if (levels > 2).any() or bits[count * width :].any():
        raise PackedError(f"bits that stand for no code; {ANEW}")
    return levels.astype(np.float32) - 1


# What a model's file holds


def _network(model: nn.Module) -> tuple[str, QuantRNN]:
    """What the names of a model's quantized network start with, and the network."""
    if type(model) not in MODELS.values():
        raise ConfigError(f"cannot pack a {type(model).__name__}, only {', '.join(MODELS)}")
    return ("", model) if isinstance(model, QuantRNN) else ("rnn.", model.rnn)


def _settings(model: nn.Module) -> dict[str, Any]:
    """What builds the model again, quantizer and normalizer by their names. Raises
    ``ConfigError``."""
    rnn = _network(model)[1]
    quantizers = {function: name for name, function in QUANTIZERS.items()}
    normalizers = dict(zip(NORMALIZERS, NORMALIZERS, strict=True))
    names = {"quantizer": quantizers.get(rnn.quantizer),
             "normalizer": normalizers.get(rnn.settings["normalizer"])}
    for what, name in names.items():
        if name is None:
            raise ConfigError(
                f"cannot pack a {what} of your own: a file can only name the study's; "
                "keep model.state_dict() and your code instead")
    return {key: value for key, value in model.settings.items()
            if key != "backend" and (key not in USUAL or value != USUAL[key])} | names


def _coding(rnn: QuantRNN) -> tuple[int, int]:
    """Code planes of a matrix, and bits of a code: several planes of {-1, +1}, or one, of {-1, 0,
    +1} at 2 bits."""
    bits = rnn.quantizer.bits
    planes, width = (bits, 1) if rnn.quantizer.scales == "row" else (1, bits)
    if width not in (1, 2):
        raise ConfigError(f"cannot pack codes of {width} bits")
    return planes, width


def _codes_shapes(rnn: QuantRNN, k: int) -> dict[str, tuple[int, ...]]:
    """Shapes (planes, gates, d, n) of the codes of a layer's quantized weights, in the order of the
    file."""
    return {name: (_coding(rnn)[0], rnn.gates, rnn.hidden_size, rnn.columns(name))
            for name in rnn.weight_names(k) if rnn.quantizes(name)}


def _scales(prefix: str, name: str) -> str:
    """The name of a weight's scales in the file."""
    return f"{prefix}scales_{name.removeprefix('weight_')}"


def _layout(model: nn.Module) -> Layout:
    """The tensors of the model's file."""
    prefix, rnn = _network(model)
    layout = {name: ("F32", tuple(value.shape)) for name, value in model.state_dict().items()
              if not name.startswith(f"{prefix}second_moment_")}
    for k in range(rnn.num_layers):
        shapes = _codes_shapes(rnn, k)
        for name, (planes, gates, d, _) in shapes.items():
            layout.pop(prefix + name, None)  # a frozen one is none of the state dict's
            if rnn.quantizer.scales is not None:
                rows = d if rnn.quantizer.scales == "row" else 1
                layout[_scales(prefix, name)] = "F32", (planes, gates, rows, 1)
        if shapes:
            bits = sum(map(math.prod, shapes.values())) * _coding(rnn)[1]
            layout[f"{prefix}codes_l{k}"] = "U8", (math.ceil(bits / 8),)
    return layout


def _encode(model: nn.Module) -> dict[str, np.ndarray]:
    """The tensors of the model's file. Raises ``ConfigError`` if its weights could not be had back
    from them."""
    prefix, rnn = _network(model)
    tensors, weights, training = model.state_dict(), {}, rnn.training
    rnn.training = False  # SBN and STN: the sample of evaluation
    try:
        for k in range(rnn.num_layers):
            own = {name: rnn.quantized(name) for name in _codes_shapes(rnn, k)}
            tensors |= {_scales(prefix, name): weight.scales for name, weight in own.items()}
            if own:
                codes = torch.cat([weight.codes.flatten() for weight in own.values()])
                packed = pack_codes(codes.detach().cpu().numpy(), _coding(rnn)[1])
                tensors[f"{prefix}codes_l{k}"] = torch.from_numpy(packed)
            weights |= own
            for name, weight in own.items():
                zeros = int((weight.codes == 0).sum())
                if zeros and _coding(rnn)[1] == 1:
                    raise ConfigError(
                        f"cannot pack {name}: {zeros:,} of its {weight.codes.numel():,} codes are "
                        "0, and one bit holds -1 or +1 only. They are latent weights that are "
                        "exactly 0, as before training: train the model first")
    finally:
        rnn.training = training
    arrays = {name: np.ascontiguousarray(tensors[name].detach().cpu()) for name in _layout(model)}
    for name, decoded in _decode(model, arrays).items():
        pairs = zip(decoded, weights[name], strict=True)
        if not all(np.array_equal(ours, own.detach().cpu(), equal_nan=True) for ours, own in pairs):
            raise ConfigError(
                f"cannot pack {name}: its codes and scales are not such as its quantizer gives")
    return arrays


def _decode(model: nn.Module, tensors: dict[str, np.ndarray]) -> dict[str, Quantized]:
    """Codes and scales of the quantized weights by their names. Raises ``PackedError``."""
    prefix, rnn = _network(model)
    weights = {}
    for k in range(rnn.num_layers):
        shapes = _codes_shapes(rnn, k)
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
        codes = (unpack_codes(tensors[f"{prefix}codes_l{k}"], ends[-1], _coding(rnn)[1]) if shapes
                 else None)
        for (name, shape), end in zip(shapes.items(), ends, strict=True):
            scales = tensors.get(_scales(prefix, name))
            if scales is not None:
                scales = torch.tensor(scales)
            else:  # they depend on the shape alone
                with torch.random.fork_rng(devices=[]):
                    scales = rnn.quantizer(
                        torch.zeros(shape[1:], dtype=torch.float32, device="cpu")).scales
            weights[name] = Quantized(
                torch.tensor(codes[end - math.prod(shape) : end]).view(shape), scales)
    return weights


def _card(
    model: nn.Module, settings: dict[str, Any], record: dict[str, Any] | None
) -> dict[str, Any]:
    """What the file tells about its model; without a record only what the model knows."""
    size = packed_bytes(model)
    card = {"model": type(model).__name__, "quantizer": settings["quantizer"],
            "normalizer": settings["normalizer"], "packed_bytes": size, "size_kb": size / 1024}
    if record is None:
        return card
    missing = [key for key in FROM_RECORD if key not in record]
    if missing:
        raise ConfigError(f"the record has no {', '.join(missing)}")
    config, own = record["config"], _network(model)[1].settings | settings
    for key in ("quantizer", "normalizer", "hidden_size", "num_layers"):
        if config[key] != own[key]:
            raise ConfigError(
                f"the record is of another model: {key} {config[key]!r} instead of {own[key]!r}")
    card |= {key: config[key] for key in ("profile", "dataset", "seed")}
    return card | {key: record[key] for key in (*FROM_RECORD, "recipe") if key in record}


# The file


def _read(path: str | Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors of a file, the same as were written; what they say is not checked.
    Raises ``PackedError``."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise PackedError(f"not a packed model, but a folder, pipe or device; {ANEW}")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise PackedError(
                    "not a packed model; only what save_packed has written can be loaded")
            if metadata.get("version") != VERSION:
                raise PackedError(
                    f"of format version {brief(metadata.get('version'))}, this qlstm reads "
                    f"{VERSION}: install the newer qlstm that wrote it; if there is none the file "
                    f"is damaged: {ANEW}")
            names = file.keys()
            if any(file.get_slice(name).get_dtype() not in BYTES for name in names):
                raise PackedError(
                    f"damaged: tensors of other types than {', '.join(BYTES)}; {ANEW}")
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise PackedError(
            f"damaged, or not a packed model ({first_line(error)}); {ANEW}") from error
    if digest(tensors, metadata) != metadata.get("sha256"):
        raise PackedError(f"damaged: the content does not match its sha256; {ANEW}")
    return metadata, tensors


def _parse(metadata: dict[str, str], key: str) -> dict[str, Any]:
    try:
        return dict(json.loads(metadata[key]).items())
    except (KeyError, ValueError, AttributeError, RecursionError) as error:
        raise PackedError(f"{key} that cannot be read ({first_line(error)}); {ANEW}") from error


def _build(name: str, settings: dict[str, Any], device: str) -> nn.Module:
    """A model of these settings; on the device "meta" it takes no memory, whatever its size."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return MODELS[name](**settings).float()


def _check(model: Any, settings: dict[str, Any], tensors: dict[str, np.ndarray]):
    """Names only from the tables, else numbers; the tensors that these settings need. Raises
    ``PackedError``."""
    tables = {"model": MODELS, "quantizer": QUANTIZERS, "normalizer": NORMALIZERS, "cell": CELLS}
    for key, value in (settings | {"model": model}).items():
        number = value is None or (isinstance(value, int | float) and 0 <= value < 2**53)
        if not (isinstance(value, str) and value in tables[key] if key in tables else number):
            raise PackedError(f"{key[:99]} {brief(value)}, which no packed model has; nothing "
                              f"was imported or executed; {ANEW}")
    layers = settings.get("num_layers", 1)
    try:
        if layers > len(tensors):
            raise PackedError(f"{layers} layers, in {len(tensors)} tensors; {ANEW}")
        expected = _layout(_build(model, settings, "meta"))
    except (TypeError, RuntimeError, ConfigError) as error:
        raise PackedError(
            f"settings that no {model} can have ({first_line(error)}); {ANEW}") from error
    found = describe(tensors)
    for name in sorted(found | expected):
        if found.get(name) != expected.get(name):
            raise PackedError(
                f"tensor {brief(name)} is {brief(found.get(name, 'missing'))}, which by the "
                f"settings should be {brief(expected.get(name, 'missing'))}; {ANEW}")
