"""The network itself: its cell, with the places where the study changes something."""

from IPython.display import Image

from qlstm.course.pictures.drawing import (
    GATES,
    NORMALIZED,
    PALE,
    QUANTIZED,
    arrow,
    box,
    circle,
    finished,
    label,
    sheet,
)

_PLACES = {"f": 1.5, "i": 2.8, "a": 4.1, "o": 5.4}


def lstm_cell() -> Image:
    r"""One step of the LSTM: its eight matrices, which are quantized, its eight products, which are
    normalized, and how four gates make $c_t$ and $h_t$ of them."""
    with sheet(7, 6) as axes:
        for y, name, aside in ((0.95, "$x_t$", -0.3), (1.95, "$h_{t-1}$", 0.3)):
            label(axes, 0.35, y, name, size=14)
            arrow(axes, (0.65, y), (_PLACES["o"] + aside, y), head=False)
        for y, name in ((1.45, "input\nmatrices"), (2.45, "recurrent\nmatrices")):
            box(axes, 3.87, y, 6.1, 0.52, facecolor=PALE, edgecolor="none", zorder=0)
            label(axes, 6.45, y, name, size=10)
        for gate, x in _PLACES.items():
            _gate(axes, gate, x)
        _cell(axes)
        box(axes, 0.45, 0.35, 0.42, 0.3, **QUANTIZED)
        label(axes, 0.8, 0.35, "quantized: 1 or 2 bits a weight", ha="left", size=10.5)
        circle(axes, 3.95, 0.35, "$N$", 0.16, **NORMALIZED)
        label(axes, 4.25, 0.35, "normalized: each product by itself", ha="left", size=10.5)
        return finished(axes, (
            "One step of an LSTM. The input x_t is multiplied by four input matrices, W_xf, W_xi, "
            "W_xa and W_xo, the hidden state h_{t-1} by four recurrent ones, W_hf, W_hi, W_ha and "
            "W_ho. These eight matrices are quantized (hatched). Each of the eight products is "
            "normalized by itself (N, thick border), before the two of a gate and its bias are "
            "added up. Sigmoids make the gates f, i and o, a tanh the candidate a. "
            "The cell state is c_t = sigma(i) tanh(a) + sigma(f) c_{t-1}, the hidden state "
            "h_t = sigma(o) tanh(c_t)."))


def _gate(axes, gate, x):
    for side, place, bottom, y in (("x", x - 0.3, 0.95, 1.45), ("h", x + 0.3, 1.95, 2.45)):
        arrow(axes, (place, bottom), (place, y - 0.18))
        box(axes, place, y, 0.54, 0.36, f"$W_{{{side}{gate}}}$", **QUANTIZED)
        arrow(axes, (place, y + 0.18), (place, 2.83), over=side == "x")
        circle(axes, place, 3.02, "$N$", 0.16, **NORMALIZED)
        arrow(axes, (place, 3.2), (place, 3.43))
    box(axes, x, 3.58, 0.86, 0.3, f"$+\\ b_{gate}$")
    arrow(axes, (x, 3.73), (x, 4.03))
    label(axes, x - 0.17, 3.87, f"$\\tilde {gate}$")
    box(axes, x, 4.18, 0.5, 0.3, "tanh" if gate == "a" else r"$\sigma$", facecolor=PALE)
    label(axes, x - 0.31, 4.18, GATES[gate], ha="right", size=10, style="italic")


def _cell(axes):
    forget, write, out = _PLACES["f"], (_PLACES["i"] + _PLACES["a"]) / 2, _PLACES["o"]
    for x, name in ((0.35, "$c_{t-1}$"), (6.7, "$c_t$")):
        label(axes, x, 5.65, name, size=14)
    arrow(axes, (0.65, 5.65), (forget - 0.14, 5.65), linewidth=2.4)
    arrow(axes, (forget + 0.14, 5.65), (write - 0.14, 5.65), linewidth=2.4)
    arrow(axes, (write + 0.14, 5.65), (6.45, 5.65), linewidth=2.4)
    arrow(axes, (forget, 4.33), (forget, 5.51))
    arrow(axes, (_PLACES["i"], 4.33), (_PLACES["i"], 4.85), (write - 0.14, 4.85))
    arrow(axes, (_PLACES["a"], 4.33), (_PLACES["a"], 4.85), (write + 0.14, 4.85))
    arrow(axes, (write, 4.99), (write, 5.51))
    arrow(axes, (out, 5.65), (out, 5.4))
    box(axes, out, 5.25, 0.5, 0.3, "tanh", facecolor=PALE)
    arrow(axes, (out, 5.1), (out, 4.88))
    arrow(axes, (out, 4.33), (out, 4.6))
    arrow(axes, (out + 0.14, 4.74), (6.45, 4.74))
    label(axes, 6.7, 4.74, "$h_t$", size=14)
    for x, y, name in ((forget, 5.65, "×"), (write, 5.65, "+"), (write, 4.85, "×"),
                       (out, 4.74, "×")):
        circle(axes, x, y, name)
