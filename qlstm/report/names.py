"""Names in tables, figures and on pages: of quantizers, normalizers and settings, and marks."""

import math

from qlstm import data
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.profiles import defaults
from qlstm.study.tasks import METRICS

QUANTIZER_TITLES = {"full_precision": "full precision", "binary_connect": "BinaryConnect (BC)",
                    "bwn": "BWN", "lab": "LAB", "ter_connect": "TerConnect (TC)", "twn": "TWN",
                    "lat": "LAT", "sbn": "SBN", "stn": "STN", "alternating": "alternating"}
NORMALIZER_TITLES = {"none": "–", "weight": "weight", "layer": "layer",
                     "batch_shared": "batch (shared)", "batch_separate": "batch (separate)"}
NORMALIZER_WORDS = NORMALIZER_TITLES | {"none": "none"}
SHORT = {"full_precision": "full", "binary_connect": "BC", "ter_connect": "TC", "bwn": "BWN",
         "lab": "LAB", "twn": "TWN", "lat": "LAT", "sbn": "SBN", "stn": "STN"}
SUFFIX = {"none": "", "weight": "+WN", "layer": "+LN", "batch_shared": "+BN (shared)",
          "batch_separate": "+BN (separate)"}
NOT_RUN, DIVERGED, NOT_AT_HAND, UNKNOWN = "·", "N/A", "–", "unknown"
"""Marks in a table: not run; diverged, or printed so by the authors; the paper's number is not at
hand; the size of a quantizer of one's own that does not tell its bits."""

IN_TITLE = {"decay": "decay of {} weights", "biases": "{} biases",
            "min_learning_rate": "least rate {:g}", "carry_state": "carried state {}"}
"""Settings of the training that a label names wherever they are not the usual ones."""
REDUCED = {"hidden_size": "d = {}", "epochs": "{} epochs", "max_train": "first {:,}",
           "steps": "T = {}", "batch_size": "N = {}", "learning_rate": "rate {:g}",
           "lr_decay": "decay {:g}", "clip_norm": "clip {:g}", "dropout": "dropout {:g}"}
"""Settings that take a run away from the paper's scale."""


def number(metric: str, value: float, failed: bool | None = False) -> str:
    """A value of a metric with the digits that its kind has.

    Args:
        metric: ``bpc``, ``ppl`` or ``accuracy``.
        value: the number; NaN: diverged.
        failed: whether it is of a training that failed. A perplexity then has no digit after the
            point: what a failed training ends at is chance.

    Example:
        >>> number("bpc", 1.7249), number("ppl", 86.04), number("ppl", 8247.4, failed=True)
        ('1.72', '86.0', '8247')
    """
    if math.isnan(value):
        return "diverged"
    if abs(value) >= 1e6:
        return f"{value:.0e}"
    return f"{value:.{0 if failed and metric == 'ppl' else METRICS[metric].digits}f}"


def model_name(quantizer: str, normalizer: str) -> str:
    """The short name of a network in figures and evidence.

    Args:
        quantizer: how its weights are quantized, a name in :data:`qlstm.quantizers.QUANTIZERS` or
            the user's.
        normalizer: how it is normalized, a name in :data:`qlstm.normalizers.NORMALIZERS`.

    Example:
        >>> model_name("binary_connect", "weight")
        'BC+WN'
    """
    return SHORT.get(quantizer, quantizer) + SUFFIX.get(normalizer, f"+{normalizer}")


def label(config: ExperimentConfig, sha256: str) -> str:
    """The name of a setting: data, model and scale, whatever the quantizer, normalizer and seed.

    Results are pooled over seeds and compared across quantizers only within one label: ``Penn
    Treebank (words), d = 650``, or ``War and Peace (reduced: d = 128, 5 epochs)``.

    Args:
        config: settings of a run.
        sha256: digest of its data. It is named where the text depends on the machine, so that runs
            on different texts stay apart.
    """
    paper = defaults("paper", config.task, config.dataset, config.normalizer, config.quantizer)
    words = config.task == "word_lm"
    parts = [
        data.title(config.dataset),
        f"d = {config.hidden_size}" if words else "",
        f"{config.num_layers} layers" if config.num_layers > 1 else "",
        "GRU" if config.cell == "gru" else "",
        "permuted" if config.permuted else "",
        f"gains {config.initial_gain or 'as defined'}"
        if config.initial_gain != paper["initial_gain"] else "",
        f"state noise {config.state_noise}" if config.state_noise != paper["state_noise"] else "",
        *(text.format(getattr(config, name)) for name, text in IN_TITLE.items()
          if getattr(config, name) not in (config.usual(name), paper[name])),
    ]
    title = ", ".join(filter(None, parts))
    # an experiment on statistics or another cell is still of the paper's scale
    usual = {name: config.usual(name) for name in ("cell", *SPECIAL)}
    if ExperimentConfig.as_recorded(config.as_dict() | usual).at_paper_scale:
        return title
    reduced = [text.format(getattr(config, name)) for name, text in REDUCED.items()
               if getattr(config, name) != paper[name] and not (words and name == "hidden_size")]
    reduced = ["1 epoch" if text == "1 epochs" else text for text in reduced]
    if config.dataset not in data.CATALOGUE or config.dataset.startswith("python_help"):
        reduced.append(f"text {sha256[:6]}")
    return f"{title} (reduced: {', '.join(reduced or ['another size'])})"


def in_parts(name: str) -> tuple[str, str]:
    """The name of a setting in two: what it is, and what is smaller than in the paper ("" if
    nothing is). The digest of a text is left out.

    Example:
        >>> in_parts("War and Peace (reduced: d = 128, 5 epochs, text 2a95af)")
        ('War and Peace', 'd = 128, 5 epochs')
    """
    setting, _, scale = name.partition(" (reduced: ")
    parts = scale.removesuffix(")").split(", ")
    return setting, ", ".join(part for part in parts if not part.startswith("text "))
