"""What a profile fills in where a configuration leaves a setting out."""

from typing import Any

from qlstm import data
from qlstm.errors import ConfigError
from qlstm.quantizers import find_quantizer
from qlstm.study.tasks import TASKS

COMMON = dict(cell="lstm", num_layers=1, permuted=False, initial_gain=0.0, state_noise=0.0,
              dropout=0.0, decay="all", min_learning_rate=0.0, biases=1, carry_state=True)
"""Settings that are the same for all tasks and profiles, unless those say otherwise."""

PAPER_DATASETS = {
    "war_and_peace": {},
    "penn_char": {},
    "text8": dict(hidden_size=2000, steps=180, batch_size=128, epochs=100, learning_rate=0.001,
                  lr_decay=1.0),
    "penn_word": {},
    "mnist": {},
}
"""The paper's data sets, and where their settings differ from those of the profile ``paper``."""

QUICK_DATASETS = {"mnist": dict(steps=49, max_train=2_400, epochs=8)}
"""Where the settings of larger data sets differ from those of the profile ``quick``: MNIST is read
at a quarter of its width and height, as 784 steps learn nothing in minutes."""

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "small": {"smoke": {}, "quick": {}, "paper": {}},
    "large": {"smoke": dict(hidden_size=32), "quick": dict(hidden_size=128),
              "paper": dict(hidden_size=650)},
    "deep": {"smoke": dict(hidden_size=32, num_layers=2),
             "quick": dict(hidden_size=128, num_layers=2),
             "paper": dict(hidden_size=650, num_layers=2)},
}
"""The sizes of the word-level models, by profile: Table 3's d = 300 and 650, Table 5's two layers
of 650."""


def is_stochastic(quantizer: str) -> bool:
    """Whether the quantizer of this name draws its codes at random, as SBN and STN do; one that
    cannot be found does not.

    Networks with such a quantizer follow the recipe of its authors' own release, not the paper's.

    Args:
        quantizer: a name of :data:`qlstm.quantizers.QUANTIZERS` or ``"module:function"``.
    """
    try:
        return getattr(find_quantizer(quantizer), "stochastic", False)
    except ConfigError:  # who constructs a configuration is told; a record's may be gone
        return False


def defaults(profile: str, task: str, dataset: str | None, normalizer: str = "none",
             quantizer: str = "full_precision") -> dict[str, Any]:
    """The settings that a profile gives to a run.

    Args:
        profile: one of :data:`~qlstm.study.tasks.PROFILES`.
        task: a name of :data:`~qlstm.study.tasks.TASKS`.
        dataset: name or path of the data set; None stands for the task's embedded one.
        normalizer: name of the normalizer. On images the release starts its gains at 0.1 and adds
            noise to the initial state.
        quantizer: name of the quantizer. Stochastic ones are trained by the recipe of their own
            release, except on words.

    Returns:
        A value for every field of a configuration but profile, task, quantizer, normalizer and
        seed.
    """
    settings = COMMON | {"dataset": dataset or TASKS[task].stand_in}
    settings |= TASKS[task].settings | TASKS[task].profiles[profile]
    if profile == "paper":
        settings |= PAPER_DATASETS.get(settings["dataset"], {})
    if task == "sequential_image":
        settings["steps"] = data.steps_of(settings["dataset"])
        if profile == "quick":
            settings |= QUICK_DATASETS.get(settings["dataset"], {})
        settings["initial_gain"] = 0.1 if normalizer in ("layer", "batch_separate") else 0.0
        # the paper's release starts gains at 0.1, but forgets those of batch (shared)
        noisy = normalizer in ("layer", "batch_shared", "batch_separate")
        settings["state_noise"] = 0.1 if noisy else 0.0
    if is_stochastic(quantizer) and task != "word_lm":
        settings |= _of_stochastic(task, settings["dataset"])
    return settings


def _of_stochastic(task: str, dataset: str) -> dict[str, Any]:
    """What the release of SBN and STN does differently."""
    if task == "sequential_image":
        return {"clip_norm": 0.0, "learning_rate": 0.004, "lr_decay": 0.25}
    # the rate stays, but on War and Peace it halves over the 200 epochs
    decay = 0.5 ** (1 / 200) if dataset == "war_and_peace" else 1.0
    return {"clip_norm": 0.0, "carry_state": False, "lr_decay": decay}
