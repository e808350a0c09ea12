"""The numbers in the lessons' prose: each is one that a cell of its lesson has or shows."""

import re

import nbformat
import pytest

from qlstm.course import handouts

LESSONS = {path.stem: nbformat.read(path, as_version=4) for path in [
    *handouts.lessons(), *handouts.LEARN.glob("02b_*.ipynb")]}

NO_CELL: dict[str, dict[str, str]] = {}
"""By lesson the numbers that no cell can show, and where each is from. What a lesson can print does
not belong here; what its prose has no longer must go."""

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
    missing = dict(unknown(LESSONS[name]))
    excused = NO_CELL.get(name, {})
    assert {word: around for word, around in missing.items() if word not in excused} == {}
    assert set(excused) <= set(missing), "no longer needed in NO_CELL"
