"""The diagrams of the lessons: what they say is so, and they say it in words too."""

import io

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from qlstm.course import pictures
from qlstm.course.pictures import drawing, gradients, network, weights
from qlstm.packing import pack_codes
from qlstm.recurrence.cell import lstm_step
from qlstm.report import page

NORMS = {"grows": np.geomspace(1e8, 1, 30), "stays": [float("inf"), 0.0, 2.0, 1.0]}
DIAGRAMS = [name for name in pictures.__all__ if name != "growth"]


@pytest.fixture
def drawn(monkeypatch):
    """The sheet that a diagram is drawn on, by its function's name and arguments."""

    def sheet(name, *arguments):
        for module in (network, gradients, weights):
            monkeypatch.setattr(module, "finished", lambda axes, alt: axes)
        return getattr(pictures, name)(*arguments)

    return sheet


@pytest.fixture
def texts(drawn):
    """What a diagram says."""
    return lambda name: [text.get_text() for text in drawn(name).texts]


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_is_a_picture_with_words_that_fits_its_page(name):
    image = getattr(pictures, name)()
    data, metadata = image._repr_mimebundle_()
    assert set(data) == {"image/png"}
    assert metadata["image/png"]["width"] == 720
    assert 100 < len(metadata["image/png"]["alt"]) < 700
    shown = Image.open(io.BytesIO(image.data)).convert("L")
    assert shown.width == 1400
    margins = np.asarray(shown)[[0, -1]], np.asarray(shown)[:, [0, -1]]
    assert all((margin == 255).all() for margin in margins)  # nothing is cut off
    assert len(image.data) < 60_000


def test_an_animation_is_complete_where_nothing_moves():
    image = pictures.growth(NORMS, title="Two networks")
    shown = Image.open(io.BytesIO(image.data))
    assert shown.n_frames == 1 + gradients.MOVES <= 25
    assert (shown.default_image, shown.info["loop"]) == (True, 1)
    frames = []
    for k in range(shown.n_frames):
        shown.seek(k)
        frames.append(np.asarray(shown.convert("L")))
    complete, *moving = frames
    assert np.array_equal(moving[-1], complete)
    ink = [(frame < 200).sum() for frame in moving]
    assert ink == sorted(ink)
    assert ink[0] < ink[-1]
    first = np.flatnonzero((moving[0] != moving[-1]).any(0))  # what is drawn last
    some = np.flatnonzero((moving[12] != moving[-1]).any(0))
    assert first.min() == some.min()
    assert some.max() < first.max()
    assert len(image.data) < 150_000


def test_an_animation_says_where_each_network_ends():
    words = pictures.growth(NORMS | {"nothing": [0.0]}).metadata["alt"]
    assert "grows: 1.0e+00 at step 30, then 1.0e+08 at step 1." in words
    assert "stays: 1.0e+00 at step 4, then 2.0e+00 at step 3." in words
    assert "nothing: nothing to draw." in words


def test_the_factors_of_the_gradients_ways_are_those_of_autograd(texts):
    torch.manual_seed(0)
    d = 4
    w = torch.randn(4, d, d, dtype=torch.double)  # of i, f, a, o
    h, c = torch.randn(2, d, dtype=torch.double).requires_grad_().unbind(0)
    products = torch.einsum("gij,j->gi", w, h) + 1
    h_t, c_t = lstm_step(products[None], c, lambda c, t: c, 0)
    above_h, above_c = torch.randn(2, 1, d, dtype=torch.double)
    expected = torch.autograd.grad([h_t, c_t], [h, c], [above_h, above_c])

    value = {"c_{t-1}": c, r"\tanh(c_t)": c_t.tanh(), r"\mathrm{tanh}'(c_t)": 1 - c_t.tanh() ** 2}
    for gate, x in zip("ifao", products, strict=True):
        value |= {rf"\sigma(\tilde {gate})": x.sigmoid(), rf"\tanh(\tilde {gate})": x.tanh(),
                  rf"\sigma'(\tilde {gate})": x.sigmoid() * (1 - x.sigmoid()),
                  rf"\mathrm{{tanh}}'(\tilde {gate})": 1 - x.tanh() ** 2}

    def times(gradient, factors):
        for factor in factors:
            gradient = gradient * value[factor]
        return gradient

    d_c = above_c + times(above_h, gradients.ACROSS)
    d_h = sum(times(above_h if gate == "o" else d_c, way) @ w["ifao".index(gate)]
              for gate, way in gradients.WAYS.items())
    torch.testing.assert_close((d_h[0], times(d_c, gradients.STRAIGHT)[0]), expected)

    said = " ".join(texts("gradient_paths"))
    for factors in (*gradients.WAYS.values(), gradients.STRAIGHT, gradients.ACROSS):
        assert r"\odot\ " + r"\,".join(factors) in said
    assert all(rf"$W_{{h{gate}}}^\top$" in said for gate in "ifao")


