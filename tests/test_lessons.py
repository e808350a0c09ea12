"""The numbers in the lessons' prose: each is one that a cell of its lesson has or shows."""

import math
import re

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest

from qlstm.course import demos, handouts
from qlstm.course.exercises import judge
from qlstm.report import tables, verdicts
from qlstm.report.figures import model_name
from qlstm.study import records

LESSONS = {path.stem: nbformat.read(path, as_version=4) for path in [
    *handouts.lessons(), *handouts.LEARN.glob("02b_*.ipynb")]}

NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
UNCHECKED = "|".join([
    r"(?:^|\n)## References.*",
    r"<details>\s*<summary>(?:(?!</summary>).)*</summary>\s*No\b.*?</details>",  # a wrong option
    r"`[^`\n]*`", r"\]\([^)]*\)", r"https?://\S+", r"<[^>]+>",  # code, addresses
    r"[\^_]\{[^{}]*\}", r"[\^_]\d+", r"\*\*\d\.\d\*\*",  # indices, exponents, an exercise
    r"(?i:lessons?|tables?|sections?|figures?|equations?|propositions?|exercises?|seeds?)"
    rf"[\s(]+{NUMBER}(?:(?:,| and| to|–)\s*{NUMBER})*"])
A_NUMBER = re.compile(
    rf"(?<![\w.])(?<![A-Za-z]-)({NUMBER})(\s*\\?%| million|(?![\w.]*\d|[A-Za-z]))")


def numbers_in_prose(lesson):
    """Of what is measured, computed or chosen: ten and more, and all with a decimal point."""
    for cell in lesson.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"(\d)(?:\{,\}|\\,)(?=\d{3})", r"\1,", cell.source)
            text = re.sub(UNCHECKED, " ", text, flags=re.S)
            for match in A_NUMBER.finditer(text):
                word, unit = match.groups()
                if not re.fullmatch(r"(19|20)\d\d|\d", word):  # a year; "two", "three"
                    around = text[max(0, match.start() - 50) : match.end() + 30]
                    yield word, unit.strip(" \\\n"), " ".join(around.split())


def numbers_in_cells(lesson):
    """In the code, and in what is shown as text or table."""
    shown = []
    for cell in lesson.cells:
        if cell.cell_type == "code":
            data = [output.get("data", {}) for output in cell.outputs]
            shown += [cell.source, *(output.get("text", "") for output in cell.outputs),
                      *(each.get("text/plain", "") for each in data),
                      *(re.sub("<[^>]*>", " ", each.get("text/html", "")) for each in data)]
    words = re.findall(rf"{NUMBER}(?:e[+-]?\d+)?", "\n".join(shown).replace("_", ""))
    return {float(word.replace(",", "")) for word in words}


def unknown(lesson):
    """The numbers in the prose that no cell has, rounded as they are there."""
    known = numbers_in_cells(lesson)
    for word, unit, around in numbers_in_prose(lesson):
        value, half = float(word.replace(",", "")), 0.5 * 10 ** -len(word.partition(".")[2])
        scales = {1, {"%": 100, "million": 1e-6}.get(unit, 1)}
        if not any(abs(scale * number - value) < half * 1.001
                   for number in known for scale in scales):
            yield word, around


@pytest.mark.parametrize("name", LESSONS)
def test_the_numbers_in_the_prose_are_those_of_the_cells(name):
    assert dict(unknown(LESSONS[name])) == {}


@pytest.mark.parametrize(
    ("prose", "output", "found"),
    [("0.27 BPC worse", "0.274", []), ("0.28 BPC worse", "0.274", ["0.28"]),
     ("It takes 41 %.", "0.412", []), (r"It takes $41\,\%$", "0.43", ["41"]),
     ("2.6 million symbols", "2606596", []), ("2.7 million", "2606596", ["2.7"]),
     ("of 12,500 updates", "12,500 updates", []), ("1,000 and 200", "1000.0", ["200"]),
     ("$10\\,000$, $10{,}001$", "10_000", ["10,001"]), ("about 5e6", "5", []),
     ("in 2019, Table 12, Figures 10 and 11, lesson 13", "", []), ("two or 2 of them", "", []),
     ("`x = 0.5`, [a](17.html), $x_{17}^{18}$, $16d$, UTF-16, **6.1**", "", []),
     ("<details><summary>55</summary>No: 56</details> 57", "", ["57"]),
     ("<details><summary>55</summary>Right. 56</details>", "", ["55", "56"]),
     ("12\n\n## References\n- 1912.5, 300 pages", "", ["12"])])
def test_a_number_that_no_cell_has_is_found(prose, output, found):
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("stream", text=output)])
    lesson = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose), cell])
    assert [word for word, _ in unknown(lesson)] == found


def means_of_lesson_6():
    found = [records.load(path) for path in sorted((handouts.LEARN / "records").glob("*.json"))]
    summary = tables.over_seeds(tables.frame(found))
    names = [model_name(*row) for row in summary[["quantizer", "normalizer"]].to_numpy()]
    return summary["mean"].set_axis(names)


def test_the_answers_to_exercise_6_3_are_those_of_the_records():
    mean = means_of_lesson_6()
    right = {"against_plain": mean["BC+LN"] <= mean["full"],
             "against_normalized": mean["BC+LN"] <= mean["full+LN"]}
    assert judge("6.3", right).state == "right"


def test_the_demo_of_what_fails_follows_the_rule():
    mean = pd.Series({"full": 3.0, "good": 3.59, "limit": 3.6, "bad": 3.61, "diverged": math.nan})
    demos.judged(mean)
    shown = [text.get_text() for text in plt.gca().texts]
    plt.close()
    assert [words.partition(": ")[2] for words in shown] == [
        "fails" if verdicts.fails("bpc", each, 3.0) else "does not fail" for each in mean]
