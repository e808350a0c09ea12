"""Packed files, damaged at random: what ``python tests/fuzz.py packed 2000`` makes and reads.

Bytes are changed; or the header as it stands there; or tensors and metadata, whose sha256 is then
made to fit again. What could as well be is not made: other numbers in a tensor, a quantizer whose
codes take the same room, a card's words on where the model is from.
"""

import itertools
import json
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import nn

from qlstm.data import hashed_tensors
from qlstm.errors import ConfigError
from qlstm.gru import QuantGRU
from qlstm.lstm import QuantLSTM
from qlstm.models import LanguageModel, SequenceClassifier
from qlstm.normalizers import NORMALIZERS
from qlstm.packing import PackedError, _build, _layout, load_packed, save_packed
from qlstm.quantizers import QUANTIZERS

NUMBERS = [-1, -0.5, 2**31, 2**52, 2**63, 10**12, 10**400, 10**6 + 0.5, float("nan"), float("inf"),
           float("-inf")]
"""What no setting can be."""
JUNK = ["", "junk", "os:system", "\ud800", "x" * 10_000, "a\nb\0", [], [[1] * 999], {},
        {"a": {"b": 1}}]
TEXTS = ["", "{", "null", "3", "[]", "junk", "[" * 100_000, '{"a":' * 100_000, "9" * 5000,
         '{"a": 1e999}', '"' + "x" * 10**7 + '"', "é\u202e\n",
         "{" + ",".join(f'"{k}": 1' for k in range(29_999)) + "}"]
"""What stands in the place of metadata."""
KINDS = [(QuantLSTM, (3, 5, 2), {}), (QuantGRU, (4, 3), {}), (LanguageModel, (6, 3), {}),
         (LanguageModel, (7, 4), {"cell": "gru", "dropout": 0.5, "embedding_size": 4}),
         (SequenceClassifier, (5, 3), {})]
TERNARY = re.compile(rb'"(ter_connect|twn|lat|stn)\\"')
"""In the header of a file whose codes have two bits, of which both are never set."""
TYPES = [np.float16, np.float64, np.int8, np.int64, np.bool_, np.complex64, np.float32, np.uint8]


def mutants_of_packed(folder: Path, count: int, seed: int) -> Iterator[str]:
    """How the reading of each of ``count`` damaged files ends."""
    whole = _whole(folder, seed)
    path = folder / "mutant"
    for k in range(count):
        rng = random.Random(f"{seed}-{k}")
        before = rng.choice(whole)
        damage = rng.choice([other_bytes, other_header, other_tensors, other_metadata,
                             other_settings, other_settings])
        path.write_bytes(damage(before.read_bytes(), rng))
        outcome, said = _read(path, before)
        if outcome not in ("refused", "the same as before"):
            print(f"mutant {seed}-{k}, {damage.__name__} of {before.name}: {outcome}: {said}")
        yield outcome


def _whole(folder: Path, seed: int) -> list[Path]:
    """Files of models of each quantizer, normalizer, cell and class."""
    torch.manual_seed(seed)
    paths = []
    for i, (quantizer, normalizer) in enumerate(itertools.product(QUANTIZERS, NORMALIZERS)):
        kind, sizes, more = KINDS[i % len(KINDS)]
        with suppress(ConfigError):  # not every quantizer goes with every normalizer
            model = kind(*sizes, quantizer=quantizer, normalizer=normalizer, max_steps=4, **more)
            for parameter in model.eval().parameters():  # no weight is 0, and no two are alike
                nn.init.normal_(parameter)
            path = folder / f"{quantizer}-{normalizer}-{kind.__name__}"
            save_packed(model, path)
            paths.append(path)
    return paths


def _read(path: Path, before: Path) -> tuple[str, str]:
    """What becomes of a file that was made of the one ``before``."""
    try:
        found = load_packed(path)
    except PackedError as error:
        said = str(error)
        one = said.startswith(f"{path}: ") and said.isprintable() and len(said) < 800
        return "refused" if one else "refused in other words", said[:800]
    except Exception as error:
        return f"raised {type(error).__name__}", str(error)[:300]
    same = _state(found[0]) == _state(load_packed(before)[0])
    return "the same as before" if same else "accepted", str(found[1])[:300]


def _state(model: nn.Module) -> dict[str, bytes]:
    """All that a model computes with."""
    rnn = getattr(model, "rnn", model)
    state = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    names = [f"weight_{part}_l{k}" for k in range(rnn.num_layers) for part in ("ih", "hh")]
    weights = {f"{name} quantized": rnn.quantized(name).dense().detach().numpy().tobytes()
               for name in names if rnn.quantizes(name)}
    return state | weights | {"settings": repr(model.settings).encode()}


