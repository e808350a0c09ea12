"""What a configuration has to be like; each message says which setting is wrong and what it may be.

``config``: an :class:`~qlstm.study.config.ExperimentConfig` whose settings are all filled in.
"""

import enum
import os
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, brief, lookup, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS
from qlstm.study.kinds import PRINTABLE, Range
from qlstm.study.profiles import is_stochastic
from qlstm.study.record_schema import RANGES
from qlstm.study.tasks import TASKS

CELLS = ["lstm", "gru"]
DECAYS = ["all", "latent"]
TEXTS = {"profile": False, "task": True, "dataset": True, "cell": True, "quantizer": False,
         "normalizer": False, "decay": True}
"""The settings that are texts, and whether each may be left out."""


def plain(value: Any) -> Any:
    """A ``value`` as JSON has it, if it has it at all: the text of a path, the value of an
    enumeration, the number of numpy's and torch's scalars."""
    value = value.value if isinstance(value, enum.Enum) else value
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if getattr(value, "ndim", None) == 0 and callable(getattr(value, "item", None)):
        value = value.item()
    for kind, as_kind in ((bool, bool), (int, int), (float, float), (str, str.__str__)):
        if isinstance(value, kind):
            return as_kind(value)
    return value


def check_number(name: str, value: Any, possible: Range):
    """Refuse a value that is no number, not finite or out of bounds.

    Args:
        name: what the message calls the setting.
        value: what was given for it.
        possible: what it may be.

    Raises:
        ConfigError: the value is refused.
    """
    if isinstance(value, str):
        raise ConfigError(f"{name} must be {possible}, got the text {brief(value)} "
                          "(in YAML write 1.0e-3, not 1e-3)")
    if value not in possible:
        most = isinstance(value, int) and value > possible.most
        raise ConfigError(f"{name} must be {possible}{f' and at most {possible.most:,}' * most}, "
                          f"got {brief(value)}")


def check_text(name: str, value: Any):
    """Refuse a value of a setting ``name`` that is no text of one line, or None where it may not be
    left out."""
    if value is None and TEXTS[name]:
        return
    if not isinstance(value, str):
        own = ', or your own as "module:name"' * (name in ("quantizer", "normalizer"))
        raise ConfigError(f"{name} must be a text{own}, got {brief(value)}")
    if not PRINTABLE.fullmatch(value):
        raise ConfigError(f"{name} must be a text of one line in UTF-8, got {brief(value)}")


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
    if given is None and not os.path.isfile(dataset):
        raise ConfigError(f"dataset must be one of {', '.join(data.CATALOGUE)} or a text file, and "
                          f"{dataset} is no file")
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
    for name, table in (("quantizer", QUANTIZERS), ("normalizer", NORMALIZERS)):
        if not callable(found := lookup(name, getattr(config, name), table)):
            raise ConfigError(f"{name} must be a function or module: {getattr(config, name)} is "
                              f"{brief(found)}")
    _check_size(config.quantizer)
    for name, possible in RANGES.items():
        check_number(name, getattr(config, name), possible)
    for name in ["permuted", "carry_state"]:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(f"{name} must be True or False, got {brief(getattr(config, name))}")
    if config.decay not in DECAYS:
        raise ConfigError(unknown("decay", config.decay, DECAYS))
    if config.dropout >= 1:
        raise ConfigError(f"dropout must be a probability below 1, got {float(config.dropout)!r}")


def _check_size(quantizer: str):
    """The attributes of a quantizer that tell its size, which one's own may have."""
    found = lookup("quantizer", quantizer, QUANTIZERS)
    bits, scales = getattr(found, "bits", None), getattr(found, "scales", None)
    if bits is not None:
        check_number(f"the attribute bits of {quantizer}", bits, Range(float, 0, 64, open=True))
    if scales not in (None, "matrix", "row"):
        raise ConfigError(f"the attribute scales of {quantizer} must be None, 'matrix' or 'row', "
                          f"got {brief(scales)}")


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
