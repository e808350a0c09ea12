"""Figures from made-up records: panels, lines, titles."""

import numpy as np
import pytest
from made_up import everything, made_up, paper, quick

from qlstm.report import figures, overview
from qlstm.study.grid import ARTEFACTS


@pytest.fixture(scope="module")
def texts():
    return [*everything(steps=5), *everything("python_help_words", steps=5)]


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if name.startswith("figure")])
def test_every_figure_is_made_from_records(name, texts):
    figure = figures.figure(texts, name)
    panels = ARTEFACTS[name]
    rows = [row for panel in panels for row in panel.rows]
    assert len(figure.axes) == len(rows)
    title = figure.get_suptitle()
    assert title.startswith(figures.NAMES[name])
    assert title.count("reduced") == title.count("in place of") == len(panels)
    if panels[0].task == "word_lm":
        assert f"d = {128 if panels[0].variant == 'large' else 300}" in title
    titles = [axis.get_title() for axis in figure.axes]
    for quantizer, normalizer in rows:
        assert any(text.startswith(figures.model_name(quantizer, normalizer)) for text in titles)


def test_a_figure_is_saved_for_screen_and_print(texts, tmp_path):
    figures.save(figures.figure(texts, "figure_04"), tmp_path, "figure_04")
    assert (tmp_path / "figure_04.png").stat().st_size > 10_000
    assert (tmp_path / "figure_04.pdf").read_bytes().startswith(b"%PDF")


def test_figure_4_tells_characters_and_words_apart(texts):
    titles = {axis.get_title() for axis in figures.figure(texts, "figure_04").axes}
    assert titles == {"BWN, characters", "LAB, characters", "BWN, words", "LAB, words"}


def test_every_figure_of_the_paper_has_a_name_and_a_caption():
    assert (set(figures.NAMES) == set(figures.CAPTIONS) == set(figures.QUESTIONS)
            == {name for name in ARTEFACTS if name.startswith("figure")})
    assert set(figures.NAMES) <= set(overview.FIGURES)


def test_gradient_lines_show_the_norms_in_thousandths():
    figure = figures.figure([made_up(quick("binary_connect", steps=5), rate=2.0)], "figure_06")
    assert [axis.get_title() for axis in figure.axes] == [
        f"BC, {when}" for when in figures.MOMENTS.values()]
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_ydata())]
    assert len(lines) == 20  # ten samples, two losses
    ends = sorted(line.get_ydata()[-1] for line in lines)
    assert ends == pytest.approx(sorted([*range(1, 11)] * 2))
    assert max(line.get_ydata()[0] for line in lines) == pytest.approx(10 * 2**4)
    assert figure.axes[0].get_yscale() == "log"


def test_gradients_from_one_end_of_the_numbers_to_the_other_are_drawn(tmp_path):
    record = made_up(quick("binary_connect", steps=100))
    lines = record["traces"]["gradient_norms"]["initial"]["last_step"]
    lines[0][:] = [1e283, 1.0, 1e-300]
    figure = figures.gradient_norms({("binary_connect", "none"): record})
    figure.savefig(tmp_path / "figure.png")  # the ticks are made here
    assert figure.axes[0].get_ylim() == figures.DRAWN
    lines[0][:] = [1e3, 1.0, 1e-3]
    assert figures.gradient_norms({("binary_connect", "none"): record}).axes[0].get_ylim()[1] < 1e10


def test_lambda_by_epoch_is_a_panel_a_model_with_two_lines():
    runs = [made_up(quick("binary_connect", n), lambdas=(1.5, 6.0)) for n in ("none", "layer")]
    figure = figures.lambda_by_epoch(
        [*runs, made_up(quick("binary_connect", seed=1), lambdas=(2.5, 8.0))])
    assert {axis.get_title() for axis in figure.axes} == {"BC", "BC+LN"}
    plain = next(axis for axis in figure.axes if axis.get_title() == "BC")
    heights = {tuple(line.get_ydata()) for line in plain.get_lines()}
    assert {(2.0,) * 3, (7.0,) * 3, (1, 1)} <= heights  # means over seeds, and the line at 1


