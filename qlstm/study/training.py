"""Training: one run from its configuration to its record, with a checkpoint after each epoch.

:func:`run` looks after the folder of a run, :func:`train` is its epochs, :func:`train_epoch` one
pass over the data, and :func:`update` one step of the optimizer.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm.study import records
from qlstm.study.checkpoints import Checkpoint
from qlstm.study.config import ExperimentConfig
from qlstm.study.cuda_graphs import GraphedStep, make_recorder
from qlstm.study.locks import exclusive
from qlstm.study.networks import build_model
from qlstm.study.optimization import (
    learning_rate,
    make_optimizer,
    rate_is_spent,
    set_learning_rate,
)
from qlstm.study.probes import Probe, own_random_numbers
from qlstm.study.progress import Progress, epoch_line, result_line
from qlstm.study.results import is_known, make_record, save_model
from qlstm.study.run_data import RunData
from qlstm.study.tasks import TASKS
from qlstm.study.underway import Underway

__all__ = ["build_model", "evaluate", "learning_rate", "make_optimizer", "make_step", "metric",
           "run", "train", "train_epoch", "update"]

WAITING = ("lat", "alternating")
"""Quantizers that look at values to go on, for which a GPU has to be waited for in a step."""


def run(config: ExperimentConfig, directory: Path | None = None, *, device: str = "auto",
        backend: str = "auto", report: Callable[[str], object] = print,
        watch: Callable[..., object] | None = None) -> dict[str, Any]:
    """Train and evaluate one configuration.

    A run that was interrupted in its folder goes on after its last epoch and ends with the record
    of an unbroken run; a finished one returns its record at once. The last checkpoint stays, so
    that a record which is lost is made again without training; it may be deleted. A loss that
    becomes NaN or infinite ends the run as ``diverged`` with metrics None, the paper's N/A.

    Args:
        config: The settings of the run.
        directory: The folder for ``record.json``, ``epochs.jsonl``, ``model.safetensors`` (the
            best epoch) and ``checkpoint.pt``. None: nothing is written.
        device: The device to train on: ``"cpu"``, ``"cuda"``, ...; ``"auto"`` takes a GPU if there
            is one.
        backend: The implementation of the recurrence, see :mod:`qlstm.recurrence`.
        report: A function that receives a line of text after each epoch, and each minute of a
            longer one.
        watch: A function that is shown the run while it is trained, in place of these lines: see
            :class:`qlstm.study.underway.Underway`, and :class:`qlstm.report.live.Curve` for a
            picture in a notebook.

    Returns:
        The record, with the fields of :data:`qlstm.study.records.REQUIRED`.

    Raises:
        ConfigError: The backend cannot compute this network here.
        DataError: The data set is missing or damaged.
        OSError: The disk is full, say; no finished epoch is lost.
        MemoryError: The GPU's memory is too small; no finished epoch is lost.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if directory is None:
        run_data = RunData(config, torch.device(device))
        return train(config, run_data, None, backend=backend, report=report, watch=watch)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "record.json"
    with exclusive(directory, report), _enough_memory(config):
        run_data = RunData(config, torch.device(device))
        if path.exists():
            record = records.load(path)
            if not records.outdated(record, config.as_dict(), run_data.dataset.sha256):
                report(f"{config.run_id}: already done, {result_line(record)}")
                return record
        record = train(
            config, run_data, directory, backend=backend, report=report, watch=watch)
        records.save(record, path)
        return records.load(path)


