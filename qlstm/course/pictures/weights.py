"""Numbers in rows and columns: what a normalizer averages over, and how weights become bytes."""

import itertools
from collections.abc import Sequence

import numpy as np
from IPython.display import Image

from qlstm.course.pictures.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PALE,
    QUANTIZED,
    RED,
    arrow,
    box,
    finished,
    label,
    sheet,
)
from qlstm.packing import pack_codes

UNITS, SAMPLES, STEPS = 6, 4, 3
_CELL = (0.27, 0.24)
_BEHIND = 0.13  # how far a step's sheet stands aside of the one before


def normalizer_axes() -> Image:
    """What each normalizer averages over: a row of the matrix (weight), the units of a sample
    (layer), the samples of a unit (batch), and what is kept of it for test time."""
    with sheet(7, 6.6) as axes:
        _panel(axes, 0, 3.7, "weight", "the norm of a row of W", row=1)
        _panel(axes, 3.5, 3.7, "layer", "the units of one sample", row=1)
        _panel(axes, 0, 0.75, "batch, shared", "the samples of one unit", column=2, kept=1)
        _panel(axes, 3.5, 0.75, "batch, separate", "the samples of one unit", column=2, kept=STEPS)
        box(axes, 0.35, 0.55, 0.4, 0.22, facecolor=ORANGE, edgecolor=INK, linewidth=2)
        label(axes, 0.7, 0.55, "one mean and one standard deviation are taken over these (weight: "
              "one norm)", ha="left", size=10)
        label(axes, 0.15, 0.2, "kept   running means and variances, which take their place at "
              "test time", ha="left", size=10)
        return finished(axes, (
            "What each normalizer averages over. Weight: the norm of each row of the matrix W, a "
            "row being a unit's weights of all inputs; the samples do not matter. Layer: mean and "
            "standard deviation over the d units of one sample at one step. Batch: mean and "
            "standard deviation over the N samples of one unit at one step. Weight and layer "
            "normalization keep nothing for test time. Batch normalization keeps a running mean "
            "and variance: of each unit, for all steps, if they are shared; of each unit and each "
            "of the T steps if they are separate."))


def _panel(axes, left, bottom, name, words, row=None, column=None, kept=0):
    x, y, of_weight = left + 0.8, bottom + 1.1, name == "weight"
    width, height = _CELL[0] * UNITS, _CELL[1] * SAMPLES
    label(axes, left + 0.1, bottom + 2.74, name, ha="left", weight="bold", size=12)
    label(axes, left + 0.1, bottom + 2.5, words, ha="left", size=10.5)
    _sheets(axes, x, y, SAMPLES, 1 if of_weight else STEPS)
    label(axes, x + width / 2, y - 0.17, "n inputs" if of_weight else "d units", size=10.5)
    label(axes, x - 0.1, y + height / 2, "d\nunits" if of_weight else "N\nsamples", ha="right",
          size=10.5)
    if not of_weight:
        aside = _BEHIND * (STEPS - 1)
        arrow(axes, (x + width + 0.09, y - 0.06), (x + width + 0.09 + aside, y - 0.06 + aside))
        label(axes, x + width + 0.27, y - 0.09, "T steps", ha="left", size=10.5)
    if row is not None:
        _marked(axes, x, y + _CELL[1] * (SAMPLES - 1 - row), UNITS, 1)
    if column is not None:
        _marked(axes, x + _CELL[0] * column, y, 1, SAMPLES)
    if kept:
        _sheets(axes, x, bottom + 0.2, 1, kept)
        _marked(axes, x + _CELL[0] * column, bottom + 0.2, 1, 1)
        label(axes, x + width + 0.36, bottom + 0.32, "each unit" if kept == 1 else
              "each unit,\neach step", ha="left", size=10)
    label(axes, x - 0.1, bottom + 0.32, "kept" if kept else "kept: nothing",
          ha="right" if kept else "left", size=10.5)


