"""Training: one run from its configuration to its record, with checkpoints after each epoch."""

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import filelock
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from qlstm import checkpoints, data, records, traces
from qlstm.experiments import ExperimentConfig
from qlstm.models import LanguageModel
from qlstm.recurrence import find_backend
from qlstm.sizes import size_kb

EVALUATION_STREAMS = 64


def build_model(config: ExperimentConfig) -> LanguageModel:
    """The model of a run, with initial weights from torch's random generator."""
    return LanguageModel(
        data.vocabulary_size(config.dataset),
        config.hidden_size,
        config.num_layers,
        quantizer=config.quantizer,
        normalizer=config.normalizer,
        max_steps=config.steps,
    )


def load_model(directory: Path) -> tuple[LanguageModel, dict[str, Any]]:
    """The trained model of a finished run (best validation epoch, on the CPU) and its record.

    ``directory``: ``reports/<profile>/runs/<run id>``. Raises ``RecordError`` or ``FileNotFoundError``.
    """
    directory = Path(directory)
    record = records.load(directory / "record.json")
    model = build_model(ExperimentConfig(**record["config"]))
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval(), record


def learning_rate(config: ExperimentConfig, epoch: int) -> float:
    """The rate of an epoch, counted from 1: lr * decay^max(0, epoch - 11), so the first decay is in epoch 12."""
    return config.learning_rate * config.lr_decay ** max(0, epoch - 11)


def run(config: ExperimentConfig, directory: Path | None = None, *, device: str = "auto", backend: str = "auto",
        report=print) -> dict[str, Any]:  # fmt: skip
    """Train and evaluate one configuration; returns its record.

    ``directory``: where ``record.json``, ``epochs.jsonl``, ``model.safetensors`` (best epoch) and ``checkpoint.pt``
    go; a run that was interrupted there goes on after its last epoch and ends with the record of an unbroken run, and
    a finished one returns its record at once. The last checkpoint stays, so that a record which is lost is made again
    without training; it may be deleted. None: nothing is written.
    ``device``: "auto", "cpu", "cuda", ... ``backend``: see :mod:`qlstm.recurrence`. ``report``: receives a line an
    epoch. A loss that becomes NaN or infinite ends the run as ``diverged`` with metrics None, the paper's N/A.
    Raises ``ConfigError``, ``qlstm.data.DataError``, ``OSError`` (disk full; nothing finished is lost).
    """
    if directory is None:
        return _Run(config, None, device, backend, report).record()
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with _exclusive(directory, report):
        run = _Run(config, directory, device, backend, report)
        if (directory / "record.json").exists():
            record = records.load(directory / "record.json")
            made_by = {"config": record["config"], "sha256": record["data"]["sha256"], "code": record["code"]}
            if made_by == run.identity:
                report(f"{config.run_id}: already done, {_result(record)}")
                return record
        record = run.record()
        records.save(record, directory / "record.json")
        return records.load(directory / "record.json")


