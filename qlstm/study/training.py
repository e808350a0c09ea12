"""Training: one run from its configuration to its record, with checkpoints after each epoch."""

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm import data
from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError
from qlstm.models import LanguageModel, SequenceClassifier
from qlstm.normalizers import NORMALIZERS
from qlstm.packing import packed_bytes, save_packed
from qlstm.quantizers import QUANTIZERS
from qlstm.study import checkpoints, records, traces
from qlstm.study.config import ExperimentConfig
from qlstm.study.cuda_graphs import GraphedStep, make_recorder
from qlstm.study.environment import describe_environment
from qlstm.study.locks import exclusive
from qlstm.study.recipe import recipe
from qlstm.study.sizes import size_kb
from qlstm.study.tasks import TASKS

EVALUATION_STREAMS = 64
CLASSES = 10


def build_model(config: ExperimentConfig) -> LanguageModel | SequenceClassifier:
    """The model of a run's ``config``, with initial weights from torch's random generator."""
    settings = dict(quantizer=config.quantizer, normalizer=config.normalizer,
                    max_steps=config.steps, cell=config.cell, biases=config.biases)
    sizes = (config.hidden_size, config.num_layers)
    if config.task == "sequential_image":
        return SequenceClassifier(CLASSES, *sizes, initial_gain=config.initial_gain,
                                  state_noise=config.state_noise, **settings)
    vocabulary = data.vocabulary_size(config.dataset, config.task)
    embedding = config.hidden_size if config.task == "word_lm" else None
    return LanguageModel(vocabulary, *sizes, embedding_size=embedding, dropout=config.dropout,
                         learned_state=not config.carry_state, **settings)


