"""The lessons as hand-outs: their parts, the checks before and after the solution."""

import re

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

from qlstm.course import demos, handouts
from qlstm.course.exercises import EXERCISES, judge

LESSONS = {path.stem: nbformat.read(path, as_version=4) for path in handouts.lessons()}


def of(lesson, tag):
    return [cell for cell in lesson.cells if handouts.tagged(cell, tag)]


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_what_each_lesson_has(name):
    lesson = LESSONS[name]
    text = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    for heading in ("# ", "## Imports and versions", "## Parameters", "## Exercises",
                    "## Common misconceptions", "## Summary", "## References"):
        assert re.search(f"^{heading}", text, re.M), heading
    counts = [len(of(lesson, tag)) for tag in ("exercise", "stub", "solution", "check")]
    assert 3 <= counts[0] <= 5
    assert len(set(counts)) == 1, counts
    for cell in of(
        lesson, "solution"
    ):  # JupyterLab shows a folded cell's first line; Shift+Enter runs it all the same
        assert cell.source.startswith("# Solution: running this replaces your answer\n")
    number = name[1]
    assert [cell.metadata["exercise"] for cell in of(lesson, "check")] == [
        f"{number}.{i + 1}" for i in range(counts[0])]
    stubs = "\n".join(cell.source for cell in of(lesson, "stub") + of(lesson, "solution"))
    defined = [c for c in lesson.cells
               if c.cell_type == "code" and re.search(r"^\s*(def|class) ", c.source, re.M)]
    assert all(cell.source in stubs for cell in defined), "only exercises define functions"
    links = re.findall(r"\]\((\d\d\w*\.ipynb)\)", text)
    assert all((handouts.LEARN / link).exists() for link in links), links
    (colab,) = of(lesson, "colab")
    assert "google.colab" in colab.source
    imports = next(cell for cell in lesson.cells if cell.source.startswith("import "))
    assert lesson.cells.index(colab) < lesson.cells.index(imports)


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_says_what_it_is_about_and_not_how_long_it_takes(name):
    first = LESSONS[name].cells[0].source
    assert first.startswith("# ")
    assert not re.search(r"\bminutes?\b|\bhours?\b", first)


@pytest.mark.parametrize("name", LESSONS)
def test_a_control_shows_what_it_begins_with_and_nothing_shows_it_again(name):
    code = [cell for cell in LESSONS[name].cells if cell.cell_type == "code"]
    controls = [cell for cell in code if handouts.tagged(cell, "widget")]
    assert controls
    for cell in controls:
        assert "demos.explore(" in cell.source
        assert handouts.tagged(cell, "nbval-ignore-output")
        shown = [output.data for output in cell.outputs if "data" in output]
        assert any("image/png" in data or data.get("text/plain") for data in shown), cell.source
        (function,) = set(re.findall(r"demos\.(?!explore|fixed)\w+", cell.source))
        below = code[code.index(cell) + 1 :][:1]
        assert not any(other.source.startswith(f"{function}(") for other in below)


@pytest.mark.parametrize("name", LESSONS)
def test_code_fits_a_page(name):
    long = [line for cell in LESSONS[name].cells if cell.cell_type == "code"
            for line in cell.source.splitlines() if len(line) > 80]
    assert not long


@pytest.mark.parametrize("name", LESSONS)
def test_five_questions_have_one_right_answer_each(name):
    (cell,) = of(LESSONS[name], "quiz")
    assert cell.cell_type == "markdown"
    assert cell.source.startswith("## Five quick questions\n")
    assert "$" not in cell.source
    questions = re.split(r"^\*\*(\d)\.", cell.source, flags=re.M)[1:]
    assert questions[::2] == ["1", "2", "3", "4", "5"]
    places = []
    for question in questions[1::2]:
        options = re.findall(r"<details>\s*<summary>(.+?)</summary>\s*(.+?)\s*</details>",
                             question, re.S)
        assert len(options) == question.count("<details") in (3, 4)
        right = [answer.startswith("Right. ") for _, answer in options]
        assert sum(right) == 1, question
        assert all(answer.startswith(("Right. ", "No: ")) for _, answer in options), question
        assert len({option for option, _ in options}) == len(options)
        places.append(right.index(True))
    assert len(set(places)) > 1


