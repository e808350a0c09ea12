"""The gradient on its way back: through one step, and through many."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.style
import numpy as np
from IPython.display import Image
from matplotlib.figure import Figure

from qlstm.course.pictures.drawing import (
    BACK,
    BLUE,
    DPI,
    GATES,
    GREEN,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    QUANTIZED,
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

WAYS = {"f": ["c_{t-1}", r"\sigma'(\tilde f)"],
        "i": [r"\tanh(\tilde a)", r"\sigma'(\tilde i)"],
        "a": [r"\sigma(\tilde i)", r"\mathrm{tanh}'(\tilde a)"],
        "o": [r"\tanh(c_t)", r"\sigma'(\tilde o)"]}
r"""What the gradient is multiplied by, unit by unit, on its way to a gate's pre-activation: from
$\partial\xi/\partial c_t$ to f, i and a, from $\partial\xi/\partial h_t$ to o."""
STRAIGHT = [r"\sigma(\tilde f)"]
r"""From $\partial\xi/\partial c_t$ to $\partial\xi/\partial c_{t-1}$."""
ACROSS = [r"\sigma(\tilde o)", r"\mathrm{tanh}'(c_t)"]
r"""From $\partial\xi/\partial h_t$ to $\partial\xi/\partial c_t$."""
MOVES = 24
"""How many pictures the animation has."""
_LOOKS = [{"color": color, "linestyle": line, "marker": marker, "linewidth": 2.2}
          for color, line, marker in [(INK, "-", "o"), (BLUE, "--", "s"), (GREEN, "-.", "^"),
                                      (PURPLE, ":", "D"), (ORANGE, (0, (6, 1, 1, 1, 1, 1)), "v")]]


def gradient_paths() -> Image:
    r"""The ways of the gradient through one step, from $h_t$ and $c_t$ back to $h_{t-1}$ and
    $c_{t-1}$: straight along the cell state, and through the recurrent matrix of each gate."""
    with sheet(7, 5.3) as axes:
        for x, y, name in ((0.5, 4.85, "c_{t-1}"), (6.5, 4.85, "c_t"), (0.5, 1.35, "h_{t-1}"),
                           (6.5, 1.35, "h_t")):
            box(axes, x, y, 0.72, 0.66, facecolor=PALE)
            label(axes, x, y, rf"$\frac{{\partial\xi}}{{\partial {name}}}$", size=17)
        thick = BACK | {"linewidth": 3}
        arrow(axes, (6.14, 4.85), (4.41, 4.85), **thick)
        _factors(axes, 3.88, 4.85, STRAIGHT)
        arrow(axes, (3.35, 4.85), (0.86, 4.85), **thick)
        label(axes, 2.2, 5.07, "straight: no matrix", size=10.5, style="italic")
        arrow(axes, (6.5, 1.68), (6.5, 2.3), **BACK)
        _factors(axes, 6.15, 2.5, ACROSS)
        arrow(axes, (6.5, 2.7), (6.5, 4.52), **BACK)
        for (gate, way), y in zip(WAYS.items(), (4, 3.25, 2.5, 1.35), strict=True):
            label(axes, 3.88, y + 0.3, GATES[gate], size=10.5, style="italic")
            start = [(6.14, y)] if gate == "o" else [(5, 4.85), (5, y)]
            end = [(1.49, y)] if gate == "o" else [(1.35, y), (1.35, 1.49)]
            arrow(axes, *start, (4.66, y), **BACK)
            _factors(axes, 3.88, y, way)
            arrow(axes, (3.1, y), (2.57, y), **BACK)
            box(axes, 2.2, y, 0.74, 0.4, rf"$W_{{h{gate}}}^\top$", **QUANTIZED)
            arrow(axes, (1.83, y), *end, head=gate in "fo", **BACK)
        circle(axes, 1.35, 1.35, "+")
        arrow(axes, (1.21, 1.35), (0.86, 1.35), **BACK)
        arrow(axes, (0.75, 0.62), (0.2, 0.62), **BACK)
        label(axes, 0.9, 0.62, "gradient, back in time", ha="left", size=10.5)
        box(axes, 0.47, 0.25, 0.5, 0.26, **QUANTIZED)
        label(axes, 0.9, 0.25, "recurrent matrix, quantized", ha="left", size=10.5)
        label(axes, 4.1, 0.62, r"$\odot$  times, unit by unit", ha="left", size=10.5)
        label(axes, 4.1, 0.25, r"slopes  $\sigma' \leq 1/4$,  $\mathrm{tanh}' \leq 1$", ha="left",
              size=10.5)
        return finished(axes, (
            "The gradient's ways through one step of an LSTM, from right to left. From c_t it goes "
            "straight to c_{t-1}, multiplied unit by unit by sigma(f) alone. From c_t it also goes "
            "to h_{t-1} by three ways, multiplied by c_{t-1} sigma'(f) and the transpose of W_hf, "
            "by tanh(a) sigma'(i) and that of W_hi, and by sigma(i) tanh'(a) and that of W_ha. "
            "From h_t it goes to h_{t-1} by a fourth, multiplied by tanh(c_t) sigma'(o) and the "
            "transpose of W_ho, and to c_t, multiplied by sigma(o) tanh'(c_t). "
            "The four that reach h_{t-1} are added up."))


def _factors(axes, x, y, factors):
    box(axes, x, y, 0.5 + 0.53 * len(factors), 0.4, r"$\odot\ " + r"\,".join(factors) + "$")


def unrolled() -> Image:
    r"""Four steps of the network, forward and back: the gradient of the last step's loss, and where
    truncated backpropagation through time cuts it."""
    with sheet(7, 4.5) as axes:
        box(axes, 0.5, 2.45, 0.7, 1.5, facecolor=PALE, edgecolor="0.5", linestyle=":")
        label(axes, 0.5, 2.45, "piece\nbefore", size=10)
        for t, x in enumerate((1.95, 3.35, 4.75, 6.15), 1):
            box(axes, x, 2.45, 0.7, 1.5, "LSTM", facecolor=PALE)
            label(axes, x, 1.2, f"$x_{t}$", size=13)
            arrow(axes, (x, 1.35), (x, 1.7))
            _between(axes, t, x)
        box(axes, 6.15, 4.2, 1.1, 0.4, r"loss  $\xi_4$")
        arrow(axes, (6, 3.2), (6, 4))
        label(axes, 5.78, 3.58, "$h_4$")
        arrow(axes, (6.3, 4), (6.3, 3.2), **BACK)
        label(axes, 6.58, 3.58, "$dh_4$")
        axes.plot([1.14, 1.14], [1.65, 2.43], color=INK, linewidth=4)
        label(axes, 0.82, 1.25, "cut: the state\npasses, the\ngradient stops", size=10)
        arrow(axes, (3.4, 0.85), (1.6, 0.85))
        arrow(axes, (4.7, 0.85), (6.5, 0.85))
        label(axes, 4.05, 0.85, "one piece, T = 4", size=10.5)
        arrow(axes, (0.2, 0.3), (0.75, 0.3))
        label(axes, 0.9, 0.3, "forward", ha="left", size=10.5)
        arrow(axes, (2.6, 0.3), (2.05, 0.3), **BACK)
        label(axes, 2.75, 0.3, r"back:  $dh_t = \partial\xi_4/\partial h_t$,  "
              r"$dc_t = \partial\xi_4/\partial c_t$", ha="left", size=10.5)
        return finished(axes, (
            "An LSTM unrolled over a piece of four steps. Forward arrows carry h_t and c_t from "
            "step to step, the first ones from the piece before; each step reads its x_t. The loss "
            "of the last step, xi_4, is taken from h_4. Its gradient goes back the other way: dh_4 "
            "into step 4, then dh_3 and dc_3 into step 3, and so on to dh_0 and dc_0. Between the "
            "first step and the piece before is a cut: the state passes, the gradient stops."))


def _between(axes, t, x):
    """The arrows from step t - 1 to step t, which is at x, and back."""
    for name, y, back in (("h", 3, 1.75), ("c", 2.65, 2.1)):
        arrow(axes, (x - (1.1 if t == 1 else 1.05), y), (x - 0.35, y))
        label(axes, x - 0.72, y + 0.13, f"${name}_{t - 1}$")
        arrow(axes, (x - 0.35, back), (1.17 if t == 1 else x - 1.05, back), **BACK)
        label(axes, x - (0.55 if t == 1 else 0.66), back + 0.14, f"$d{name}_{t - 1}$")


def growth(norms: Mapping[str, Sequence[float]], title: str | None = None) -> Image:
    """The gradient's norm on its way back in time, as an animation: the lines grow from the last
    step to the first. It is played once; in print, and where nothing moves, they are complete.

    Args:
        norms: For each network, by its name, the norms at the steps 1 to T. Zeros and what is not
            finite have no place on the axis and are left out.
        title: What stands above.
    """
    norms = {name: _drawable(values) for name, values in norms.items()}
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7, 4), dpi=DPI, layout="constrained")
        axes = figure.subplots()
        for (name, values), look in zip(norms.items(), itertools.cycle(_LOOKS), strict=False):
            axes.plot(np.arange(1, len(values) + 1), values, label=name,
                      markevery=max(1, len(values) // 8), **look)
        axes.set(yscale="log", ylabel=r"$\Vert\partial\xi_T/\partial h_t\Vert$", title=title,
                 xlabel="time step t  (the gradient goes from right to left)")
        axes.grid(axis="y", color="0.85")
        figure.legend(loc="outside upper center", frameon=False,
                      ncols=3 if max(map(len, norms)) < 20 else 2)
        complete = raster(figure)
        for line in axes.lines:
            line.set_data([], [])
        empty = raster(figure)
    right, left = axes.transAxes.transform([(1, 0), (0, 0)])[:, 0]
    frames = [empty.copy() for _ in range(MOVES)]
    for frame, x in zip(frames, np.linspace(right, left, MOVES).astype(int), strict=True):
        frame.paste(complete.crop((x, 0, *complete.size)), (x, 0))
    return described([complete, *frames], (
        "The norm of the gradient of the last step's loss by time step, on an axis of powers of "
        "ten. " + " ".join(_in_words(name, values) for name, values in norms.items())), 150)


def _drawable(values):
    values = np.asarray(values, float)
    drawn = np.isfinite(values) & (values > 0)
    return np.where(drawn, np.clip(values, 1e-100, 1e100), np.nan)  # wider axes have no ticks


def _in_words(name, values):
    steps = np.flatnonzero(np.isfinite(values))
    if not len(steps):
        return f"{name}: nothing to draw."
    first, last = steps[0], steps[-1]
    return (f"{name}: {values[last]:.1e} at step {last + 1}, then {values[first]:.1e} at step "
            f"{first + 1}.")