def make_optimizer(config: ExperimentConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam for the ``model`` of a ``config``; for words plain SGD.

    Two groups: the latent matrices and everything else. A group's ``scale`` is its factor on the
    learning rate of :func:`learning_rate` (for words BC and TC scale the rate of the matrices by
    2/a, a = 1/sqrt(d)); ``decays`` tells whether its rate falls at all.
    """
    words = config.task == "word_lm"
    scale = (2 * math.sqrt(config.hidden_size)
             if words and config.quantizer in ("binary_connect", "ter_connect") else 1.0)
    names = [f"weight_{side}_l{k}" for side in ("ih", "hh") for k in range(config.num_layers)]
    latent = {f"rnn.{name}" for name in names if model.rnn.quantizes(name)}
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if name in latent], "scale": scale, "decays": True},
        {"params": [p for name, p in named if name not in latent], "scale": 1.0,
         "decays": config.decay == "all"},
    ]
    kind = torch.optim.SGD if words else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.learning_rate, fused=True)


def metric(task: str, loss: float, correct: float) -> float:
    """What a ``task`` reports of a mean ``loss`` in nats and a ``correct`` share of predictions."""
    return TASKS[task].metric.of(loss, correct)


def load_model(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model of a finished run (best validation epoch, on the CPU) and its record.

    ``directory``: ``reports/<profile>/runs/<run id>``. Raises ``RecordError`` or
    ``FileNotFoundError``.
    """
    directory = Path(directory)
    record = records.load(directory / "record.json")
    model = build_model(ExperimentConfig(**record["config"]))
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval(), record


def learning_rate(config: ExperimentConfig, epoch: int, valid_losses: list[float]) -> float:
    """The rate of an epoch of a ``config``, counted from 1; ``valid_losses``: validation loss of
    each epoch before.

    Characters: lr * decay^max(0, epoch - 11), so the first decay is in epoch 12. Words: lr *
    decay^k, k of the epochs before were not below the best before them. Images: lr * decay^((epoch
    - 1) / epochs).
    """
    rate, decay = config.learning_rate, config.lr_decay
    if config.task == "char_lm":
        return rate * decay ** max(0, epoch - 11)
    if config.task == "sequential_image":
        return rate * decay ** ((epoch - 1) / config.epochs)
    best, rises = math.inf, 0
    for loss in valid_losses:
        rises += not loss < best
        best = min(best, loss)
    return rate * decay**rises


def update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor,
           state, clip_norm: float, carry_state: bool = True):
    """One training step: the loss (nats, a tensor: nothing waits for its value) and the state to go
    on from.

    ``inputs``, ``targets``: a minibatch, as ``model`` takes it from ``state``; ``optimizer``: of
    the model's parameters, whose gradients are first scaled down to at most ``clip_norm`` (0: they
    are not). Without ``carry_state`` the next minibatch starts anew.
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
    return loss.detach(), tuple(
        s.detach() for s in state) if carry_state and state is not None else None


WAITING = ("lat", "alternating")
"""Quantizers that look at values to go on, for which a GPU has to be waited for in a step."""


def make_step(
    config: ExperimentConfig, model: nn.Module, optimizer: torch.optim.Optimizer, report=print
) -> Callable:
    """:func:`update` for a ``model`` of a ``config`` and its ``optimizer``: of inputs, targets and
    state; on a GPU a graph.

    Not for a quantizer or normalizer of one's own, which may wait for a value. ``report``: receives
    a line if there is no graph where there should be one.
    """
    step = functools.partial(
        update, model, optimizer, clip_norm=config.clip_norm, carry_state=config.carry_state)
    recorder = make_recorder(next(model.parameters()).device)
    known = config.quantizer in QUANTIZERS and config.normalizer in NORMALIZERS
    if recorder is None or not known or config.quantizer in WAITING:
        return step
    return GraphedStep(step, optimizer, recorder, report)


def run(config: ExperimentConfig, directory: Path | None = None, *, device: str = "auto",
        backend: str = "auto", report=print) -> dict[str, Any]:
    """Train and evaluate one configuration ``config``; returns its record.

    ``directory``: where ``record.json``, ``epochs.jsonl``, ``model.safetensors`` (best epoch) and
    ``checkpoint.pt`` go; a run that was interrupted there goes on after its last epoch and ends
    with the record of an unbroken run, and a finished one returns its record at once. The last
    checkpoint stays, so that a record which is lost is made again without training; it may be
    deleted. None: nothing is written. ``device``: "auto", "cpu", "cuda", ... ``backend``: see
    :mod:`qlstm.recurrence`. ``report``: receives a line an epoch. A loss that becomes NaN or
    infinite ends the run as ``diverged`` with metrics None, the paper's N/A. Raises
    ``ConfigError``, ``qlstm.data.DataError``, ``OSError`` (disk full) or ``MemoryError`` (GPU too
    small); nothing finished is lost.
    """
    if directory is None:
        return _Run(config, None, device, backend, report).record()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive(directory, report), _enough_memory(config):
        run = _Run(config, directory, device, backend, report)
        if (directory / "record.json").exists():
            record = records.load(directory / "record.json")
            if not records.outdated(record, config.as_dict(), run.dataset.sha256):
                report(f"{config.run_id}: already done, {_result(record)}")
                return record
        record = run.record()
        records.save(record, directory / "record.json")
        return records.load(directory / "record.json")


@contextlib.contextmanager
def _enough_memory(config):
    """Say what to do when a GPU's memory is too small; epochs that are done stay in the
    checkpoint."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise MemoryError(
            f"{config.run_id}: {reason}. Train fewer runs side by side (JOBS=1), or on a GPU with more memory; "
            "the same command goes on after the last finished epoch"
        ) from error


