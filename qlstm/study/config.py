"""The configuration of one run: what is trained, on which data, how."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm import data
from qlstm.errors import ConfigError, unknown
from qlstm.study.checks import NOT_NEGATIVE, RATES, check, check_task
from qlstm.study.profiles import PAPER_DATASETS, VARIANTS, defaults
from qlstm.study.tasks import PROFILES

SPECIAL = ["initial_gain", "state_noise", "permuted", "decay", "min_learning_rate", "biases",
           "carry_state"]
"""Settings that make an experiment of its own when they differ from the usual."""


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
        check_task(self.task, self.dataset)
        own = self.dataset and data.task_of(self.dataset)
        object.__setattr__(self, "task", own or self.task or "char_lm")
        for name, value in self._usual(self.profile).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        check(self)
        for name in [*RATES, *NOT_NEGATIVE]:
            object.__setattr__(self, name, float(getattr(self, name)))

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


