"""How far a run has come: its epochs so far, the best weights, and a line that tells of each."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from qlstm.study.config import ExperimentConfig
from qlstm.study.tasks import TASKS

TIMES = ("per_second", "seconds", "seconds_left")
"""Entries of an epoch that differ from one machine to the next; a record leaves them out."""


@dataclass
class Progress:
    """What lives from one epoch to the next, beside the weights and the optimizer's state."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    """An entry for each epoch; entry 0 describes the network before training."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights after the epoch of the lowest validation loss, on the CPU."""
    traces: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {"gradient_norms": {}, "propositions": {}})
    """What :mod:`qlstm.study.probes` found of the gradients, by kind and by moment of training."""
    seconds: float = 0.0
    """Seconds of training and evaluation, without those of probes and files."""

    @property
    def diverged(self) -> bool:
        """Whether the last epoch ended in NaN or infinity."""
        return bool(self.epochs) and self.epochs[-1].get("diverged", False)

    @property
    def valid_losses(self) -> list[float]:
        """The validation loss of each epoch, NaN for one that diverged."""
        return [entry.get("valid_loss", math.nan) for entry in self.epochs[1:]]

    @property
    def best_epoch(self) -> int:
        """The epoch of the lowest validation loss, the first of equals."""
        return 1 + self.valid_losses.index(min(self.valid_losses))

    @property
    def last_is_best(self) -> bool:
        """Whether the last epoch is the best so far."""
        trained = len(self.epochs) > 1 and not self.diverged
        return trained and self.best_epoch == len(self.epochs) - 1

    def add_epoch(self, entry: dict[str, Any], model: nn.Module):
        """Add the next epoch to the history, and keep its weights if it is the best so far.

        Args:
            entry: The numbers of the epoch: rate, losses, metric, times, and the probes' findings.
            model: The network after the epoch.
        """
        self.epochs.append({"epoch": len(self.epochs), **entry})
        if self.last_is_best:
            self.best = {name: value.detach().cpu().clone()
                         for name, value in model.state_dict().items()}

    def add_traces(self, moment: str, found: dict[str, Any]):
        """Add traces of the gradients at a moment of training.

        Args:
            moment: The name of the moment: ``"initial"``, ``"epoch 1"`` or ``"best"``.
            found: The traces by kind, with the keys of :attr:`traces`.
        """
        for kind, trace in found.items():
            self.traces[kind][moment] = trace


def epoch_line(entry: dict[str, Any], config: ExperimentConfig) -> str:
    """Return the line that is reported after an epoch.

    Args:
        entry: The epoch, as :attr:`Progress.epochs` has it.
        config: The settings of the run, for its task and number of epochs.
    """
    start = f"epoch {entry['epoch']}/{config.epochs}  "
    if entry.get("diverged"):
        return start + "the loss is not finite: diverged"
    minutes, seconds = divmod(entry["seconds_left"], 60)
    at_most = "at most " if config.min_learning_rate else ""
    return (
        f"{start}loss {entry['train_loss']:.4f}  validation {TASKS[config.task].metric.name} "
        f"{entry['valid_metric']:.3f}  {entry['per_second']} {TASKS[config.task].unit}s/s  "
        f"{at_most}{minutes}:{seconds:02d} left")


def result_line(record: dict[str, Any]) -> str:
    """Return the end of the line that is reported for a finished run, from its ``record``."""
    if record["diverged"]:
        return "diverged (N/A)"
    size = "size unknown" if record["size_kb"] is None else f"{record['size_kb']:.1f} KB"
    return (f"test {record['metric']} {record['test_metric']:.3f} "
            f"(best epoch {record['best_epoch']}), {size}")
