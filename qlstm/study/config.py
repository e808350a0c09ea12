"""The configuration of one run: what is trained, on which data, how."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.study.checks import TEXTS, check, check_task, check_text, plain
from qlstm.study.profiles import PAPER_DATASETS, VARIANTS, defaults
from qlstm.study.record_schema import RANGES
from qlstm.study.tasks import PROFILES

SPECIAL = ["initial_gain", "state_noise", "permuted", "decay", "min_learning_rate", "biases",
           "carry_state"]
"""Settings that make an experiment of its own when they differ from the usual."""


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    r"""The settings of one run, checked on construction and never changed afterwards.

    A setting that is left out (or None) is filled in: from the data set, the task, the profile and
    the quantizer (:func:`qlstm.study.profiles.defaults`). A wrong one raises ``ConfigError``, an
    unknown data set ``DataError``.

    Example:
        >>> ExperimentConfig(task="word_lm").hidden_size
        300
        >>> ExperimentConfig(quantizer="bnw")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        qlstm.errors.ConfigError: unknown quantizer 'bnw': did you mean 'bwn'? Possible: ...
    """

    profile: str = "quick"
    """How much is trained: ``smoke``, ``quick`` or ``paper``."""
    task: str | None = None
    """``char_lm`` or ``word_lm`` (language models: predict the next character or word), or
    ``sequential_image`` (classify an image read pixel by pixel). The data set decides it, unless
    that is a text of one's own, which can be read as characters or as words."""
    dataset: str | None = None
    """A name of ``qlstm.data.CATALOGUE`` or the path of a text file."""
    cell: str | None = None
    """``lstm``, the paper's, or ``gru``, which its reviewers asked for."""
    quantizer: str = "full_precision"
    """A name of ``qlstm.quantizers.QUANTIZERS``, or ``"module:function"`` for one's own."""
    normalizer: str = "none"
    """A name of ``qlstm.normalizers.NORMALIZERS``, or ``"module:name"`` for one's own."""
    hidden_size: int | None = None
    """$d$, the units of a layer; also the dimensions in which words are embedded."""
    num_layers: int | None = None
    """Recurrent layers, one above the other."""
    steps: int | None = None
    """$T$, the time steps of a minibatch, which are as far as the gradient reaches back. Of
    images their pixels; fewer make the image smaller, by means of blocks (in quick 49
    for MNIST)."""
    batch_size: int | None = None
    """$N$, the streams of text, or the images, that a minibatch has side by side."""
    epochs: int | None = None
    """Passes over the training data."""
    max_train: int | None = None
    """Train on the first so many symbols, words or images, and evaluate on an eighth of it, to
    save time; 0: on all."""
    learning_rate: float | None = None
    """The first learning rate: of Adam, for words of SGD."""
    lr_decay: float | None = None
    """Factor on the learning rate. Characters: after each epoch from the eleventh on. Words: after
    each epoch whose validation loss is not below the best before. Images: what it has fallen by,
    exponentially, after the last epoch."""
    decay: str | None = None
    """Whose learning rate falls: that of ``all`` parameters, or of the ``latent`` matrices alone,
    as in the paper's release for characters (in full precision, without any, it never falls)."""
    min_learning_rate: float | None = None
    """Training ends before its last epoch once the learning rate is below this; 0: it does not."""
    clip_norm: float | None = None
    """Gradients are scaled down to at most this norm, lest they explode; 0: they are not."""
    dropout: float | None = None
    """Words: the share of values that are dropped in training, of the embedding, between layers
    and of the output."""
    initial_gain: float | None = None
    """Images: where the gains of layer and batch normalization start; 0: as the normalizer says."""
    state_noise: float | None = None
    """Images: standard deviation of the noise that is added to the learned initial state."""
    permuted: bool | None = None
    """Images: read the pixels in one fixed random order instead of line by line."""
    biases: int | None = None
    """Bias vectors of a layer: 1, or 2 in full precision without normalization, where the paper's
    release uses ``torch.nn.LSTM``, which has two."""
    carry_state: bool | None = None
    """Texts: each minibatch starts from the last one's state. False: a text is cut into sequences,
    shuffled in training, that start from a learned state (SBN and STN on characters)."""
    seed: int = 0
    """Decides the initial weights and every later random number."""

    def __new__(cls, **settings):
        """Refuse a name that is no field, with a suggestion."""
        _check_names("setting", settings, _names(cls))
        return super().__new__(cls)

    def __post_init__(self):
        for name in _names(type(self)):
            object.__setattr__(self, name, plain(getattr(self, name)))
            if name in TEXTS:
                check_text(name, getattr(self, name))
        if self.profile not in PROFILES:
            raise ConfigError(unknown("profile", self.profile, PROFILES))
        check_task(self.task, self.dataset)
        own = self.dataset and data.task_of(self.dataset)
        object.__setattr__(self, "task", own or self.task or "char_lm")
        for name, value in _usual(self).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check(self)
        for name, possible in RANGES.items():
            object.__setattr__(self, name, possible.kind(getattr(self, name)))

    @classmethod
    def as_recorded(cls, settings: dict[str, Any]) -> "ExperimentConfig":
        """The configuration of a run that has its record. It is not checked again, so that it may
        name a text, a quantizer or a normalizer that is gone.

        Args:
            settings: All fields by name, as in a record that :mod:`qlstm.study.records` has read.
        """
        config = object.__new__(cls)
        for name in _names(cls):
            object.__setattr__(config, name, settings[name])
        return config

    def usual(self, name: str) -> Any:
        """What the run's profile gives for the setting ``name``."""
        return _usual(self)[name]

    @property
    def run_id(self) -> str:
        """The name of the run's folder: what the run is, and what differs from its profile."""
        return _run_id(self)

    @property
    def variant(self) -> str:
        """Which of :data:`~qlstm.study.profiles.VARIANTS` a word-level model is; else empty."""
        return _variant(self) if self.task == "word_lm" else ""

    @property
    def at_paper_scale(self) -> bool:
        """Whether these are the paper's own settings on one of its data sets, for any seed."""
        sizes = VARIANTS.get(self.variant, {}).get("paper", {})
        return (self.dataset in PAPER_DATASETS
                and self.settings == {"task": self.task} | _usual(self, "paper") | sizes)

    @property
    def settings(self) -> dict[str, Any]:
        """What all rows of a table share: no profile, quantizer, normalizer and seed."""
        row = ("profile", "quantizer", "normalizer", "seed")
        return {name: value for name, value in self.as_dict().items() if name not in row}

    def as_dict(self) -> dict[str, Any]:
        """All fields, as they stand in the record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_parameters(cls, namespace: dict[str, Any], *others: str) -> "ExperimentConfig":
        """Read the configuration from the variables of a notebook.

        papermill lets an unknown parameter pass with a warning, and a misspelt one would silently
        run the default experiment. Here a variable with a number, text or list must be a setting.

        Args:
            namespace: the variables, from the ``parameters`` cell and what papermill injected.
            others: names of further parameters, which are no settings.

        Raises:
            ConfigError: a variable is neither a setting nor one of ``others``.
        """
        plain = {name: value for name, value in namespace.items()
                 if not name.startswith("_") and name not in ("In", "Out")
                 and (name in _names(cls) or isinstance(value, str | int | float | list | None))}
        _check_names("parameter", plain, [*_names(cls), *others])
        return cls(**{name: plain[name] for name in _names(cls) if name in plain})


def _names(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _check_names(what: str, names: Any, possible: list[str]):
    for name in names:
        if name not in possible:
            raise ConfigError(unknown(what, name, possible))


def _usual(config: ExperimentConfig, profile: str | None = None) -> dict[str, Any]:
    """What a profile, else that of the run, gives for everything that the run leaves to it."""
    return defaults(profile or config.profile, config.task, config.dataset, config.normalizer,
                    config.quantizer)


def _run_id(config: ExperimentConfig) -> str:
    """Data set, quantizer, normalizer, seed and the settings that are not the profile's."""
    dataset, own_text = config.dataset, config.dataset not in data.CATALOGUE
    if own_text:  # two files of one name stay apart
        path = Path(dataset)
        dataset = path.stem + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]
    parts = [dataset, config.quantizer, config.normalizer, f"seed{config.seed}"]
    parts += [f"{name}={getattr(config, name)}" for name, usual in _usual(config).items()
              if name != "dataset" and getattr(config, name) != usual]
    if own_text and config.task != "char_lm":
        parts.append(config.task)
    return "-".join(re.sub(r"[^\w.=]+", ".", part) for part in parts)


def _variant(config: ExperimentConfig) -> str:
    """The variant with the run's sizes in its profile or in the paper's; else by its layers."""
    for profile in (config.profile, "paper"):
        for name, sizes in VARIANTS.items():
            usual = _usual(config, profile) | sizes[profile]
            if all(getattr(config, size) == usual[size] for size in ("hidden_size", "num_layers")):
                return name
    return "small" if config.num_layers == 1 else "deep"
