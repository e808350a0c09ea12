"""Checkpoints: the state of an unfinished run, in one file that is there whole and unaltered or
refused."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qlstm.data.storage import write_atomically
from qlstm.study.config import ExperimentConfig
from qlstm.study.progress import Progress
from qlstm.study.recipe import recipe

DIGEST = hashlib.sha256().digest_size


class CheckpointError(ValueError):
    """A checkpoint that is torn or altered."""


class Checkpoint:
    """The files of a run in training: ``checkpoint.pt`` and its history ``epochs.jsonl``.

    A checkpoint holds the weights, the state of the optimizer and of torch's random generators,
    and the :class:`~qlstm.study.progress.Progress`, so that a run which goes on from it ends with
    the numbers of an unbroken one: after the last epoch that was finished. Of an epoch that was
    killed nothing is kept; it is trained again from its start.

    Args:
        directory: The folder of the run; None: nothing is written and nothing found.
        config: The settings of the run, which have to be those of the checkpoint.
        sha256: The digest of the run's data set, which has to be the same, too.
        model: The network that is saved, and that a checkpoint is loaded into.
        optimizer: The optimizer of its parameters, likewise.
    """

    def __init__(self, directory: Path | None, config: ExperimentConfig, sha256: str,
                 model: nn.Module, optimizer: torch.optim.Optimizer):
        self.directory, self.model, self.optimizer = directory, model, optimizer
        self.device = next(model.parameters()).device
        self.run_id = config.run_id
        settings = config.as_dict()
        self.identity = {"config": settings, "sha256": sha256, "backend": None,
                         "recipe": recipe(settings)}

    def save(self, progress: Progress):
        """Write the state after an epoch, in place of the one before.

        Args:
            progress: What the run has come to.

        Raises:
            OSError: The disk is full, say; the checkpoint before stays whole.
        """
        if self.directory is None:
            return
        # the history first, so that a run killed in between writes it again
        history = "".join(json.dumps(entry) + "\n" for entry in progress.epochs)
        write_atomically(self.directory / "epochs.jsonl", history.encode())
        random_state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        write(self.directory / "checkpoint.pt", {
            "identity": self.identity | {"backend": self.model.rnn.backend_used},
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "random_state": random_state, "epochs": progress.epochs, "traces": progress.traces,
            "seconds": progress.seconds,
            # mostly the same as the model, so that a checkpoint has half the size
            "best": None if progress.last_is_best else progress.best})

    def resume(self, report=print) -> Progress | None:
        """Load network, optimizer and random generators as they were saved, if they were.

        Args:
            report: Receives a line that says where the run goes on, or why it starts anew.

        Returns:
            What the run had come to; None without a checkpoint of this very run, that is of the
            same settings, data and recipe.
        """
        path = None if self.directory is None else self.directory / "checkpoint.pt"
        if path is None or not path.exists():
            return None
        try:
            saved = read(path, self.device)
        except CheckpointError as error:
            report(f"{error}; starting anew")
            return None
        if saved["identity"] | {"backend": None} != self.identity:  # backends may differ
            report(f"{path}: of other settings, text or recipe; starting anew")
            return None
        self.model.load_state_dict(saved["model"])
        self.model.rnn.backend_used = saved["identity"]["backend"]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = float(group["lr"])  # a tensor where a CUDA graph was recorded
        torch.set_rng_state(saved["random_state"]["cpu"].cpu())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_state"]["cuda"].cpu(), self.device)
        best = saved["model"] if saved["best"] is None else saved["best"]
        best = {name: value.cpu() for name, value in best.items()}
        report(f"{self.run_id}: going on after epoch {len(saved['epochs']) - 1}")
        return Progress(saved["epochs"], best, saved["traces"], saved["seconds"])


def write(path: Path, content: dict[str, Any]):
    """Write a checkpoint: the sha256 of what follows, then torch's format.

    Args:
        path: The file, which is replaced as a whole.
        content: Tensors and plain values by name.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, hashlib.sha256(buffer.getbuffer()).digest() + buffer.getvalue())


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what :func:`write` has written; nothing in the file is executed.

    Args:
        path: The file.
        device: Where its tensors are put.

    Raises:
        CheckpointError: The file is torn or altered.
    """
    packed = path.read_bytes()
    if hashlib.sha256(packed[DIGEST:]).digest() != packed[:DIGEST]:
        raise CheckpointError(f"{path}: torn or altered")
    return torch.load(io.BytesIO(packed[DIGEST:]), map_location=device, weights_only=True)
