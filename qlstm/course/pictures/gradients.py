"""The gradient on its way back: through one step, and through many."""

from collections.abc import Mapping, Sequence

import matplotlib.style
import numpy as np
from IPython.display import Image
from matplotlib.figure import Figure

from qlstm.course.pictures.drawing import (
    BACK,
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    QUANTIZED,
    RED,
    STYLE,
    arrow,
    box,
    circle,
    described,
    finished,
    label,
    raster,
    sheet,
)

WAYS = {"f": ["c_{t-1}", r"\sigma'(\tilde f)"], "i": [r"\tanh(\tilde a)", r"\sigma'(\tilde i)"],
        "a": [r"\sigma(\tilde i)", r"\tanh'(\tilde a)"], "o": [r"\tanh(c_t)", r"\sigma'(\tilde o)"]}
r"""What the gradient is multiplied by, unit by unit, on its way to a gate's pre-activation: from
$\partial\xi/\partial c_t$ to f, i and a, from $\partial\xi/\partial h_t$ to o."""
STRAIGHT = [r"\sigma(\tilde f)"]
r"""From $\partial\xi/\partial c_t$ to $\partial\xi/\partial c_{t-1}$."""
ACROSS = [r"\sigma(\tilde o)", r"\tanh'(c_t)"]
r"""From $\partial\xi/\partial h_t$ to $\partial\xi/\partial c_t$."""
_NAMES = {"f": "forget", "i": "input", "a": "candidate", "o": "output"}


def gradient_paths() -> Image:
    r"""The ways of the gradient through one step, from $h_t$ and $c_t$ back to $h_{t-1}$ and
    $c_{t-1}$: straight along the cell state, and through the recurrent matrix of each gate."""
    with sheet(7, 5) as axes:
        for x, y, name in ((0.5, 4.4, "c_{t-1}"), (6.5, 4.4, "c_t"), (0.5, 1, "h_{t-1}"),
                           (6.5, 1, "h_t")):
            box(axes, x, y, 0.72, 0.66, facecolor=PALE)
            label(axes, x, y, rf"$\frac{{\partial\xi}}{{\partial {name}}}$", size=17)
        arrow(axes, (6.14, 4.4), (0.86, 4.4), **BACK | {"linewidth": 3})
        _factors(axes, 3.9, 4.4, STRAIGHT)
        label(axes, 2.2, 4.62, "straight: no matrix", size=10.5, style="italic")
        arrow(axes, (6.5, 1.33), (6.5, 4.07), **BACK)
        _factors(axes, 6.1, 2.05, ACROSS)
        for (gate, way), y in zip(WAYS.items(), (3.65, 2.85, 2.05, 1), strict=True):
            start = [(6.14, y)] if gate == "o" else [(5.35, 4.4), (5.35, y)]
            end = [(0.86, y)] if gate == "o" else [(1.35, y), (1.35, 1.14)]
            arrow(axes, *start, *end, **BACK)
            _factors(axes, 3.9, y, way)
            box(axes, 2.2, y, 0.74, 0.4, rf"$W_{{h{gate}}}^\top$", **QUANTIZED)
        circle(axes, 1.35, 1, "+")
        return finished(axes, "")


def _factors(axes, x, y, factors):
    box(axes, x, y, 0.35 + 0.6 * len(factors), 0.4, r"$\odot\ " + r"\,".join(factors) + "$")