@contextlib.contextmanager
def _exclusive(directory: Path, report):
    """One process a run: wait while another works in the folder (its lock ends with it, however it ends)."""
    lock = filelock.FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report(f"{directory.name}: another process trains this run; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Run:
    """The state of a run between epochs; what a checkpoint holds."""

    def __init__(self, config, directory, device, backend, report):
        self.config, self.directory, self.report = config, directory, report
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dataset = data.load_dataset(config.dataset)
        self.splits = {"train": self._limit(self.dataset.train, config.max_symbols)}
        for name in ("valid", "test"):
            self.splits[name] = self._limit(getattr(self.dataset, name), config.max_symbols // 8)
        with self._random():
            torch.manual_seed(config.seed)
            self.model = build_model(config).to(self.device)
        self.model.lstm.backend = backend
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.code = records.training_code()
        self.epochs: list[dict[str, Any]] = []
        self.gradients: dict[str, Any] = {}
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.random_state = None

    def record(self) -> dict[str, Any]:
        """Train what is left of the epochs, evaluate the best one, and put the record together."""
        if not self._resume():
            self.gradients["initial"] = self._gradients()
            self._keep_epoch(0, {})
        with self._random():
            self._seed()
            for epoch in range(len(self.epochs), self.config.epochs + 1):
                if self.diverged:
                    break
                self._epoch(epoch)
        diverged, started = self.diverged, time.monotonic()
        test = None
        if not diverged:
            self.model.load_state_dict(self.best)
            test = self._evaluate("test")
            self.gradients["best"] = self._gradients()
            diverged = not math.isfinite(test)
        record = {
            "schema": records.SCHEMA,
            "run_id": self.config.run_id,
            "config": self.config.as_dict(),
            "data": {"sha256": self.dataset.sha256, "reduced": self.dataset.reduced,
                     "symbols": {name: len(split) for name, split in self.splits.items()}},
            "metric": "bpc",
            "test_metric": None if diverged else test,
            "valid_metric": None if diverged else self.epochs[self.best_epoch]["valid_bpc"],
            "best_epoch": None if diverged else self.best_epoch,
            "diverged": diverged,
            "size_kb": size_kb(self.config),
            "seconds": round(self.seconds + time.monotonic() - started, 2),
            "epochs": [{k: v for k, v in epoch.items() if k not in TIMES} for epoch in self.epochs],
            "traces": {"gradient_norms": self.gradients},
            "code": self.code,
            "environment": records.environment(self.device, find_backend(self.model.lstm.backend).__module__.rpartition(".")[2]),
        }  # fmt: skip
        if self.directory is not None and not diverged:
            records.write_atomically(self.directory / "model.safetensors", safetensors_bytes(self.best))
        self.report(f"{self.config.run_id}: {_result(record)}")
        return record

    @property
    def diverged(self) -> bool:
        """Whether the last epoch ended in NaN or infinity."""
        return bool(self.epochs) and self.epochs[-1].get("diverged", False)

    @property
    def best_epoch(self) -> int:
        """The epoch of the lowest validation loss, the first of equals."""
        return min(range(1, len(self.epochs)), key=lambda e: self.epochs[e]["valid_bpc"])

    def _epoch(self, epoch):
        started = time.monotonic()
        rate = learning_rate(self.config, epoch)
        loss = self._train(rate)
        valid = self._evaluate("valid") if math.isfinite(loss) else math.nan
        seconds = time.monotonic() - started
        line = {"learning_rate": rate}
        if math.isfinite(loss) and math.isfinite(valid):
            line |= {"train_loss": loss, "train_bpc": loss / math.log(2), "valid_bpc": valid}
        else:
            line["diverged"] = True
        left = seconds * (self.config.epochs - epoch)
        line |= {"symbols_per_second": round(data.count_predicted(len(self.splits["train"]), self.config.batch_size) / seconds),
                 "seconds": round(seconds, 2), "seconds_left": round(left)}  # fmt: skip
        self.seconds += seconds
        if epoch == 1 and "diverged" not in line:
            self.gradients["epoch 1"] = self._gradients()
        self._keep_epoch(epoch, line)
        self.report(_progress_line(line, epoch, self.config.epochs))

    def _train(self, rate) -> float:
        """One pass over the training text; the mean loss (nats a symbol), or NaN as soon as it is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        total, count, state = torch.zeros((), device=self.device, dtype=torch.float64), 0, None
        batches = data.minibatches(self.splits["train"], self.config.batch_size, self.config.steps, device=self.device)
        for update, (inputs, targets) in enumerate(batches):
            logits, state = self.model(inputs, state)
            state = tuple(s.detach() for s in state)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
            self.optimizer.step()
            # the loss-aware quantizers weigh by Adam's second moment
            self.model.lstm.set_second_moment(
                {
                    name: self.optimizer.state[p]["exp_avg_sq"]
                    for name, p in self.model.lstm.named_parameters(recurse=False)
                }
            )
            total += loss.detach().double() * targets.numel()
            count += targets.numel()
            if update % 100 == 99 and not math.isfinite(total.item()):
                break
        return total.item() / count

    @torch.no_grad()
    def _evaluate(self, split) -> float:
        """Bits per character of a split, read in 64 parallel streams with carried state."""
        self.model.eval()
        symbols = self.splits[split]
        streams = min(EVALUATION_STREAMS, len(symbols) // 2)
        total, count, state = torch.zeros((), device=self.device, dtype=torch.float64), 0, None
        for inputs, targets in data.minibatches(symbols, streams, self.config.steps, device=self.device):
            logits, state = self.model(inputs, state)
            total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").double()
            count += targets.numel()
        return total.item() / count / math.log(2)

    def _gradients(self):
        inputs, targets = next(
            data.minibatches(self.splits["train"], self.config.batch_size, self.config.steps, device=self.device)
        )
        return traces.gradient_norms(self.model, inputs, targets)

    def _keep_epoch(self, epoch, line):
        """Add an epoch to the history, with the traces of its end, and write it and the checkpoint."""
        self.epochs.append(
            {"epoch": epoch, **line, "alpha": traces.scales(self.model.lstm), "gains": traces.gains(self.model.lstm)}
        )
        if epoch and not self.diverged and epoch == self.best_epoch:
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        if self.directory is None or epoch == 0:
            return
        self._save_checkpoint()
        history = "".join(json.dumps(entry) + "\n" for entry in self.epochs)
        records.write_atomically(self.directory / "epochs.jsonl", history.encode())

    # The random numbers of a run come from torch's generators, put aside around it.

    @contextlib.contextmanager
    def _random(self):
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.device.type == "cuda" else []):
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
        checkpoint = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random_state": random_state,
            "best": self.best,
            "epochs": self.epochs,
            "gradients": self.gradients,
            "seconds": self.seconds,
        }
        checkpoints.save(checkpoint, self.directory / "checkpoint.pt")

    @property
    def identity(self):
        """What a checkpoint or record must agree in to be of this run: settings, text, code."""
        return {"config": self.config.as_dict(), "sha256": self.dataset.sha256, "code": self.code}

    def _resume(self) -> bool:
        """Take up the checkpoint of this very run (same settings, text and code), if there is one."""
        path = None if self.directory is None else self.directory / "checkpoint.pt"
        if path is None or not path.exists():
            return False
        try:
            checkpoint = checkpoints.load(path, self.device)
        except checkpoints.CheckpointError as error:
            self.report(f"{error}; starting anew")
            return False
        if checkpoint["identity"] != self.identity:
            self.report(f"{path}: of other settings, text or code; starting anew")
            return False
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.best = {name: value.cpu() for name, value in checkpoint["best"].items()}
        self.epochs, self.gradients, self.seconds = (checkpoint[key] for key in ("epochs", "gradients", "seconds"))
        self.random_state = {name: state.cpu() for name, state in checkpoint["random_state"].items()}
        self.report(f"{self.config.run_id}: going on after epoch {len(self.epochs) - 1}")
        return True

    @staticmethod
    def _limit(symbols: Tensor, most: int) -> Tensor:
        return symbols[:most] if most else symbols


TIMES = ("symbols_per_second", "seconds", "seconds_left")


def _progress_line(line, epoch, epochs) -> str:
    minutes, seconds = divmod(line["seconds_left"], 60)
    if line.get("diverged"):
        return f"epoch {epoch}/{epochs}  the loss is not finite: diverged"
    return (f"epoch {epoch}/{epochs}  loss {line['train_loss']:.4f}  BPC train {line['train_bpc']:.3f} valid "
            f"{line['valid_bpc']:.3f}  {line['symbols_per_second']} characters/s  {minutes}:{seconds:02d} left")  # fmt: skip


def _result(record) -> str:
    if record["diverged"]:
        return "diverged (N/A)"
    return f"test {record['metric'].upper()} {record['test_metric']:.3f} (best epoch {record['best_epoch']}), {record['size_kb']:.1f} KB"