@pytest.mark.parametrize("name", LESSONS)
def test_references_have_a_year_and_a_link_each(name):
    text = "\n".join(cell.source for cell in LESSONS[name].cells)
    references = re.findall(r"^- .+", text.split("\n## References\n")[1], re.M)
    assert references
    for line in references:
        links = re.findall(r"\]\(https://\S+\)", line)
        years = re.findall(r"\b(?:19|20)\d\d\b", re.sub(r"\]\(\S+\)|arXiv:\S+", "", line))
        assert len(years) <= len(links), line
        assert links or "`" in line, line  # the code has neither


def test_every_exercise_has_one_check_and_every_check_an_exercise():
    used = [
        cell.metadata["exercise"] for lesson in LESSONS.values() for cell in of(lesson, "check")]
    assert sorted(used) == sorted(EXERCISES)


# What the exercises need of the cells before them; that these run is the lessons' own test (nbval).
NEEDED = {"01": "^import ", "02": "^import |^steps = ", "03": "^import |^d = |load_dataset",
          "04": "^import |^d = |^generator|^y = ", "05": "^import ",
          "06": "^import |^folder = |^paths = |tables.frame"}


@pytest.mark.parametrize("name", LESSONS)
def test_checks_fail_usefully_before_the_solution_and_pass_after_it(name, monkeypatch, capsys):
    """In this process, one version's exercises after the other's, as a student would run them."""
    monkeypatch.chdir(handouts.LEARN)
    threads, lesson, namespace = torch.get_num_threads(), LESSONS[name], {}
    first = next(i for i, cell in enumerate(lesson.cells) if handouts.tagged(cell, "exercise"))
    for cell in lesson.cells[:first]:
        if cell.cell_type == "code" and re.search(NEEDED[name[:2]], cell.source, re.M):
            exec(cell.source, namespace)
    for version, solved in ((handouts.handout, False), (handouts.solution, True)):
        cells = version(lesson).cells
        begin = next(i for i, cell in enumerate(cells) if handouts.tagged(cell, "exercise"))
        for cell in [cell for cell in cells[begin:] if cell.cell_type == "code"]:
            capsys.readouterr()
            exec(cell.source, namespace)
            if handouts.tagged(cell, "check"):
                exercise = cell.metadata["exercise"]
                line, tally = capsys.readouterr().out.splitlines()[-2:]
                told = "right. " if solved else r"not answered yet: `\w+` (is )?still (returns )?`"
                assert re.match(f"Exercise {exercise}: {told}", line)
                assert tally.startswith(f"Lesson {exercise[0]}: ")
    torch.set_num_threads(threads)


def test_the_journey_says_by_how_much_the_gradient_grows_a_step():
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(5, (2, 6, 3), generator=generator)
    demos.journey(*symbols, 5, hidden_size=4)
    title, line = plt.gca().get_title(), plt.gca().lines[0].get_ydata()
    plt.close()
    rate = (line[0] / line[-1]) ** (1 / 5)
    assert title == f"binary_connect, none, d = 4: times {rate:.2f} a step back"


@pytest.mark.parametrize(("bias", "half"), [(0, "1.0"), (1, "2.2"), (-200, "0.0"), (200, "inf")])
def test_the_memory_says_after_how_many_steps_a_half_is_left(bias, half):
    demos.memory(bias)
    title = plt.gca().get_title()
    plt.close()
    assert title.endswith(f": a half after {half} steps")


@pytest.mark.parametrize(
    ("growth", "words"),
    [(0.25, "from h to h"), (1, "comes back to c"), (1.5, "I/2"), (1.25, "has to be")])
def test_growth_along_the_cell_state(growth, words):
    """Exercise 3.5, whose second answer is wrong here."""
    assert words in judge("3.5", dict(growth=growth, possible=True)).message
