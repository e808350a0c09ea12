"""The network of a run: built from its configuration, or loaded from a run that is finished."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from qlstm import data
from qlstm.data.images import CLASSES
from qlstm.models import LanguageModel, SequenceClassifier
from qlstm.study import records
from qlstm.study.config import ExperimentConfig


def build_model(
    config: ExperimentConfig, vocabulary_size: int | None = None
) -> LanguageModel | SequenceClassifier:
    """Build the network that a configuration describes.

    Its initial weights are drawn from torch's random generator, so ``torch.manual_seed`` before
    the call decides them.

    Args:
        config: The settings of the run, which name the task, the sizes and the quantizer.
        vocabulary_size: How many different symbols a text has. None looks the number up for the
            data set of ``config``, which may read its files. Images need no such number.

    Returns:
        A classifier of ten classes for images, a language model for texts.
    """
    sizes = (config.hidden_size, config.num_layers)
    settings = dict(quantizer=config.quantizer, normalizer=config.normalizer,
                    max_steps=config.steps, cell=config.cell, biases=config.biases)
    if config.task == "sequential_image":
        return SequenceClassifier(CLASSES, *sizes, initial_gain=config.initial_gain,
                                  state_noise=config.state_noise, **settings)
    if vocabulary_size is None:
        vocabulary_size = data.vocabulary_size(config.dataset, config.task)
    embedding = config.hidden_size if config.task == "word_lm" else None
    return LanguageModel(vocabulary_size, *sizes, embedding_size=embedding, dropout=config.dropout,
                         learned_state=not config.carry_state, **settings)


def load_model(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the trained network of a finished run.

    Args:
        directory: The folder of the run, ``reports/<profile>/runs/<run id>``.

    Returns:
        The network with the weights of its best validation epoch, on the CPU and in evaluation
        mode, and the record of the run.

    Raises:
        RecordError: The record is missing, damaged or edited.
        FileNotFoundError: The weights are missing, as after a run that diverged.
    """
    directory = Path(directory)
    record = records.load(directory / "record.json")
    weights = load_file(directory / "model.safetensors")
    config = ExperimentConfig.as_recorded(record["config"])
    model = build_model(config, len(weights["decoder.bias"]))
    model.load_state_dict(weights)
    return model.eval(), record