class _Run:
    """The state of a run between epochs; what a checkpoint holds."""

    def __init__(self, config, directory, device, backend, report):
        self.config, self.directory, self.report = config, directory, report
        self.device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dataset = data.load_dataset(config.dataset, config.task)
        limits = {"train": config.max_train, "valid": config.max_train // 8,
                  "test": config.max_train // 8}
        self.splits = {
            name: _limit(getattr(self.dataset, name), most) for name, most in limits.items()}
        with self._random():
            torch.manual_seed(config.seed)
            self.model = build_model(config).to(self.device)
        self.model.rnn.backend = backend
        self.optimizer = make_optimizer(config, self.model)
        self.step = make_step(config, self.model, self.optimizer, report)
        self.epochs: list[dict[str, Any]] = []
        self.traces: dict[str, Any] = {"gradient_norms": {}, "propositions": {}}
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.random_state = None

    def record(self) -> dict[str, Any]:
        """Train what is left of the epochs, evaluate the best one, and put the record together."""
        if not self._resume():
            self._trace("initial")
            self._keep_epoch(0, {})
        with self._random():
            self._seed()
            for epoch in range(len(self.epochs), self.config.epochs + 1):
                if self.diverged or self._spent(epoch):
                    break
                self._epoch(epoch)
        diverged, started = self.diverged, time.monotonic()
        test = None
        if not diverged:
            self.model.load_state_dict(self.best)
            loss, test = self._evaluate("test")
            self._trace("best")
            diverged = not math.isfinite(loss)
        record = {
            "schema": records.SCHEMA,
            "run_id": self.config.run_id,
            "config": self.config.as_dict(),
            "config_sha256": records.sha256(self.config.as_dict()),
            "data": {"sha256": self.dataset.sha256, "reduced": self.dataset.reduced,
                     "sizes": {name: _size(split) for name, split in self.splits.items()}},
            "metric": TASKS[self.config.task].metric.name,
            "test_metric": None if diverged else test,
            "valid_metric": None if diverged else self.epochs[self.best_epoch]["valid_metric"],
            "best_epoch": None if diverged else self.best_epoch,
            "diverged": diverged,
            "size_kb": size_kb(self.config),
            "packed_bytes": packed_bytes(self.model.rnn) if self.packable else None,
            "seconds": round(self.seconds + time.monotonic() - started, 2),
            "epochs": [{k: v for k, v in epoch.items() if k not in TIMES} for epoch in self.epochs],
            "traces": self.traces,
            "recipe": recipe(self.config.as_dict()),
            "environment": describe_environment(self.device, self.model.rnn.backend_used),
        }
        if self.directory is not None and not diverged:
            write_atomically(self.directory / "model.safetensors", safetensors_bytes(self.best))
            try:
                if self.packable:
                    save_packed(self.model, self.directory / "packed.safetensors", record)
            except ConfigError as error:  # the record does not depend on it
                self.report(f"{self.config.run_id}: no packed file: {error}")
        self.report(f"{self.config.run_id}: {_result(record)}")
        return record

    @property
    def packable(self) -> bool:
        """Whether the model can be packed: a quantizer or normalizer of one's own has no codes to
        write."""
        return self.config.quantizer in QUANTIZERS and self.config.normalizer in NORMALIZERS

    @property
    def diverged(self) -> bool:
        """Whether the last epoch ended in NaN or infinity."""
        return bool(self.epochs) and self.epochs[-1].get("diverged", False)

    @property
    def best_epoch(self) -> int:
        """The epoch of the lowest validation loss, the first of equals."""
        return min(range(1, len(self.epochs)), key=lambda e: self.epochs[e]["valid_loss"])

    def _rate(self, epoch) -> float:
        return learning_rate(self.config, epoch, [line["valid_loss"] for line in self.epochs[1:]])

    def _spent(self, epoch) -> bool:
        """Whether every parameter's learning rate would be below the least one in an epoch."""
        falling = all(group["decays"] for group in self.optimizer.param_groups)
        return falling and self._rate(epoch) < self.config.min_learning_rate

    def _epoch(self, epoch):
        started = time.monotonic()
        rate = self._rate(epoch)
        loss = self._train(rate)
        valid, valid_metric = self._evaluate("valid") if math.isfinite(loss) else (math.nan, None)
        seconds = time.monotonic() - started
        line = {"learning_rate": rate}
        if math.isfinite(loss) and math.isfinite(valid):
            line |= {"train_loss": loss, "valid_loss": valid, "valid_metric": valid_metric}
        else:
            line["diverged"] = True
        left = seconds * (self.config.epochs - epoch)
        line |= {"per_second": round(_size(self.splits["train"]) / seconds),
                 "seconds": round(seconds, 2), "seconds_left": round(left)}
        self.seconds += seconds
        if epoch == 1 and "diverged" not in line:
            self._trace("epoch 1")
        self._keep_epoch(epoch, line)
        self.report(_progress_line(line, epoch, self.config))

    def _train(self, rate) -> float:
        """One pass over the training data; the mean loss (nats), or NaN as soon as it is not
        finite."""
        if (
            self.model.rnn.stochastic
        ):  # in the release of SBN and STN Adam starts anew with each epoch
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        for group in self.optimizer.param_groups:
            own = group["scale"] * (rate if group["decays"] else self.config.learning_rate)
            if isinstance(group["lr"], Tensor):  # which a graph reads
                group["lr"].fill_(own)
            else:
                group["lr"] = own
        self.model.train()
        total, count, state = torch.zeros((), device=self.device, dtype=torch.float64), 0, None
        for number, (inputs, targets) in enumerate(self._minibatches("train")):
            loss, state = self.step(inputs, targets, state)
            total += loss.double() * targets.numel()
            count += targets.numel()
            if number % 100 == 99 and not math.isfinite(total.item()):
                break
        return total.item() / count

    @torch.no_grad()
    def _evaluate(self, split) -> tuple[float, float]:
        """Mean loss (nats) and metric of a split; texts are read in 64 parallel streams, with
        carried state if there is one."""
        self.model.eval()
        total, correct = torch.zeros(2, device=self.device, dtype=torch.float64).unbind()
        count, state = 0, None
        for inputs, targets in self._minibatches(split):
            logits, last = self.model(inputs, state)
            state = last if self.config.carry_state else None
            total += F.cross_entropy(
                logits.flatten(0, -2), targets.flatten(), reduction="sum").double()
            correct += (logits.argmax(-1) == targets).sum()
            count += targets.numel()
        loss = total.item() / count
        return loss, metric(self.config.task, loss, correct.item() / count) if math.isfinite(
            loss) else None

    def _minibatches(self, split, *, shuffled: bool = True):
        """Pairs (inputs, targets) of one pass: of a text in its order; of images and of sequences
        for themselves shuffled in training."""
        config, part, training = self.config, self.splits[split], split == "train"
        if config.task == "sequential_image":
            order = torch.randperm(_size(part)) if training and shuffled else None
            return data.image_minibatches(part, config.batch_size if training else 250,
                                          levels=self.dataset.levels, order=order,
                                          permuted=config.permuted, device=self.device)
        if training and shuffled and not config.carry_state:
            return data.shuffled_sequences(
                part, config.batch_size, config.steps, device=self.device)
        streams = config.batch_size if training else min(EVALUATION_STREAMS, len(part) // 2)
        return data.minibatches(part, streams, config.steps, device=self.device)

    def _trace(self, moment):
        """Gradient norms and the propositions' two sides on the first minibatch of the training
        data."""
        inputs, targets = next(iter(self._minibatches("train", shuffled=False)))
        with self._random():
            torch.manual_seed(self.config.seed)
            self.traces["gradient_norms"][moment] = traces.gradient_norms(
                self.model, inputs, targets)
            self.traces["propositions"][moment] = traces.propositions(self.model, inputs, targets)

    def _keep_epoch(self, epoch, line):
        """Add an epoch to the history, with the traces of its end, and write it and the
        checkpoint."""
        inputs, _ = next(iter(self._minibatches("train", shuffled=False)))
        with self._random():
            torch.manual_seed(self.config.seed)
            found = {
                "alpha": traces.scales(self.model.rnn), "gains": traces.gains(self.model.rnn),
                "spectral": None if line.get("diverged") else traces.spectral(self.model, inputs)}
        self.epochs.append({"epoch": epoch, **line, **found})
        if epoch and not self.diverged and epoch == self.best_epoch:
            self.best = {name: value.detach().cpu().clone()
                         for name, value in self.model.state_dict().items()}
        if self.directory is None or epoch == 0:
            return
        # first, so that a run killed in between writes it again
        history = "".join(json.dumps(entry) + "\n" for entry in self.epochs)
        write_atomically(self.directory / "epochs.jsonl", history.encode())
        self._save_checkpoint()

    # The random numbers of a run come from torch's generators, put aside around it.

    @contextlib.contextmanager
    def _random(self):
        with torch.random.fork_rng(
                devices=[torch.cuda.current_device()] if self.device.type == "cuda" else []):
            yield

    def _seed(self):
        if self.random_state is None:
            torch.manual_seed(self.config.seed + 1_000_000)
        else:
            torch.set_rng_state(self.random_state["cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(self.random_state["cuda"], self.device)

    def _save_checkpoint(self):
        random_state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint = {"identity": self._identity(self.model.rnn.backend_used),
                      "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
                      "random_state": random_state, "best": self.best, "epochs": self.epochs,
                      "traces": self.traces, "seconds": self.seconds}
        checkpoints.save(checkpoint, self.directory / "checkpoint.pt")

    def _identity(self, backend):
        """What a checkpoint made with a ``backend`` must agree in to be of this run: settings,
        text, recipe."""
        config = self.config.as_dict()
        return {"config": config, "sha256": self.dataset.sha256, "backend": backend,
                "recipe": recipe(config)}

    def _resume(self) -> bool:
        """Take up the checkpoint of this very run (same settings, text and recipe), if there is
        one."""
        path = None if self.directory is None else self.directory / "checkpoint.pt"
        if path is None or not path.exists():
            return False
        try:
            checkpoint = checkpoints.load(path, self.device)
        except checkpoints.CheckpointError as error:
            self.report(f"{error}; starting anew")
            return False
        if checkpoint["identity"] != self._identity(checkpoint["identity"].get("backend")):
            self.report(f"{path}: of other settings, text or recipe; starting anew")
            return False
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = float(group["lr"])  # a tensor where a graph was made
        self.best = {name: value.cpu() for name, value in checkpoint["best"].items()}
        self.epochs, self.traces, self.seconds = (
            checkpoint[key] for key in ("epochs", "traces", "seconds"))
        self.model.rnn.backend_used = checkpoint["identity"]["backend"]
        self.random_state = {
            name: state.cpu() for name, state in checkpoint["random_state"].items()}
        self.report(f"{self.config.run_id}: going on after epoch {len(self.epochs) - 1}")
        return True


def _limit(part: Tensor | tuple[Tensor, ...], most: int) -> Tensor | tuple[Tensor, ...]:
    """The first ``most`` symbols of a text or images of a set; 0: all."""
    if not most:
        return part
    return tuple(tensor[:most] for tensor in part) if isinstance(part, tuple) else part[:most]


def _size(part: Tensor | tuple[Tensor, ...]) -> int:
    return len(part[0] if isinstance(part, tuple) else part)


TIMES = ("per_second", "seconds", "seconds_left")


def _progress_line(line, epoch, config) -> str:
    minutes, seconds = divmod(line["seconds_left"], 60)
    if line.get("diverged"):
        return f"epoch {epoch}/{config.epochs}  the loss is not finite: diverged"
    task = TASKS[config.task]
    return (
        f"epoch {epoch}/{config.epochs}  loss {line['train_loss']:.4f}  "
        f"validation {task.metric.name} {line['valid_metric']:.3f}  "
        f"{line['per_second']} {task.unit}s/s  "
        f"{'at most ' if config.min_learning_rate else ''}{minutes}:{seconds:02d} left"
    )


def _result(record) -> str:
    if record["diverged"]:
        return "diverged (N/A)"
    return f"test {record['metric']} {record['test_metric']:.3f} (best epoch {record['best_epoch']}), {record['size_kb']:.1f} KB"