def test_the_cell_has_eight_matrices_and_eight_normalized_products(texts):
    said = texts("lstm_cell")
    assert {f"$W_{{{side}{gate}}}$" for side in "xh" for gate in "ifao"} < set(said)
    assert said.count("$N$") == 8 + 1  # and the legend
    assert (said.count(r"$\sigma$"), said.count("tanh")) == (3, 2)


def test_the_gradient_of_four_steps_has_a_name_between_any_two(texts):
    said = texts("unrolled")
    assert [said.count(f"$d{name}_{t}$") for name in "hc" for t in range(4)] == [1] * 8


def test_the_byte_is_the_one_that_a_packed_model_has(texts):
    (byte,) = pack_codes(np.sign(weights.WEIGHTS), 1)
    assert f"{byte:08b}" in pictures.packed_bits().metadata["alt"]
    said = texts("packed_bits")
    assert f"128 + 32 + 16 + 2 = {byte}" in said
    ternary = pack_codes(np.array([-1, 0, 1, -1]), 2)
    assert f"{ternary[0]:08b}" == "00011000"
    assert any("00, 01, 10" in text for text in said)
    for bits, total in ((1, 1254), (2, 2504)):
        codes = pack_codes(np.ones(weights.SIDE**2), bits)
        assert codes.nbytes + 4 == total
        assert any(f"= {total:,} bytes" in text for text in said)


def test_a_lookup_points_to_each_rows_product(drawn):
    inputs, rows = (0.5, 2, -1, 0.25), ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 1))
    assert "point to its product: -1.75, 1.75, 2.75." in pictures.lookup(
        inputs, rows).metadata["alt"]
    axes = drawn("lookup", inputs, rows)
    below = {}  # the bold texts of a column: four bits from above, the sum
    for text in sorted(axes.texts, key=lambda text: -text.get_position()[1]):
        if text.get_weight() == "bold":
            below.setdefault(text.get_position()[0], []).append(text.get_text())
    assert len(below) == 3
    for line, row, product in zip(axes.lines, rows, ["−1.75", "1.75", "2.75"], strict=True):
        assert below[line.get_xdata()[-1]] == [*map(str, row), product]
    first, last, tenth = (line.get_xdata()[-1] for line in axes.lines)
    assert (tenth - first) / (last - first) == pytest.approx(10 / 15)  # a is the lowest bit


def test_the_look_of_a_lesson_stays_and_leaves_the_diagrams_alone():
    from matplotlib import rcParams

    plain = pictures.lstm_cell().data
    before = dict(rcParams)
    rcParams.update({"font.size": 30, "figure.dpi": 40, "patch.linewidth": 9})
    try:
        assert pictures.lstm_cell().data == plain
        assert rcParams["font.size"] == 30
    finally:
        rcParams.update(before)


def test_a_page_takes_the_words_of_a_picture_before_those_around_it(tmp_path):
    outputs = [nbformat.v4.new_output("execute_result", {"image/png": ""}, metadata=metadata)
               for metadata in ({"image/png": {"alt": "Eight boxes."}}, {})]
    cells = [nbformat.v4.new_markdown_cell("# Title\n\nA sentence."),
             *(nbformat.v4.new_code_cell("x", outputs=[output]) for output in outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "n.ipynb")
    _, own, around = page.read(tmp_path / "n.ipynb").cells
    assert own.metadata.alt == own.metadata.mystnb.image.alt == "Eight boxes."
    assert around.metadata.alt == "Title. A sentence."


def test_colours_differ_in_grey():
    light = [drawing.QUANTIZED["facecolor"], drawing.NORMALIZED["facecolor"]]
    grey = [np.dot([int(color[k : k + 2], 16) for k in (1, 3, 5)], [0.299, 0.587, 0.114])
            for color in (*light, drawing.BLUE, drawing.RED)]
    assert min(grey[:2]) - max(grey[2:]) > 90  # letters and borders on their ground