def _sheets(axes, x, y, rows, steps):
    for aside in _BEHIND * np.arange(steps)[::-1]:
        _grid(axes, x + aside, y + aside, UNITS, rows)


def _grid(axes, x, y, columns, rows):
    for i in range(columns):
        for j in range(rows):
            box(axes, x + _CELL[0] * (i + 0.5), y + _CELL[1] * (j + 0.5), *_CELL,
                edgecolor="0.55", linewidth=0.8)


def _marked(axes, x, y, columns, rows):
    width, height = _CELL[0] * columns, _CELL[1] * rows
    box(axes, x + width / 2, y + height / 2, width, height, facecolor=ORANGE, edgecolor=INK,
        linewidth=2)


WEIGHTS = np.array([0.31, -0.12, 0.05, 0.44, -0.27, -0.08, 0.19, -0.36])
SIDE = 100  # of the matrix of lesson 1


def packed_bits() -> Image:
    """How signs become bytes: eight weights, their signs, their bits, one byte; and what a matrix
    takes in float32, with one bit and with two bits a weight and one scale."""
    bits = (WEIGHTS > 0).astype(int)
    (byte,) = pack_codes(np.sign(WEIGHTS), 1)
    places = 2 ** np.arange(8)[::-1]
    total = f"{' + '.join(map(str, places[bits == 1]))} = {byte}"
    with sheet(7, 5.7) as axes:
        for y, name in ((5.4, "weights"), (4.9, "signs"), (4.4, "bits"), (3.45, "one byte")):
            label(axes, 0.15, y, name, ha="left")
        for k, (weight, bit, place) in enumerate(zip(WEIGHTS, bits, places, strict=True)):
            x = 1.55 + 0.66 * k
            box(axes, x, 5.4, 0.66, 0.4, f"{weight:.2f}".replace("-", "−"))
            box(axes, x, 4.9, 0.66, 0.4, "−+"[bit])
            box(axes, x, 4.4, 0.66, 0.4, facecolor="0.3" if bit else "white")
            label(axes, x, 4.4, "01"[bit], weight="bold", color="white" if bit else INK)
            label(axes, x, 4.07, f"{place}", size=10, color="0.35")
        arrow(axes, (3.86, 3.92), (3.86, 3.65))
        box(axes, 3.86, 3.45, 5.28, 0.4, total)
        label(axes, 0.15, 2.85, f"A matrix of {SIDE} × {SIDE} weights, in proportion",
              ha="left", weight="bold")
        for y, name, width in ((2.4, "float32", 32), (1.85, "1 bit", 1), (1.3, "2 bits", 2)):
            label(axes, 0.15, y, name, ha="left")
            _bytes(axes, y, width)
        label(axes, 1.22, 0.72, "ternary codes  −1, 0, +1  are the bits  00, 01, 10:", ha="left",
              size=10.5)
        label(axes, 1.22, 0.4, "two bits a weight, four weights a byte", ha="left", size=10.5)
        floats, one, two = (_size(bits) for bits in (32, 1, 2))
        return finished(axes, (
            f"Eight weights, {', '.join(f'{weight:.2f}' for weight in WEIGHTS)}, become signs and "
            f"these bits, 1 for plus and 0 for minus: {byte:08b}, high bit first. As one byte that "
            f"is {total}. A matrix of {SIDE} by {SIDE} weights takes {floats:,} bytes in float32, "
            f"{one:,} bytes of codes and 4 of the one scale with one bit a weight, {two:,} and 4 "
            "with two. Ternary codes -1, 0, +1 are the bits 00, 01, 10."))


def _size(bits):
    """The bytes of a matrix with so many bits a weight."""
    return SIDE**2 * bits // 8


def _bytes(axes, y, bits):
    """The bar of a matrix of codes; its scale would be too thin to be seen."""
    width = 5.28 * _size(bits) / _size(32)
    box(axes, 1.22 + width / 2, y, width, 0.36, **(
        {"facecolor": "0.85"} if bits == 32 else QUANTIZED))
    if bits == 32:
        label(axes, 3.86, y, f"{SIDE**2:,} × 4 = {_size(bits):,} bytes")
    else:
        label(axes, 1.3 + width, y, f"codes {_size(bits):,} + one scale 4 = "
              f"{_size(bits) + 4:,} bytes, {_size(32) / (_size(bits) + 4):.3g} times fewer",
              ha="left")