def test_gains_and_lambda_are_above_each_other():
    runs = [made_up(quick("binary_connect", n), gains=(1.0, 2.0, 3.0))
            for n in ("none", "weight", "layer")]
    figure = figures.gains_and_lambda(runs)
    assert len(figure.axes) == 2 * 2  # what has no gains has no column
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["g$_*$", "λ$_1$"]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [1.0, 2.0, 3.0]


def test_growth_and_lambda_is_a_point_a_network_and_moment():
    runs = [
        made_up(quick("binary_connect", n), rate=1.3, lambdas=(1.0, 4.0)) for n in ("none", "layer")
    ]
    figure = figures.growth_and_lambda(runs)
    points = figure.axes[0].collections[0].get_offsets()
    assert len(points) == 6
    assert np.allclose(points, [4.0, 1.3])
    assert {"none", "layer", "at initialization"} <= {
        text.get_text() for text in figure.legends[0].get_texts()}


def test_settings_that_differ_in_scale_alone_stay_apart():
    runs = [made_up(quick("binary_connect", hidden_size=d), 2.0) for d in (96, 128)]
    assert len(figures.lambda_by_epoch(runs[:1]).axes) == 1
    assert len(figures.lambda_by_epoch(runs).axes) == 2


# the main result

QUANTIZED = [("binary_connect", n) for n in ("none", "weight", "layer", "batch_shared")]


def texts_of(axis):
    return [text.get_text() for text in axis.texts]


def of_words(**tests):
    """Runs at the paper's scale (words, d = 300): full precision 86, and BinaryConnect."""
    runs = [made_up(paper("penn_word"), 86.0)]
    return runs + [made_up(paper("penn_word", "binary_connect", n), test or 2.0,
                           diverged=test is None) for n, test in tests.items()]


def test_the_main_result_shows_what_fails_and_the_papers_numbers():
    found = of_words(none=8000.0, weight=90.0, layer=None)
    (axis,) = figures.main_result(found).axes
    assert axis.get_title(loc="left") == "Penn Treebank (words), d = 300"
    assert axis.get_xlabel() == "test perplexity  (← lower is better)"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["none", "weight", "layer"]
    assert set(texts_of(axis)) >= {"86.0 (91.5)", "8000 (8247)", "90.0 (87.6)", "diverged (89.4)"}
    bold = {text.get_text() for text in axis.texts if text.get_fontweight() == "bold"}
    assert bold == {"8000 (8247)", "diverged (89.4)"}
    assert len(axis.patches) == 2  # red ground behind these
    assert axis.get_xscale() == "log"


def test_the_main_result_has_a_panel_a_task_and_no_empty_places():
    runs = [made_up(quick(q, n, dataset=name), 50.0) for name in ("python_help", "digits")
            for q, n in [("full_precision", "none"), *QUANTIZED]]
    figure = figures.main_result([*runs, made_up(quick("ter_connect"), 49.0)])
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        "Python's help text, d = 128", "handwritten digits, 8 x 8, d = 64"]
    assert "reduced" in texts_of(figure.axes[0])[-1]
    rows = [sum(line.get_marker() != "None" for line in axis.get_lines()) for axis in figure.axes]
    assert rows == [6, 5]
    assert "higher is better" in figure.axes[1].get_xlabel()
    (legend,) = figure.legends
    assert [text.get_text().partition(" (")[0] for text in legend.get_texts()] == [
        "full precision", "BinaryConnect", "TerConnect"]
    with pytest.raises(LookupError):
        figures.main_result([made_up(quick("bwn"))])


def test_a_number_off_the_axis_is_an_arrow():
    tests = {"none": 2.0, "weight": 300.0}
    runs = [made_up(quick(), 2.0), *(made_up(quick("binary_connect", n), test)
                                     for n, test in tests.items())]
    (axis,) = figures.main_result(runs).axes
    assert [line.get_marker() for line in axis.get_lines() if line.get_marker() != "None"] == [
        "o", "s", ">"]
    assert "300.00" in texts_of(axis)
    assert axis.get_xlim()[1] < 20


