"""The configuration of one run, and the profiles that fill in what it leaves out."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.normalizers import NORMALIZERS
from qlstm.quantizers import QUANTIZERS, find_quantizer

METRICS = {"char_lm": "bpc", "word_lm": "ppl", "sequential_image": "accuracy"}
"""The tasks and what each reports: bits per character, perplexity, accuracy in percent."""

COMMON = dict(cell="lstm", num_layers=1, permuted=False, initial_gain=0.0, state_noise=0.0,
              dropout=0.0, decay="all", min_learning_rate=0.0, biases=1, carry_state=True)
TASKS: dict[str, dict[str, Any]] = {
    "char_lm": dict(dataset="python_help", learning_rate=0.002, lr_decay=0.98, clip_norm=5.0),
    "word_lm": dict(
        dataset="python_help_words", learning_rate=20.0, lr_decay=0.25, clip_norm=0.25, dropout=0.5
    ),
    "sequential_image": dict(dataset="digits", learning_rate=0.002, lr_decay=0.5, clip_norm=1.0),
}
"""Settings of a task (the paper's appendix A) that do not depend on the profile."""

PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    # minutes, to see that everything works
    "smoke": {"char_lm": dict(hidden_size=32, steps=25, batch_size=16, epochs=2, max_train=16_000),
              "word_lm": dict(hidden_size=16, steps=20, batch_size=10, epochs=2, max_train=4_000),
              "sequential_image": dict(hidden_size=16, batch_size=50, epochs=1, max_train=200)},
    # the default: the paper's finding, on embedded data and two cores
    "quick": {
        "char_lm": dict(hidden_size=128, steps=100, batch_size=64, epochs=4, max_train=240_000),
        "word_lm": dict(hidden_size=48, steps=35, batch_size=20, epochs=4, max_train=40_000),
        "sequential_image": dict(hidden_size=64, batch_size=20, epochs=6, max_train=0)},
    # the settings of the paper's appendix
    "paper": {
        "char_lm": dict(hidden_size=512, steps=100, batch_size=64, epochs=200, max_train=0),
        "word_lm": dict(hidden_size=300, steps=35, batch_size=20, epochs=120, max_train=0,
                        min_learning_rate=0.001),
        "sequential_image": dict(hidden_size=100, batch_size=100, epochs=200, max_train=0),
    },
}
"""Settings that a profile gives where a configuration leaves them out."""

PAPER_DATASETS = {
    "war_and_peace": {},
    "penn_char": {},
    "text8": dict(
        hidden_size=2000, steps=180, batch_size=128, epochs=100, learning_rate=0.001, lr_decay=1.0),
    "penn_word": {},
    "mnist": {},
}
"""The paper's data sets, and where their settings differ from those of the profile ``paper``."""

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

IMAGES = "mnist and digits"
STOCHASTIC = [name for name, function in QUANTIZERS.items() if function.stochastic]
"""SBN and STN, which follow the recipe of their own release."""
CELLS = ["lstm", "gru"]
DECAYS = ["all", "latent"]
SPECIAL = ["initial_gain", "state_noise", "permuted", "decay", "min_learning_rate", "biases",
           "carry_state"]