def train(config: ExperimentConfig, run_data: RunData, directory: Path | None = None, *,
          backend: str = "auto", report=print, watch=None) -> dict[str, Any]:
    """Train a network through the epochs that are left, and evaluate the best of them.

    Args:
        config: The settings of the run.
        run_data: Its data, on the device to train on.
        directory: The folder for checkpoints and the trained network; None: nothing is written.
        backend: The implementation of the recurrence.
        report: A function that receives a line of text after each epoch.
        watch: A function that is shown the run in their place, as in :func:`run`.

    Returns:
        The record of the run, without its checksum.
    """
    with own_random_numbers(run_data.device):
        torch.manual_seed(config.seed)
        model = build_model(config, getattr(run_data.dataset, "vocabulary_size", None))
        model = model.to(run_data.device)
        model.rnn.backend = backend
        optimizer = make_optimizer(config, model)
        step = make_step(config, model, optimizer, report)
        probe = Probe(model, *next(run_data.minibatches("train", shuffled=False)), config.seed)
        checkpoint = Checkpoint(directory, config, run_data.dataset.sha256, model, optimizer)

        progress = checkpoint.resume(report)
        if progress is None:
            progress = Progress()  # its epoch 0 is the untrained network
            progress.add_traces("initial", probe.gradients())
            progress.add_epoch(probe.weights(), model)
            torch.manual_seed(config.seed + 1_000_000)  # apart from that of the initial weights

        underway = Underway(config.epochs, run_data.sizes["train"], directory, report, watch)
        for epoch in range(len(progress.epochs), config.epochs + 1):
            rate = learning_rate(config, epoch, progress.valid_losses)
            if progress.diverged or rate_is_spent(config, optimizer, rate):
                break
            started = time.monotonic()
            set_learning_rate(config, optimizer, rate)
            with underway.epoch(progress.epochs) as tell:
                minibatches = run_data.minibatches("train")
                train_loss = train_epoch(model, optimizer, step, minibatches, tell)
            valid_loss, valid_metric = math.nan, None
            if math.isfinite(train_loss):
                valid_loss, valid_metric = evaluate(config, model, run_data.minibatches("valid"))
            seconds = time.monotonic() - started
            progress.seconds += seconds

            finite = math.isfinite(train_loss) and math.isfinite(valid_loss)
            losses = {"train_loss": train_loss, "valid_loss": valid_loss,
                      "valid_metric": valid_metric}
            times = {"per_second": round(run_data.sizes["train"] / seconds),
                     "seconds": round(seconds, 2),
                     "seconds_left": round(seconds * (config.epochs - epoch))}
            if epoch == 1 and finite:
                progress.add_traces("epoch 1", probe.gradients())
            progress.add_epoch({"learning_rate": rate, **(losses if finite else {"diverged": True}),
                                **times, **probe.weights(finite=finite)}, model)
            checkpoint.save(progress)
            underway.done(progress.epochs, epoch_line(progress.epochs[-1], config))

        started = time.monotonic()
        test_loss, test_metric = math.nan, None
        if not progress.diverged:
            model.load_state_dict(progress.best)
            test_loss, test_metric = evaluate(config, model, run_data.minibatches("test"))
            progress.add_traces("best", probe.gradients())
        progress.seconds += time.monotonic() - started
        record = make_record(config, run_data, model, progress, test_metric)
        if directory is not None and math.isfinite(test_loss):
            save_model(directory, config, model, record, report)
    report(f"{config.run_id}: {result_line(record)}")
    return record


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable,
                minibatches: Iterable[tuple[Tensor, Tensor]],
                tell: Callable = lambda *_: None) -> float:
    """Train on each minibatch of one pass over the training data.

    Args:
        model: The network to be trained.
        optimizer: The optimizer of its parameters, with the learning rate of this epoch.
        step: One update, as :func:`make_step` makes it.
        minibatches: Pairs of inputs and targets.
        tell: A function that is called after each update, as
            :meth:`qlstm.study.underway.Underway.epoch` gives it.

    Returns:
        The mean loss in nats; NaN or infinity as soon as it is not finite.
    """
    if model.rnn.stochastic:  # in the release of SBN and STN Adam starts anew with each epoch
        for moments in optimizer.state.values():
            for value in moments.values():
                value.zero_()
    model.train()
    total, count, state = _zero(model), 0, None
    for number, (inputs, targets) in enumerate(minibatches):
        loss, state = step(inputs, targets, state)
        total += loss.double() * targets.numel()
        count += targets.numel()
        tell(number + 1, count, total)
        # rarely, as a GPU has to be waited for
        if number % 100 == 99 and not math.isfinite(total.item()):
            break
    return total.item() / count