def test_seeds_are_dots_and_a_failed_row_has_their_range():
    tests = [120.0, 7000.0, 140.0]
    runs = of_words(weight=90.0) + [made_up(paper("penn_word", "binary_connect", seed=seed), test)
                                    for seed, test in enumerate(tests)]
    (axis,) = figures.main_result(runs).axes
    assert "120 to 7000 (8247)" in texts_of(axis)
    dots = [line for line in axis.get_lines() if line.get_markersize() == 4]
    assert [line.get_marker() for line in dots] == ["s", ">", "s"]
    assert [line.get_xdata()[0] for line in dots][::2] == tests[::2]
    assert 140 < dots[1].get_xdata()[0] < 150  # the end of an axis on which 86 and 90 are apart


def test_the_main_sentence_is_made_from_the_numbers():
    told = figures.main_sentence(of_words(none=135.0, weight=89.8, layer=92.3))
    assert told == ("Without normalization BinaryConnect fails on words (perplexity 135 beside "
                    "86.0 of full precision); with normalization (weight, layer) it ends at 89.8 "
                    "to 92.3, at 1/25 to 1/28 of the size.")
    # the numbers and the sizes are of the same rows
    rows = {"none": 135.0, "weight": 89.8, "batch_shared": 91.9}
    assert figures.main_sentence(of_words(**rows, batch_separate=92.3)) == (
        figures.main_sentence(of_words(**rows)))
    assert figures.main_sentence(of_words(**rows, batch_separate=200.0)).endswith(
        "but fails with batch (separate) normalization on words (200).")
    told = figures.main_sentence(of_words(none=90.0, weight=120.0))
    assert told.startswith("Without normalization BinaryConnect does not fail on words (perplexity "
                           "90.0 beside 86.0")
    assert told.endswith("but fails with weight normalization on words (120).")
    assert figures.main_sentence([]).startswith("No run tells yet")


def of_quick(dataset, **tests):
    """Runs of the profile quick: full precision as ``plain``, and BinaryConnect."""
    plain = made_up(quick(dataset=dataset), tests.pop("plain"))
    return [plain, *(made_up(quick("binary_connect", n, dataset=dataset), test)
                     for n, test in tests.items())]


def test_the_main_sentence_of_several_tasks():
    words = of_quick("python_help_words", plain=86.0, none=90.0)
    images = of_quick("digits", plain=90.0, none=20.0)
    told = figures.main_sentence([*words, *images])
    assert "fails on images (20.0 % right beside 90.0 % of full precision) but does not" in told
    # nothing reduced stands beside the paper's scale
    assert figures.main_sentence([*of_words(none=90.0), *images]) == figures.main_sentence(
        of_words(none=90.0))
    assert "images" in figures.main_sentence([*of_words(weight=90.0), *images])
    words = of_quick("python_help_words", plain=86.0, none=90.0, layer=89.0)
    images = of_quick("digits", plain=90.0, none=20.0, weight=88.0, batch_separate=89.0)
    told = figures.main_sentence([*words, *images])
    assert "it ends at 89.0 on words (layer) and 88.0 on images (weight), at 1/11 to" in told
    assert "images" not in figures.main_sentence(
        [*words, *of_quick("digits", plain=20.0, none=8.0)])


def test_the_main_result_prefers_the_papers_scale_then_what_has_both_rows():
    small = [made_up(quick(q, n, dataset="python_help_words"), 99.0)
             for q, n in [("full_precision", "none"), *QUANTIZED]]
    def titles(found):
        return [axis.get_title(loc="left") for axis in figures.main_result(found).axes]
    assert titles([*small, *of_words(none=135.0)]) == ["Penn Treebank (words), d = 300"]
    assert titles([*small, *of_words(weight=90.0)]) == ["Python's help text (words), d = 300"]
    gru = made_up(quick("binary_connect", cell="gru"))
    assert titles([*small, gru]) == ["Python's help text (words), d = 300"]
