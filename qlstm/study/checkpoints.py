"""Checkpoints: the state of an unfinished run, in one file that is there whole and unaltered or
refused."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from qlstm.data.storage import write_atomically

DIGEST = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """A checkpoint that is torn or altered."""


def save(content: dict[str, Any], path: Path):
    """Write ``content``, tensors and plain values, to ``path``: the sha256 of what follows, then
    torch's format. Raises ``OSError``."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue())


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read the checkpoint at ``path``, its tensors onto ``device``; nothing in it is executed.
    Raises ``CheckpointError``."""
    packed = path.read_bytes()
    if hashlib.sha256(packed[DIGEST:]).digest() != packed[:DIGEST]:
        raise CheckpointError(f"{path}: torn or altered")
    return torch.load(io.BytesIO(packed[DIGEST:]), map_location=device, weights_only=True)
