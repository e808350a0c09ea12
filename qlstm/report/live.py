"""A run while it is trained: its losses and its metric by epoch, in a picture that is redrawn in
place.

``epochs``: the epochs of a run, as a record or :attr:`qlstm.study.progress.Progress.epochs` has
them; entry 0 describes the untrained network. ``underway``: how far the present one has come, as
:func:`qlstm.study.underway.read` returns it; empty between two epochs.
"""

import base64
import io
import time
from typing import Any

from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qlstm.report.figures import PALETTE, style
from qlstm.study.config import ExperimentConfig
from qlstm.study.tasks import TASKS

EVERY = 2.0
"""Seconds from one picture to the next, at least."""
SHARE = 0.04
"""Share of the time that pictures may take, at most."""
HIGHEST = 1e30
"""Larger values are drawn here, as axes end at what 64 bits hold."""


def sentence(config: ExperimentConfig, epochs: list[dict[str, Any]],
             underway: dict[str, Any]) -> str:
    """Return how far a run has come, as text.

    Args:
        config: The settings of the run.
        epochs, underway: As in the module's legend.

    Example:
        >>> sentence(ExperimentConfig(epochs=4), [{"epoch": 0}], {
        ...     "epoch": 1, "share": 0.4, "updates": 15, "train_loss": 3.2})
        'epoch 1 of 4, 40 %: 15 updates, loss so far 3.200'
    """
    metric, last = TASKS[config.task].metric, epochs[-1] if epochs else {}
    if last.get("diverged"):
        return f"epoch {last['epoch']} of {config.epochs}: the loss is not finite, diverged"
    if underway:
        return (f"epoch {underway['epoch']} of {config.epochs}, {100 * underway['share']:.0f} %: "
                f"{underway['updates']:,} updates, loss so far {underway['train_loss']:.3f}")
    if "valid_metric" not in last:
        return f"epoch 1 of {config.epochs} has begun"
    text = (f"epoch {last['epoch']} of {config.epochs}: training loss {last['train_loss']:.3f}, "
            f"validation {metric.title} {last['valid_metric']:.{metric.digits}f}")
    if last.get("seconds_left"):
        text += ", about {}:{:02d} left".format(*divmod(last["seconds_left"], 60))
    return text


def curve(config: ExperimentConfig, epochs: list[dict[str, Any]],
          underway: dict[str, Any] | None = None) -> Figure:
    """Draw the losses (left) and the validation metric (right) by epoch.

    A circle is the loss so far of an epoch that is being trained, a star the best epoch.

    Args:
        config: The settings of the run.
        epochs, underway: As in the module's legend.
    """
    metric, underway = TASKS[config.task].metric, underway or {}
    done = [epoch for epoch in epochs if "valid_loss" in epoch]
    x = [epoch["epoch"] for epoch in done]
    values = {name: [min(epoch[name], HIGHEST) for epoch in done]
              for name in ("train_loss", "valid_loss", "valid_metric")}
    with style():
        figure = Figure(figsize=(8, 2.8))
        left, right = figure.subplots(
            1, 2, gridspec_kw=dict(left=0.08, right=0.98, bottom=0.16, top=0.8, wspace=0.25))
        left.plot(x, values["train_loss"], ".-", color=PALETTE[0], label="training")
        left.plot(x, values["valid_loss"], ".-", color=PALETTE[1], label="validation")
        if underway:
            left.plot(underway["epoch"] - 1 + underway["share"],
                      min(underway["train_loss"], HIGHEST), "o", fillstyle="none",
                      color=PALETTE[0], label="training, so far")
        right.plot(x, values["valid_metric"], ".-", color=PALETTE[1])
        if done:
            best = values["valid_loss"].index(min(values["valid_loss"]))
            right.plot(x[best], values["valid_metric"][best], "*", color=PALETTE[3], markersize=9,
                       linestyle="none", label=f"lowest validation loss: epoch {x[best]}")
        left.set(ylabel="loss (nats)")
        right.set(ylabel=f"validation {metric.title}")
        for axes in (left, right):
            drawn = [y for line in axes.get_lines() for y in line.get_ydata()]
            axes.set(xlabel="epoch", xlim=(0, config.epochs + 0.2))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if not drawn:
                axes.set_yticks([])
                continue
            if 0 < min(drawn) < max(drawn) / 20:
                axes.set_yscale("log")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
        figure.suptitle(sentence(config, epochs, underway), x=0.01, ha="left", fontsize="medium")
    return figure


class Curve:
    """A picture of a run, redrawn in one output of a notebook's cell while the run is trained.

    Where it is executed without a browser the last picture stays. Pictures take at most
    :data:`SHARE` of the time; outside of a notebook there are none. :func:`qlstm.run` takes it as
    its ``watch``.

    Args:
        config: The settings of the run.
    """

    def __init__(self, config: ExperimentConfig):
        self.config, self.due, self.handle = config, 0.0, None
        if get_ipython() is not None:
            self.handle = display(_bundle(config, [], {}), raw=True, display_id=True)

    def __call__(self, epochs: list[dict[str, Any]], underway: dict[str, Any]):
        """Show how far the run has come, unless a picture has just been drawn.

        Args:
            epochs, underway: As in the module's legend.
        """
        if time.monotonic() >= self.due:
            self.show(epochs, underway)

    def show(self, epochs: list[dict[str, Any]], underway: dict[str, Any] | None = None):
        """Draw the picture anew.

        Args:
            epochs, underway: As in the module's legend.
        """
        started = time.monotonic()
        if self.handle is not None:
            self.handle.update(_bundle(self.config, epochs, underway or {}), raw=True)
        ended = time.monotonic()
        self.due = ended + max(EVERY, (ended - started) / SHARE)


def _bundle(config: ExperimentConfig, epochs: list[dict], underway: dict) -> dict[str, str]:
    """The picture of a run and what it says, by media type."""
    image = io.BytesIO()
    curve(config, epochs, underway).savefig(image, format="png", dpi=110)
    return {"image/png": base64.b64encode(image.getvalue()).decode(),
            "text/plain": sentence(config, epochs, underway)}