"""Settings that make an experiment of its own when they differ from the usual."""
POSITIVE = ["hidden_size", "num_layers", "steps", "batch_size", "epochs", "biases"]


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The settings of one run. A field left out (or None) comes from the profile; all are checked
    on construction.

    >>> ExperimentConfig(quantizer="bnw")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    qlstm.errors.ConfigError: unknown quantizer 'bnw': did you mean 'bwn'? Possible: ...
    """

    profile: str = "quick"
    """``smoke``, ``quick`` or ``paper``."""
    task: str | None = None
    """``char_lm``, ``word_lm`` (language models over characters or words) or ``sequential_image``
    (as sequential MNIST)."""
    dataset: str | None = None
    """A name of ``qlstm.data.CATALOGUE`` or the path of a text file."""
    cell: str | None = None
    """``lstm`` or ``gru``."""
    quantizer: str = "full_precision"
    """A name of ``qlstm.quantizers.QUANTIZERS`` or ``"module:function"``."""
    normalizer: str = "none"
    """A name of ``qlstm.normalizers.NORMALIZERS`` or ``"module:name"``."""
    hidden_size: int | None = None
    """d, units of a layer; of the words' embedding too."""
    num_layers: int | None = None
    """Layers, one above the other."""
    steps: int | None = None
    """T, time steps of a minibatch: as far as the gradient reaches back. Images: their pixels, 784
    or 64."""
    batch_size: int | None = None
    """N, parallel streams of text, or images."""
    epochs: int | None = None
    """Passes over the training data."""
    max_train: int | None = None
    """Train on the first so many symbols, words or images (and evaluate on an eighth of it); 0: on
    all."""
    learning_rate: float | None = None
    """The first learning rate: of Adam, for words of SGD."""
    lr_decay: float | None = None
    """Factor on the learning rate. Characters: after each epoch from the eleventh on. Words: after
    each epoch whose validation loss is not below the best before. Images: that the last epoch has
    reached, exponentially."""
    decay: str | None = None
    """Whose learning rate falls: of ``all`` parameters, or of the ``latent`` matrices alone, as in
    the paper's release for characters. In full precision there are none, so its rate then never
    falls."""
    min_learning_rate: float | None = None
    """Training ends when the learning rate of all parameters is below this; 0: it goes through all
    epochs."""
    clip_norm: float | None = None
    """Gradients are scaled down to at most this norm; 0: they are not."""
    dropout: float | None = None
    """Words: on the embedding, between layers and on the output, in training."""
    initial_gain: float | None = None
    """Images: gains of layer and batch normalization start here; 0: as the normalizer defines."""
    state_noise: float | None = None
    """Images: standard deviation of the noise that is added to the learned initial state."""
    permuted: bool | None = None
    """Images: pixels in one fixed random order instead of line by line."""
    biases: int | None = None
    """Bias vectors of a layer: 1, or 2 in full precision without normalization, where the paper's
    release uses ``torch.nn.LSTM``."""
    carry_state: bool | None = None
    """Texts: each minibatch goes on from the last one's state. False: a text is cut into sequences,
    which are shuffled in training, and each starts from a learned state (SBN and STN on
    characters)."""
    seed: int = 0
    """Of the initial weights and every later random number."""

    def __new__(cls, **settings):
        """Refuse a name that is no field, with a suggestion."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in fields:
                raise ConfigError(unknown("setting", name, fields))
        return super().__new__(cls)

    def __post_init__(self):
        if self.profile not in PROFILES:
            raise ConfigError(unknown("profile", self.profile, PROFILES))
        object.__setattr__(self, "task", _task(self.task, self.dataset))
        for name, value in self._usual(self.profile).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        data.title(self.dataset)
        if self.cell not in CELLS:
            raise ConfigError(unknown("cell", self.cell, CELLS))
        find_quantizer(self.quantizer)
        if self.normalizer not in NORMALIZERS and ":" not in self.normalizer:
            raise ConfigError(
                unknown(
                    "normalizer", self.normalizer, NORMALIZERS, ', or your own as "module:name"')
            )
        for name in POSITIVE:
            check_number(name, getattr(self, name), int, least=1)
        for name in ["seed", "max_train"]:
            check_number(name, getattr(self, name), int, least=0)
        for name in ["learning_rate", "lr_decay"]:
            check_number(name, getattr(self, name), float, above=0)
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ["min_learning_rate", "clip_norm", "dropout", "initial_gain", "state_noise"]:
            check_number(name, getattr(self, name), float, least=0)
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ["permuted", "carry_state"]:
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.decay not in DECAYS:
            raise ConfigError(unknown("decay", self.decay, DECAYS))
        if self.dropout >= 1:
            raise ConfigError(f"dropout must be a probability below 1, got {self.dropout!r}")
        self._check_task()
        if self.quantizer in STOCHASTIC and (
                self.normalizer != "batch_separate" or self.cell != "lstm"):
            raise ConfigError(
                f"quantizer '{self.quantizer}' is defined for LSTMs with normalizer 'batch_separate' only"
            )
        if self.biases > 2:
            raise ConfigError(f"biases must be 1 or 2, got {self.biases!r}")
        if self.biases == 2 and (self.cell, self.quantizer, self.normalizer) != (
                "lstm", "full_precision", "none"):
            raise ConfigError("two biases are for full-precision LSTMs without normalization only")
        if self.normalizer.startswith("batch") and self.batch_size < 2:
            raise ConfigError("batch normalization needs batch_size 2 or more")

    def _check_task(self):
        """A setting of another task has no effect, which must not pass in silence."""
        foreign = {"dropout": "word_lm", "initial_gain": "sequential_image",
                   "state_noise": "sequential_image", "permuted": "sequential_image"}
        for name, task in foreign.items():
            if getattr(self, name) and self.task != task:
                raise ConfigError(f"{name} is a setting of task '{task}', not of '{self.task}'")
        if self.task == "sequential_image" and (self.biases, self.carry_state) != (1, True):
            raise ConfigError(
                "biases and carry_state are settings of texts, not of task 'sequential_image'")
        pixels = data.steps_of(self.dataset)
        if pixels is not None and self.steps != pixels:
            raise ConfigError(f"steps of {self.dataset} are its {pixels} pixels, got {self.steps}")

    def usual(self, name: str) -> Any:
        """What the run's profile gives for the setting ``name``."""
        return self._usual(self.profile)[name]

    def _usual(self, profile: str) -> dict[str, Any]:
        """What ``profile`` gives for this task, data set, normalizer and quantizer."""
        return defaults(profile, self.task, self.dataset, self.normalizer, self.quantizer)

    @property
    def run_id(self) -> str:
        """The name of the run's folder: what the run is, and what differs from its profile's
        settings."""
        dataset = self.dataset
        if dataset not in data.CATALOGUE:
            dataset = (Path(dataset).stem
                       + hashlib.sha256(str(Path(dataset).resolve()).encode()).hexdigest()[:6])
        usual = self._usual(self.profile)
        differing = [f"{k}={getattr(self, k)}" for k, v in usual.items()
                     if k != "dataset" and getattr(self, k) != v]
        if self.dataset not in data.CATALOGUE and self.task != "char_lm":
            differing.append(self.task)
        parts = [dataset, self.quantizer, self.normalizer, f"seed{self.seed}", *differing]
        return "-".join(re.sub(r"[^\w.=]+", ".", part) for part in parts)

    @property
    def variant(self) -> str:
        """Which of :data:`VARIANTS` a word-level model is, by its profile's sizes, else by its
        layers; else empty."""
        if self.task != "word_lm":
            return ""
        for profile in (self.profile, "paper"):
            for name, sizes in VARIANTS.items():
                usual = self._usual(profile) | sizes[profile]
                if (self.hidden_size, self.num_layers) == (usual["hidden_size"],
                                                           usual["num_layers"]):
                    return name
        return "small" if self.num_layers == 1 else "deep"

    @property
    def at_paper_scale(self) -> bool:
        """Whether these are the paper's own settings on one of its data sets (whatever the
        seed)."""
        if self.dataset not in PAPER_DATASETS:
            return False
        sizes = VARIANTS.get(self.variant, {}).get("paper", {})
        return self.settings == {"task": self.task} | self._usual("paper") | sizes

    @property
    def settings(self) -> dict[str, Any]:
        """What is the same for all rows of a table: every field but profile, quantizer, normalizer
        and seed."""
        row = ("profile", "quantizer", "normalizer", "seed")
        return {key: value for key, value in self.as_dict().items() if key not in row}

    def as_dict(self) -> dict[str, Any]:
        """All fields, as they stand in the record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any], *others: str) -> "ExperimentConfig":
        """From the variables of a notebook: its ``parameters`` cell and what papermill injected
        after it.

        papermill lets an unknown parameter pass with a warning; here every number, text or list in
        the namespace must be a setting or one of ``others``. Raises ``ConfigError``.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        plain = {k: v for k, v in namespace.items() if not k.startswith("_")
                 and k not in ("In", "Out") and isinstance(v, str | int | float | list | None)}
        for name in plain:
            if name not in fields and name not in others:
                raise ConfigError(unknown("parameter", name, [*fields, *others]))
        return cls(**{name: plain[name] for name in fields if name in plain})


