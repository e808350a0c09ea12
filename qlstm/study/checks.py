"""What a configuration has to be like; each message says which setting is wrong and what it may be.

``config``: an :class:`~qlstm.study.config.ExperimentConfig` whose settings are all filled in.
"""

import math
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import find_quantizer
from qlstm.study.profiles import is_stochastic
from qlstm.study.tasks import TASKS

CELLS = ["lstm", "gru"]
DECAYS = ["all", "latent"]
POSITIVE = ["hidden_size", "num_layers", "steps", "batch_size", "epochs", "biases"]
RATES = ["learning_rate", "lr_decay"]
NOT_NEGATIVE = ["min_learning_rate", "clip_norm", "dropout", "initial_gain", "state_noise"]


def check_number(name: str, value: Any, kind: type, *, least: float = -math.inf,
                 above: float = -math.inf):
    """Refuse a value that is no number, not finite or out of bounds.

    Args:
        name: what the message calls the setting.
        value: what was given for it.
        kind: ``int`` for whole numbers, ``float`` for any.
        least: the least number that is allowed.
        above: a bound that the number has to be above, instead of ``least``.

    Raises:
        ConfigError: the value is refused.
    """
    bound = f" of {least} or more" if least > -math.inf else f" above {above}"
    words = {int: "a whole number", float: "a number"}[kind] + bound
    if isinstance(value, str):
        raise ConfigError(
            f"{name} must be {words}, got the text {value!r} (in YAML write 1.0e-3, not 1e-3)")
    allowed = int if kind is int else (int, float)
    if (isinstance(value, bool) or not isinstance(value, allowed)
            or not least <= value < math.inf or value <= above):
        raise ConfigError(f"{name} must be {words}, got {value!r}")


def check_task(task: str | None, dataset: str | None):
    """Refuse an unknown task, an unknown data set, and a data set that is for another task.

    Args:
        task: the task as it was given, None where it was left out.
        dataset: the data set as it was given, None where it was left out.

    Raises:
        ConfigError: the task is unknown or does not fit.
        DataError: the data set is unknown.
    """
    if task is not None and task not in TASKS:
        raise ConfigError(unknown("task", task, TASKS))
    if dataset is None:
        return
    given = data.task_of(dataset)
    if given is None and task == "sequential_image":
        raise ConfigError(
            f"{dataset} is no set of images; task 'sequential_image' has mnist and digits")
    if None not in (task, given) and task != given:
        raise ConfigError(f"data set {dataset} is for task '{given}', not '{task}'")


def check(config):
    """Refuse a setting that cannot be, first each by itself, then those that do not go together.

    Raises:
        ConfigError: naming the first setting that is refused.
    """
    _check_each(config)
    _check_of_the_task(config)
    if is_stochastic(config.quantizer) and (
            (config.normalizer, config.cell) != ("batch_separate", "lstm")):
        raise ConfigError(f"quantizer '{config.quantizer}' is defined for LSTMs with normalizer "
                          "'batch_separate' only")
    if config.biases > 2:
        raise ConfigError(f"biases must be 1 or 2, got {config.biases!r}")
    kind = (config.cell, config.quantizer, config.normalizer)
    if config.biases == 2 and kind != ("lstm", "full_precision", "none"):
        raise ConfigError("two biases are for full-precision LSTMs without normalization only")
    if config.normalizer.startswith("batch") and config.batch_size < 2:
        raise ConfigError("batch normalization needs batch_size 2 or more")


def _check_each(config):
    if config.cell not in CELLS:
        raise ConfigError(unknown("cell", config.cell, CELLS))
    find_quantizer(config.quantizer)
    if config.normalizer not in NORMALIZERS and ":" not in config.normalizer:
        raise ConfigError(unknown("normalizer", config.normalizer, NORMALIZERS,
                                  ', or your own as "module:name"'))
    for name in POSITIVE:
        check_number(name, getattr(config, name), int, least=1)
    for name in ["seed", "max_train"]:
        check_number(name, getattr(config, name), int, least=0)
    for name in RATES:
        check_number(name, getattr(config, name), float, above=0)
    for name in NOT_NEGATIVE:
        check_number(name, getattr(config, name), float, least=0)
    for name in ["permuted", "carry_state"]:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} must be True or False, got {getattr(config, name)!r}")
    if config.decay not in DECAYS:
        raise ConfigError(unknown("decay", config.decay, DECAYS))
    if config.dropout >= 1:
        raise ConfigError(f"dropout must be a probability below 1, got {float(config.dropout)!r}")


def _check_of_the_task(config):
    """A setting of another task has no effect, which must not pass in silence."""
    for task in TASKS.values():
        for name in task.own:
            if getattr(config, name) and config.task != task.name:
                raise ConfigError(
                    f"{name} is a setting of task '{task.name}', not of '{config.task}'")
    if config.task == "sequential_image" and (config.biases, config.carry_state) != (1, True):
        raise ConfigError(
            "biases and carry_state are settings of texts, not of task 'sequential_image'")
    pixels = data.steps_of(config.dataset)
    if pixels is not None and config.steps not in (sizes := data.smaller_sizes(pixels)):
        raise ConfigError(f"steps of {config.dataset} are its {pixels} pixels, or those of the "
                          f"image made smaller ({', '.join(map(str, sizes[1:]))}), got "
                          f"{config.steps}")