def _parts(content: bytes) -> tuple[dict, bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _file(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def other_bytes(content: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, left out or put in, or the end cut off."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 50])):
        at = rng.randrange(len(content) + 1)
        to = min(len(content), at + rng.choice([1, 1, 2, 8, 1000]))
        piece = rng.choice([b"", b"\0", b"\xff", rng.randbytes(1), rng.randbytes(3), b" ",
                            b"9" * 20, content[at:to] * 2])
        content[at:at if rng.random() < 0.3 else to] = piece
    return bytes(rng.choice([content] * 6 + [
        content[:rng.randrange(len(content))], content + content, content + b"\0",
        (2 ** rng.randrange(64)).to_bytes(8, "little") + content[8:]]))


def other_header(content: bytes, rng: random.Random) -> bytes:
    """The header says other things of the same data; nothing is made to fit."""
    header, data = _parts(content)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    how = rng.randrange(7)
    if how == 0:
        entry["dtype"] = rng.choice(["F64", "BF16", "I8", "BOOL", "C64", "junk", None, 3])
    elif how == 1:
        entry["shape"] = rng.choice([[], [0], [2**62], [2**32, 2**32], [1] * 10**5, [-1], "3",
                                     None, [True], [1.5], [*entry["shape"], 2]])
    elif how == 2:
        entry["data_offsets"] = rng.choice([[0, 0], [0, 2**63], [8, 4], [-1, 3], [0], None, "", [
            entry["data_offsets"][0] + 1, entry["data_offsets"][1] + 1]])
    elif how == 3:
        header = {f"{k}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                  for k in range(3_000)} | header
    elif how == 4:
        header["__metadata__"] = rng.choice([None, [], 3, {"a": 1}, {"a": {}}, {}, "x" * 10**6])
    elif how == 5:
        del header[rng.choice(list(header))]
    else:
        text = json.dumps(header)
        return _file(rng.choice([b"[" * 10**5, b"{}", text[:-1].encode(),
                                 (text[:-1] + ',"a":1}').encode(),
                                 text.replace('"F32"', '"F32","dtype":"U8"', 1).encode(),
                                 b"\xff" + text.encode(), text.encode("utf-16"), b""]), data)
    return _file(json.dumps(header).encode(), data)


def _rewritten(content: bytes, tensors: dict | None = None, **metadata: str) -> bytes:
    """The file with these tensors and metadata, its sha256 made to fit."""
    old = {key: value for key, value in _parts(content)[0]["__metadata__"].items()
           if key != "sha256"} | metadata
    metadata = {key: value for key, value in old.items() if value is not None}
    tensors = safetensors.numpy.load(content) if tensors is None else tensors
    if {value.dtype.name for value in tensors.values()} <= {"float32", "uint8"}:
        metadata["sha256"] = hashed_tensors.digest(tensors, metadata)
    return hashed_tensors.serialize(tensors, metadata)


def other_tensors(content: bytes, rng: random.Random) -> bytes:
    """A tensor of another type, shape or name, one less or more; codes that there are not."""
    tensors = safetensors.numpy.load(content)
    name = rng.choice(list(tensors))
    value = tensors[name]
    while True:
        how = rng.randrange(7)
        if how == 0 and (kind := rng.choice(TYPES)) != value.dtype:
            tensors[name] = value.astype(kind)
        elif how == 1:
            tensors[name] = rng.choice([value[None], value.ravel()[:, None], value[:0], value[:-1],
                                        np.concatenate([value, value]),
                                        np.zeros([0] * 30, value.dtype)])
        elif how == 2:
            del tensors[name]
        elif how == 3:
            tensors[rng.choice(["", "junk", "x" * 10**5, "a\n\x1b", name + "_", "rnn.weight_ih_l0"])
                    + "?"] = value
        elif how == 4:
            tensors |= {f"{k}": np.zeros(rng.choice([0, 1]), np.float32) for k in range(2000)}
        elif how == 5:
            tensors = {}
        elif value.dtype == np.uint8 and TERNARY.search(content[:9999]):
            tensors[name] = np.full_like(value, 255)
        else:
            continue
        if name in tensors and how < 2 and tensors[name].shape == value.shape and (
                tensors[name].dtype == value.dtype):
            continue
        return _rewritten(content, tensors)


def other_metadata(content: bytes, rng: random.Random) -> bytes:
    """Metadata that are missing, of another version, or no JSON of a table."""
    key = rng.choice(["format", "version", "model", "settings", "card"])
    if key == "card" and rng.random() < 0.5:
        card = json.loads(_parts(content)[0]["__metadata__"]["card"])
        name = rng.choice(["model", "quantizer", "normalizer", "packed_bytes"])
        card[name] = rng.choice([None, *JUNK, *NUMBERS[:6]])
        return _rewritten(content, card=json.dumps(card).encode().decode())
    return _rewritten(content, **{key: rng.choice([None, *TEXTS, "2", "QuantLSTM\n", "hostile:f"])})


def other_settings(content: bytes, rng: random.Random) -> bytes:
    """A setting of another kind, out of range, unknown or missing."""
    header = _parts(content)[0]
    metadata = header.pop("__metadata__")
    before = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    while True:
        settings, model = json.loads(metadata["settings"]), metadata["model"]
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            key = rng.choice([*settings, *settings, "model", "unheard_of"])
            new = rng.choice([*NUMBERS, *JUNK, rng.randrange(9), None, *QUANTIZERS, *NORMALIZERS,
                              "lstm", "gru"])
            if key == "model":
                model = rng.choice(["QuantLSTM", "QuantGRU", "LanguageModel", "SequenceClassifier"])
            elif rng.random() < 0.1 and key in settings:
                del settings[key]
            else:
                settings[key] = new
        same = False  # or such as another model could be
        if all(0 <= value < 2**53 for value in settings.values() if isinstance(
                value, int | float)) and settings.get("num_layers") in (None, 1, 2):
            with suppress(Exception):  # such settings are refused
                same = _layout(_build(model, settings, "meta")) == before
        if not same:
            return _rewritten(content, model=model, settings=json.dumps(settings))