def update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor,
           state, clip_norm: float, carry_state: bool = True):
    """Take one step of the optimizer on one minibatch.

    Args:
        model: The network to be trained.
        optimizer: The optimizer of its parameters.
        inputs: What the network reads: symbols (T, N) or pixels (T, N, 1).
        targets: What it is to predict: symbols (T, N) or labels (N,).
        state: Where the network starts from, as it was returned for the minibatch before; None:
            from its initial state.
        clip_norm: The norm that the gradient of all parameters is scaled down to where it is
            larger; 0: it is left as it is.
        carry_state: Whether the next minibatch goes on from the state that this one ends in.

    Returns:
        The mean loss in nats, a scalar tensor whose value nothing waits for, and the state for the
        next minibatch.
    """
    logits, state = model(inputs, state)
    loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
    optimizer.zero_grad()
    loss.backward()
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    # the loss-aware quantizers weigh by Adam's second moment
    model.rnn.set_second_moment(
        {name: optimizer.state[p]["exp_avg_sq"]
         for name, p in model.rnn.named_parameters(recurse=False)
         if "exp_avg_sq" in optimizer.state[p]}
    )
    # detached: the gradient reaches back to the start of its own minibatch only
    return loss.detach(), tuple(
        s.detach() for s in state) if carry_state and state is not None else None


def make_step(config: ExperimentConfig, model: nn.Module, optimizer: torch.optim.Optimizer,
              report=print) -> Callable:
    """Bind :func:`update` to a network; on a GPU it becomes a CUDA graph.

    There is no graph for a quantizer or normalizer of one's own, which may wait for a value.

    Args:
        config: The settings of the run.
        model: The network to be trained.
        optimizer: The optimizer of its parameters.
        report: Receives a line if there is no graph where there should be one.

    Returns:
        A function of inputs, targets and state that returns the loss and the next state.
    """
    step = functools.partial(
        update, model, optimizer, clip_norm=config.clip_norm, carry_state=config.carry_state)
    recorder = make_recorder(next(model.parameters()).device)
    if recorder is None or not is_known(config) or config.quantizer in WAITING:
        return step
    return GraphedStep(step, optimizer, recorder, report)


@torch.no_grad()
def evaluate(config: ExperimentConfig, model: nn.Module,
             minibatches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float | None]:
    """Evaluate a network on a part of the data.

    Args:
        config: The settings of the run, which tell the metric and whether the state is carried.
        model: The network.
        minibatches: Pairs of inputs and targets.

    Returns:
        The mean loss in nats, and the metric of the task; None for it if the loss is not finite.
    """
    model.eval()
    total, correct, count, state = _zero(model), _zero(model), 0, None
    for inputs, targets in minibatches:
        logits, last = model(inputs, state)
        state = last if config.carry_state else None
        total += F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum").double()
        correct += (logits.argmax(-1) == targets).sum()
        count += targets.numel()
    loss, accuracy = total.item() / count, correct.item() / count
    return loss, metric(config.task, loss, accuracy) if math.isfinite(loss) else None


def _zero(model: nn.Module) -> Tensor:
    """A sum on the model's device, so that nothing waits for it, in float64."""
    return torch.zeros((), device=next(model.parameters()).device, dtype=torch.float64)


def metric(task: str, loss: float, correct: float) -> float:
    """What the paper reports of a ``task``: its :attr:`qlstm.study.tasks.Task.metric`.

    Args:
        task: A name of :data:`qlstm.study.tasks.TASKS`.
        loss: The mean loss in nats.
        correct: The share of targets that were predicted right, from 0 to 1.
    """
    return TASKS[task].metric.of(loss, correct)


@contextlib.contextmanager
def _enough_memory(config: ExperimentConfig):
    """Say what to do when a GPU's memory is too small; the checkpoint has the epochs so far."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise MemoryError(
            f"{config.run_id}: {reason}. Train fewer runs side by side (JOBS=1), or on a GPU with "
            "more memory; the same command goes on after the last finished epoch") from error
