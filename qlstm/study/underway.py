"""How far the epoch that is being trained has come, told while it lasts: in a picture, a file and a
line.

It imports no torch, so that ``python -m qlstm status`` answers at once.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qlstm.data.storage import write_atomically
from qlstm.study import kinds, record_schema

FILE = "underway.json"
"""The file in a run's folder; it is there while an epoch lasts that takes longer than a moment."""
WATCH, WRITE, SAY = 2.0, 10.0, 60.0
"""Seconds between two looks of a watcher, two versions of the file, and two lines."""


class Underway:
    """Tells of a run while it is trained. Nothing it does changes a number of the run.

    Args:
        epochs: The number of epochs that the run has at most.
        size: The number of symbols or images of an epoch.
        directory: The folder of the run; None: no file is written.
        report: A function that receives a line of text.
        watch: A function that receives the finished epochs, as
            :attr:`qlstm.study.progress.Progress.epochs` has them, and how far the present one has
            come, as :func:`read` returns it; empty between two epochs. It takes the place of the
            lines that tell of epochs. None: there is nobody to watch.
    """

    def __init__(self, epochs: int, size: int, directory: Path | None, report: Callable,
                 watch: Callable | None = None):
        self.epochs, self.size, self.report, self.watch = epochs, size, report, watch
        self.path = None if directory is None else directory / FILE

    @contextlib.contextmanager
    def epoch(self, history: list[dict[str, Any]]) -> Iterator[Callable]:
        """An epoch that is being trained.

        Args:
            history: The epochs before it; entry 0 describes the untrained network.

        Returns:
            A function that is to be called after each update, with the number of updates, that of
            the predictions, and the sum of their losses: a tensor, which is rarely waited for.
        """
        listeners = [(WATCH, lambda here: self.watch(history, here))] if self.watch else [
            (SAY, lambda here: self.report(line(here)))]
        if self.path is not None:
            listeners.append((WRITE, self._write))
            self.path.unlink(missing_ok=True)  # of a run that was killed
        start = time.monotonic()
        due = [start + seconds for seconds, _ in listeners]

        def tell(updates: int, predictions: int, total):
            now = time.monotonic()
            if now < min(due):
                return
            here = {"epoch": len(history), "epochs": self.epochs, "updates": updates,
                    "share": min(predictions / self.size, 1.0),
                    "train_loss": total.item() / predictions}
            for k, (seconds, listener) in enumerate(listeners):
                if now >= due[k] and math.isfinite(here["train_loss"]):
                    listener(here)
                    due[k] = time.monotonic() + seconds

        try:
            yield tell
        finally:
            if self.path is not None:
                self.path.unlink(missing_ok=True)

    def _write(self, here: dict[str, Any]):
        with contextlib.suppress(OSError):  # a full disk need not end the epoch
            write_atomically(self.path, json.dumps(here).encode())

    def done(self, history: list[dict[str, Any]], words: str):
        """Tell of an epoch that is over.

        Args:
            history: All epochs so far.
            words: The line for those who do not watch.
        """
        if self.watch:
            self.watch(history, {})
        else:
            self.report(words)


def read(directory: Path) -> dict[str, Any]:
    """Return how far the epoch has come that is being trained in a folder.

    Args:
        directory: The folder of the run.

    Returns:
        ``epoch`` (the present one, from 1) of ``epochs``, its ``updates`` so far, the ``share`` of
        the training data that they have read (0 to 1) and the mean ``train_loss`` over it, up to
        10 s old. Empty if it has just begun, or if nothing is trained there.
    """
    with contextlib.suppress(OSError, ValueError):
        return kinds.read_as(record_schema.UNDERWAY, directory / FILE)
    return {}


def line(here: dict[str, Any]) -> str:
    """Return the line that tells how far an epoch has come.

    Args:
        here: What :func:`read` returns; not empty.

    Example:
        >>> line({"epoch": 3, "epochs": 120, "updates": 530, "share": 0.4, "train_loss": 4.5})
        'epoch 3/120, 40 %: 530 updates, loss 4.5000'
    """
    return (f"epoch {here['epoch']}/{here['epochs']}, {100 * here['share']:.0f} %: "
            f"{here['updates']:,} updates, loss {here['train_loss']:.4f}")
