"""A safetensors file with a sha256 over all of it; the same content gives the same bytes.

``tensors``: arrays by name. ``metadata``: texts by name. ``value``: plain JSON.
"""

import hashlib
import json
from typing import Any

import numpy as np
import safetensors.numpy

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Of each tensor of a file its type, a key of :data:`BYTES`, and its shape."""
BYTES = {"F32": 4, "U8": 1}
"""Bytes of a number, by the types that occur."""


def dump(value: dict[str, Any]) -> str:
    """The JSON of ``value``, its keys sorted."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def describe(tensors: dict[str, np.ndarray]) -> Layout:
    """Type and shape of each of the ``tensors``."""
    return {name: ({"float32": "F32", "uint8": "U8"}[value.dtype.name], value.shape)
            for name, value in tensors.items()}


def digest(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """sha256 over names, types, shapes and values of ``tensors`` and the rest of ``metadata``."""
    rest = {key: value for key, value in metadata.items() if key != "sha256"}
    total = hashlib.sha256(dump({"tensors": describe(tensors), "metadata": rest}).encode())
    for name in sorted(tensors):
        total.update(tensors[name].tobytes())
    return total.hexdigest()


def serialize(tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The file's bytes, its header sorted: safetensors changes that order from time to time."""
    content = safetensors.numpy.save(tensors, metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    header = dump(json.loads(content[8:end])).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]