def lookup(inputs: Sequence[float] = (3, 1, 5, 10),
           rows: Sequence[Sequence[int]] = ((1, 1, 0, 0), (0, 1, 1, 0), (1, 0, 1, 1))) -> Image:
    """One-bit products by lookup. Four inputs have 16 signed sums, and the four bits of a row say
    which of them is its product.

    Args:
        inputs: The four inputs a, b, c, d.
        rows: The four bits of each row of the matrix, 1 for +1 and 0 for -1, that of a first.
    """
    codes = [bits[::-1] for bits in itertools.product((0, 1), repeat=4)]  # a changes the fastest
    sums = [sum(x if bit else -x for x, bit in zip(inputs, bits, strict=True)) for bits in codes]
    colors = {tuple(bits): color for bits, color in zip(
        rows, itertools.cycle([BLUE, RED, GREEN]), strict=False)}
    top = 0.8 + 0.5 * len(rows)
    with sheet(7, top + 1.2) as axes:
        label(axes, 1.1, top + 1, "inputs", size=10.5)
        label(axes, 4.4, top + 1, "their 16 signed sums, computed once", size=10.5)
        for k, (name, value) in enumerate(zip("abcd", inputs, strict=True)):
            box(axes, 0.65 + 0.3 * k, top, 0.3, 0.34, f"{value:g}", facecolor=PALE)
            label(axes, 0.65 + 0.3 * k, top + 0.29, name, style="italic")
            label(axes, 1.86, top + 0.74 - 0.15 * k, name, style="italic", size=9.5)
        size = min(8.5, 26 / max(len(f"{value:g}") for value in sums))
        for k, (bits, value) in enumerate(zip(codes, sums, strict=True)):
            weight = "bold" if bits in colors else "normal"
            found = {"edgecolor": colors[bits], "linewidth": 2.5, "facecolor": PALE,
                     "zorder": 3.5} if bits in colors else {}
            box(axes, _place(k), top, 0.31, 0.34, **found)
            label(axes, _place(k), top, f"{value:g}".replace("-", "−"), size=size, weight=weight)
            for j, bit in enumerate(bits):
                label(axes, _place(k), top + 0.74 - 0.15 * j, f"{bit}", size=9.5, weight=weight)
        for r, bits in enumerate(map(tuple, rows)):
            end = _place(codes.index(bits)), top - 0.17
            _row(axes, r, bits, top - 0.6 - 0.5 * r, end, colors[bits])
        label(axes, 0.5, 0.25, "1 is +, 0 is −", ha="left", size=10.5)
        products = ", ".join(f"{sums[codes.index(tuple(bits))]:g}" for bits in rows)
        return finished(axes, (
            f"Products by lookup. The four inputs {', '.join(f'{x:g}' for x in inputs)} have 16 "
            "signed sums, which are computed once and stand in a table. The four bits of each row "
            f"of the matrix, 1 for plus and 0 for minus, point to its product: {products}."))


def _place(k):
    return 2.12 + 0.31 * k


def _row(axes, r, bits, y, end, color):
    label(axes, 0.44, y, f"row {r + 1}", ha="right", size=10)
    for k, bit in enumerate(bits):
        box(axes, 0.65 + 0.3 * k, y, 0.3, 0.34, facecolor="0.3" if bit else "white")
        label(axes, 0.65 + 0.3 * k, y, "01"[bit], color="white" if bit else INK)
    signs = " ".join("−+"[bit] + name for bit, name in zip(bits, "abcd", strict=True))
    arrow(axes, (1.7, y), (end[0], y), end, color=color, linewidth=2, over=True)
    label(axes, 1.8, y + 0.13, signs, ha="left", size=9.5, style="italic")