def _task(task: str | None, dataset: str | None) -> str:
    """The task, which the data set decides where it is one of the catalogue. Raises
    ``ConfigError``."""
    if task is not None and task not in METRICS:
        raise ConfigError(unknown("task", task, METRICS))
    given = None if dataset is None else data.task_of(dataset)
    if dataset is not None and given is None and task == "sequential_image":
        raise ConfigError(f"{dataset} is no set of images; task 'sequential_image' has {IMAGES}")
    if None not in (task, given) and task != given:
        raise ConfigError(f"data set {dataset} is for task '{given}', not '{task}'")
    return given or task or "char_lm"


def defaults(profile: str, task: str, dataset: str | None, normalizer: str = "none",
             quantizer: str = "full_precision") -> dict[str, Any]:
    """The settings that a ``profile`` gives for a ``task``, a ``dataset`` (None: the embedded one),
    a ``normalizer`` and a ``quantizer``."""
    settings = COMMON | TASKS[task] | PROFILES[profile][task]
    if dataset is not None:
        settings["dataset"] = dataset
    if profile == "paper":
        settings |= PAPER_DATASETS.get(dataset, {})
    if task == "sequential_image":
        settings["steps"] = data.steps_of(settings["dataset"])
        # the paper's release starts the gains at 0.1, but forgets batch (shared); noise with layer
        # and batch
        settings["initial_gain"] = 0.1 if normalizer in ("layer", "batch_separate") else 0.0
        settings["state_noise"] = (
            0.1 if normalizer in ("layer", "batch_shared", "batch_separate") else 0.0)
    if quantizer in STOCHASTIC and task != "word_lm":  # by their own release
        settings["clip_norm"] = 0.0
        if task == "sequential_image":
            settings |= {"learning_rate": 0.004, "lr_decay": 0.25}
        else:  # the rate stays, but on War and Peace halves over the 200 epochs
            decay = 0.5 ** (1 / 200) if settings["dataset"] == "war_and_peace" else 1.0
            settings |= {"carry_state": False, "lr_decay": decay}
    return settings


def check_number(
    name: str, value: Any, kind: type, *, least: float = float("-inf"), above: float = float("-inf")
):
    """Raises ``ConfigError`` unless the setting ``name`` has a ``value`` of a ``kind``, finite,
    ``least`` or more, ``above`` a bound."""
    allowed = int if kind is int else (int, float)
    bound = f" of {least} or more" if least > float("-inf") else f" above {above}"
    words = {int: "a whole number", float: "a number"}[kind] + bound
    if isinstance(value, str):
        raise ConfigError(
            f"{name} must be {words}, got the text {value!r} (in YAML write 1.0e-3, not 1e-3)")
    if (isinstance(value, bool) or not isinstance(value, allowed)
        or not least <= value < float("inf") or value <= above):
        raise ConfigError(f"{name} must be {words}, got {value!r}")
