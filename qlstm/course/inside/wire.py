"""What goes between the grader and a submission's process: JSON and raw bytes, never pickles.

A message is a JSON object; the numbers of its tensors follow it. It is taken apart without trust:
whatever arrives gives a value or a ``ValueError``.
"""

import json
import math
import struct
import sys
from collections.abc import Callable
from numbers import Number
from typing import Any, BinaryIO

LARGEST, DEEPEST, LONGEST = 2**26, 5, 10_000
"""The bytes of a part of a message, how deep lists may lie in lists, and the elements of a list and
characters of a text."""
_NUMPY = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "float32", "float64")
_TORCH = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64",
          "bfloat16")


def send(file: BinaryIO, message: dict[str, Any], parts: list[bytes] = []):  # noqa: B006
    """Write a message.

    Args:
        file: Where to.
        message: What JSON can say.
        parts: The bytes that :class:`Encoder` has put aside for it.
    """
    head, body = json.dumps(message).encode(), b"".join(parts)
    file.write(struct.pack(">II", len(head), len(body)) + head + body)
    file.flush()


def receive(file: BinaryIO) -> tuple[dict[str, Any], bytes]:
    """Read a message and the bytes that belong to it.

    Args:
        file: Where from.

    Raises:
        EOFError: There is none.
        ValueError: It is not one.
    """
    head, body = (_read(file, length) for length in _lengths(_read(file, 8)))
    try:
        message = json.loads(head)
    except RecursionError as error:
        raise ValueError("too deep") from error
    if not isinstance(message, dict):
        raise ValueError("no object")
    return message, body


def _lengths(begin):
    lengths = struct.unpack(">II", begin)
    if max(lengths) > LARGEST:
        raise ValueError("too long")
    return lengths


def _read(file, length):
    content = file.read(length)
    if len(content) < length:
        raise EOFError
    return content


class Encoder:
    """Makes JSON of values. The numbers of arrays and tensors are put aside, in ``parts``.

    Args:
        function: What names a function to the other side; None where there is none to name.
    """

    def __init__(self, function: Callable[[Callable], int] | None = None):
        self.parts: list[bytes] = []
        self._function, self._length = function, 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """What JSON says instead of a value.

        Args:
            value: Any; of those of unknown types no more than the name of the type is said.
            depth: How many lists it lies in.
        """
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if value is None or value is True or value is False:
            return value
        if value is ...:
            return {"ellipsis": True}
        if type(value) is int and abs(value) >= 2**63:
            return {"float": "inf" if value > 0 else "-inf"} if abs(value) > 2**1023 else {
                "float": repr(float(value))}
        if type(value) is int:
            return value
        if isinstance(value, str):
            return str.__str__(value)[:LONGEST]
        if type(value) in (list, tuple) and len(value) <= LONGEST and depth < DEEPEST:
            return {type(value).__name__: [self.encode(item, depth + 1) for item in value]}
        if torch and isinstance(value, torch.Tensor):
            return self._tensor(torch, value)
        if numpy and isinstance(value, numpy.ndarray | numpy.generic):
            return self._array(numpy.asarray(value), type(value).__name__)
        if isinstance(value, Number) and not isinstance(value, complex):
            return {"float": repr(float(value))}
        if callable(value) and self._function:
            return {"function": self._function(value)}
        return {"other": type(value).__name__}

    def _tensor(self, torch, value):
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in _TORCH or value.device.type == "meta" or value.is_quantized:
            return {"other": f"{kind} {type(value).__name__}"}
        value = value.detach().to_dense().cpu().contiguous()
        content = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        return {"tensor": [kind, list(value.shape), *self._keep(content)]}

    def _array(self, value, name):
        if value.dtype.name not in _NUMPY:
            return {"other": name}
        content = value.astype(value.dtype.newbyteorder("=")).tobytes()
        return {"array": [value.dtype.name, list(value.shape), *self._keep(content)]}

    def _keep(self, content):
        begin, self._length = self._length, self._length + len(content)
        if self._length > LARGEST:
            raise ValueError("more numbers than can be sent")
        self.parts.append(content)
        return begin, self._length


def decode(value: Any, body: bytes, function: Callable[[int], Callable] | None = None) -> Any:
    """The value that :meth:`Encoder.encode` has made this JSON of.

    Args:
        value: The JSON.
        body: The bytes that came with it.
        function: What stands here for a function of the other side, by its number.

    Raises:
        ValueError: Nothing can be made of it.
    """
    try:
        return _decode(value, _Once(body), function)
    except (TypeError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise ValueError("no value") from error


def _decode(value, body, function):
    if value is None or isinstance(value, bool | int | float | str):
        return value
    ((kind, content),) = value.items()
    if kind == "ellipsis":
        return ...
    if kind == "float":
        return float(content)
    if kind in ("list", "tuple") and len(content) > LONGEST:
        raise ValueError("too long")
    if kind in ("list", "tuple"):
        items = [_decode(item, body, function) for item in content]
        return tuple(items) if kind == "tuple" else items
    if kind == "function" and function and type(content) is int:
        return function(content)
    if kind == "other":
        name = "".join(c for c in str(content)[:60] if c.isprintable()) or "?"
        return type(name, (), {})()
    return {"tensor": _tensor, "array": _array}[kind](*_numbers(body, *content))


class _Once:
    """Bytes, each of which is taken once and in order, as :class:`Encoder` writes them."""

    def __init__(self, body):
        self.body, self.taken = body, 0

    def take(self, begin, end):
        self.taken, content = end, bytearray(self.body[begin:end])
        return content


def _numbers(body, kind, shape, begin, end):
    sizes = [kind in _NUMPY + _TORCH, len(shape) <= 8, body.taken <= begin <= end <= len(body.body),
             *(type(size) is int and 0 <= size <= LARGEST for size in shape)]
    if not all(sizes):
        raise ValueError("no tensor")
    return kind, shape, body.take(begin, end)


def _tensor(kind, shape, content):
    import torch

    dtype = getattr(torch, kind)
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError("no tensor of this shape")
    if not content:
        return torch.empty(shape, dtype=dtype)
    if kind == "bool":  # of which a byte is 0 or 1
        return torch.frombuffer(content, dtype=torch.uint8).ne(0).view(shape)
    return torch.frombuffer(content, dtype=dtype).view(shape)


def _array(kind, shape, content):
    import numpy as np

    if kind == "bool":
        return (np.frombuffer(content, np.uint8) != 0).reshape(shape)[()]
    return np.frombuffer(content, kind).reshape(shape)[()]
