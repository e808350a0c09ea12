"""What a finished run leaves: its record, the weights of its best epoch, and the packed network."""

from pathlib import Path
from typing import Any

from safetensors.torch import save as safetensors_bytes
from torch import nn

from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError
from qlstm.normalizers import NORMALIZERS
from qlstm.packing import packed_bytes, save_packed
from qlstm.quantizers import QUANTIZERS
from qlstm.study import records
from qlstm.study.config import ExperimentConfig
from qlstm.study.environment import describe_environment
from qlstm.study.progress import TIMES, Progress
from qlstm.study.recipe import recipe
from qlstm.study.run_data import RunData
from qlstm.study.sizes import size_kb
from qlstm.study.tasks import TASKS


def is_known(config: ExperimentConfig) -> bool:
    """Return whether quantizer and normalizer of ``config`` are the package's, not one's own.

    Only these have codes to pack, and are known never to wait for a value on a GPU.
    """
    return config.quantizer in QUANTIZERS and config.normalizer in NORMALIZERS


def make_record(config: ExperimentConfig, run_data: RunData, model: nn.Module,
                progress: Progress, test_metric: float | None) -> dict[str, Any]:
    """Put the record of a run together.

    Args:
        config: The settings of the run.
        run_data: Its data set, the sizes of its parts, and the device it was trained on.
        model: Its network, which tells the backend that computed it and its packed size.
        progress: Its epochs, traces and seconds.
        test_metric: The metric on the test part; None if the run diverged, the paper's N/A.

    Returns:
        The record, without its checksum.
    """
    settings, diverged = config.as_dict(), test_metric is None
    best = None if diverged else progress.best_epoch
    return {
        "schema": records.SCHEMA,
        "run_id": config.run_id,
        "config": settings,
        "config_sha256": records.sha256(settings),
        "data": {"sha256": run_data.dataset.sha256, "reduced": run_data.dataset.reduced,
                 "sizes": run_data.sizes},
        "metric": TASKS[config.task].metric.name,
        "test_metric": test_metric,
        "valid_metric": None if diverged else progress.epochs[best]["valid_metric"],
        "best_epoch": best,
        "diverged": diverged,
        "size_kb": size_kb(config),
        "packed_bytes": packed_bytes(model.rnn) if is_known(config) else None,
        "seconds": round(progress.seconds, 2),
        "epochs": [{key: value for key, value in entry.items() if key not in TIMES}
                   for entry in progress.epochs],
        "traces": progress.traces,
        "recipe": recipe(settings),
        "environment": describe_environment(run_data.device, model.rnn.backend_used),
    }


def save_model(directory: Path, config: ExperimentConfig, model: nn.Module,
               record: dict[str, Any], report=print):
    """Write the weights to ``model.safetensors`` and, where it can be, ``packed.safetensors``.

    Args:
        directory: The folder of the run.
        config: The settings of the run.
        model: The network, with the weights of its best epoch.
        record: The record of the run, of which the packed file keeps a part.
        report: Receives a line if the network cannot be packed.
    """
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    write_atomically(directory / "model.safetensors", safetensors_bytes(weights))
    try:
        if is_known(config):
            save_packed(model, directory / "packed.safetensors", record)
    except ConfigError as error:  # the record does not depend on it
        report(f"{config.run_id}: no packed file: {error}")
