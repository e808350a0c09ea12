"""The lessons as hand-outs: their parts, the checks before and after the solution, grading."""

import csv
import inspect
import json
import os
import re
from queue import Empty

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from nbclient import NotebookClient

from qlstm import quantizers
from qlstm.course import command, demos, grading, handouts
from qlstm.course.exercises import EXERCISES, NotYet, check
from qlstm.data import storage
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError

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
    for cell in of(lesson, "widget"):  # a plain cell after each control does the same without it
        assert "widgets." in cell.source
        assert not cell.outputs
        following = next(
            c for c in lesson.cells[lesson.cells.index(cell) + 1 :] if c.cell_type == "code")
        function = re.search(r"demos\.\w+", cell.source)[0]
        assert function in following.source
    assert of(lesson, "widget")
    stubs = "\n".join(cell.source for cell in of(lesson, "stub") + of(lesson, "solution"))
    defined = [c for c in lesson.cells
               if c.cell_type == "code" and re.search(r"^\s*(def|class) ", c.source, re.M)]
    assert all(cell.source in stubs for cell in defined), "only exercises define functions"
    links = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", text)
    assert all((handouts.LEARN / link).exists() for link in links), links


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
            if solved or not handouts.tagged(cell, "check"):
                exec(cell.source, namespace)
            else:
                with pytest.raises(NotYet, match=rf"^Exercise {cell.metadata['exercise']}: .*`\w+"):
                    exec(cell.source, namespace)
            if solved and handouts.tagged(cell, "check"):
                assert capsys.readouterr().out.startswith(
                    f"Exercise {cell.metadata['exercise']}: right. ")
    torch.set_num_threads(threads)


def test_a_notebook_shows_one_line_and_no_stack():
    source = "from qlstm.course import exercises\nexercises.check('1.2', steps=...)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=120, allow_errors=True).execute()
    (error,) = notebook.cells[0].outputs
    assert (error.ename, len(error.traceback)) == ("NotYet", 1)
    assert error.traceback[0].startswith("Exercise 1.2: `steps` is still `...`.")


def lookups(signs, together=lambda sums: sums.sum(1), fours=lambda x: x.view(-1, 4)):
    """An answer to exercise 5.5 from the ``signs`` (16, 4) of the bits, the sum ``together`` of
    what is looked up, (m, n / 4), and the inputs by ``fours``."""
    bits = (torch.arange(16)[:, None] >> torch.arange(4) & 1).float()

    def products(index, x):
        sums = fours(x) @ signs(bits).T
        return together(sums[torch.arange(len(sums)), index])

    return products


@pytest.mark.parametrize(
    ("name", "answers", "words"),
    [
        ("1.1", dict(uniform=0.75, normal=0.36), "share that is kept"),
        ("1.1", dict(uniform="a quarter", normal=0.36), "should be one number; it is of type str"),
        ("1.2", dict(steps=25), "still positive"),
        ("1.2", {}, "`steps` is still `...`"),
        ("2.1", dict(parameters=1_155_072), "`parameters` = 1,155,072: that is nn.LSTM's"),
        ("1.3", dict(ternary=lambda w: quantizers.ter_connect(w).dense()), "multiply by the scale"),
        ("1.3", dict(ternary=lambda w: w.nonsense), "`ternary` raised AttributeError"),
        ("1.3", dict(ternary=lambda w: None), "should end with `return`"),
        ("1.3", dict(ternary=lambda w: w[0]), "shape (6,); it should have (6, 6)"),
        ("1.3", dict(ternary=3), "should be a function"),
        ("2.2", dict(step=lambda gates, c: (c, c)), "`c`"),
        ("2.2", dict(step=lambda gates, c: c), "should return h and c"),
        ("3.1", dict(bwn="grows", ter_connect="explodes"),
         "one of 'explodes', 'stays', 'vanishes'"),
        ("4.1", dict(layer=3, batch=0), "Time is no part of it"),
        ("4.1", dict(layer=[3], batch=1), "axis as a number"),
        ("4.2", dict(weight_norm=lambda w, g: g[:, None] * w / w.norm(dim=1, keepdim=True)), "NaN"),
        ("5.2",
         dict(bpc=lambda x, y: torch.nn.functional.cross_entropy(x.flatten(0, 1), y.flatten())),
         "in nats"),
        ("5.5", dict(products=lookups(lambda bits: bits)), "a bit of 0 is -1, not 0"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits.flip(1) - 1)), "the lowest bit"),
        ("5.5", dict(products=lookups(lambda bits: 1 - 2 * bits)), "the other way round"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits - 1, lambda sums: sums)),
         "add up those of a row"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits - 1, lambda sums: sums[:, 0])),
         "the first four inputs"),
        ("5.5", dict(products=lookups(lambda bits: 2 * bits - 1, fours=lambda x: x.view(4, -1).T)),
         "stand side by side"),
        ("6.1", dict(half_width=lambda v: 1.959964 * 0.158114 / 5**0.5), "Student's t"),
        ("6.4", dict(share=0.7, values=[1.0, 1.03, 1.01]), "too large"),
    ],
)
def test_a_wrong_answer_is_told_what_to_look_at(name, answers, words):
    with pytest.raises(NotYet, match=re.escape(words)) as caught:
        check(name, **answers)
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_the_figure_of_a_lookup_points_to_each_rows_product():
    inputs, rows = (0.5, 2, -1, 0.25), ((0, 0, 0, 0), (1, 1, 1, 1), (0, 1, 0, 1))
    demos.lookup(inputs, rows)
    axes = plt.gca()
    cells = [text for text in axes.texts if text.get_weight() == "bold"]
    found = {a.get_position()[0]: a.get_text() for a in cells if a.get_position()[1] < 1}
    named = {b.get_position()[0]: b.get_text() for b in cells if b.get_position()[1] > 1}
    plt.close()
    assert {named[x]: float(text.replace("−", "-")) for x, text in found.items()} == {
        "0000": -1.75, "1111": 1.75, "0101": 2.75}
    for line, row in zip(axes.lines, rows, strict=True):
        assert named[line.get_xdata()[-1]] == "".join(map(str, row))


def test_an_unknown_exercise_is_named():
    with pytest.raises(ConfigError, match=r"unknown exercise '1\.9'"):
        check("1.9")


def test_checks_take_numbers_of_any_kind():
    check("1.2", steps=torch.tensor(26))
    check("1.4", size=2504.0)
    assert all(inspect.signature(function).parameters for function in EXERCISES.values())


def test_grading_runs_the_students_notebook_with_the_lessons_checks(tmp_path):
    """Lesson 2, where 2.1 is right, 2.2 raises, 2.3 is wrong with its check removed, and 2.4 is not
    there."""
    (lesson,) = [lesson for name, lesson in LESSONS.items() if name.startswith("02")]
    student = handouts.handout(lesson)
    student.cells = [c for c in student.cells if c.cell_type == "code" and c.id != "check-2-4"]
    answers = {"parameters": "parameters = 1153024",
               "def step": "def step(gates, c):\n    return nonsense",
               "steps_to_half": "steps_to_half = 6"}
    for cell in student.cells:
        for start, answer in answers.items():
            if handouts.tagged(cell, "stub") and cell.source.startswith(start):
                cell.source = answer
        if cell.id == "check-2-3":
            cell.source = "print('Exercise 2.3: right.')"
    path = tmp_path / "02_the_lstm-ada.ipynb"
    nbformat.write(student, path)
    found = grading.grade(path)
    assert found["2.1"] == "right"
    assert "`step` raised" in found["2.2"]
    assert "more than half" in found["2.3"]
    assert found["2.4"] == "the check's cell is missing"


def test_grading_names_a_file_of_no_lesson(tmp_path, capsys):
    (tmp_path / "homework.ipynb").write_text("{}")
    assert command.main(["grade", str(tmp_path / "homework.ipynb")]) == 1
    error = capsys.readouterr().err
    assert "homework.ipynb: its name begins with none of 01_quantizers" in error
    assert len(error.strip().splitlines()) == 1


@pytest.fixture
def small_lesson(tmp_path, monkeypatch):
    """A lesson "01" of exercises "1" to "9" that need no torch: the answer to "3" is x3 = 3."""
    cells = [nbformat.v4.new_code_cell(f"assert x{n} == {n}, 'wrong'", id=f"check-{n}",
                                       metadata={"tags": ["check"], "exercise": f"{n}"})
             for n in range(1, 10)]
    path = tmp_path / "lesson" / "01.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(grading, "lessons", lambda: [path])
    monkeypatch.setattr(grading, "copy_materials", lambda place: place.mkdir())
    odd = {"exercise": "n", "tags": None}
    return [{"cell_type": "code", "source": cell.source, "metadata": odd} for cell in cells]


def test_grading_survives_what_students_run(tmp_path, small_lesson, monkeypatch):
    """In one kernel, of a notebook for another language whose cells have neither ids nor outputs:
    a cell that asks, one that never ends, one that floods the output, the memory, the disk, one
    that leaves, one that kills the kernel."""
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "own"))
    startup = tmp_path / "own" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("x9 = 9")
    answers = [
        "import resource\nresource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\nx1 = 1",
        "x2 = input()", "while True:\n    x3 = 3",
        "for i in range(20_000):\n    print('flood' * 100)\nx4 = 4\n'x' * 10**7",
        "x5 = bytearray(2**31)", "with open('large', 'wb') as file:\n    file.truncate(2**31)",
        "import sys\nx7 = 7\nsys.exit(1)", "assert 'x9' not in vars()\nimport os\nos._exit(1)", ""]
    cells = [cell for answer, check in zip(answers, small_lesson, strict=True)
             for cell in ({"cell_type": "code", "source": answer}, check)]
    path = tmp_path / "01-ada.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": {"name": "julia"}}}))
    found = grading.grade(path, timeout=2)
    assert {exercise: outcome.split(" (")[0] for exercise, outcome in found.items()} == {
        "1": "right", "2": "NameError: name 'x2' is not defined", "3": "right", "4": "right",
        "5": "NameError: name 'x5' is not defined", "6": "NameError: name 'x6' is not defined",
        "7": "right", "8": "not reached: the code cell 15 ended the kernel",
        "9": "not reached: the code cell 15 ended the kernel"}


def test_a_cell_that_cannot_be_interrupted_ends_the_notebook(monkeypatch):
    class Stubborn:
        interrupts = 0

        def is_alive(self):
            return True

        def interrupt_kernel(self):
            self.interrupts += 1

        def execute(self, source, **_):
            return source

        def get_shell_msg(self, timeout):
            raise Empty

    monkeypatch.setattr(grading, "STOPPING", 0)
    assert grading._reply(kernel := Stubborn(), kernel, "while True: ...", timeout=0) is None
    assert kernel.interrupts == 1


def fake_run(sources, timeout):
    return {i: "right" if "x1 == 1" in source else "asked" for i, source in enumerate(sources)}, ""


def in_version_3(cells):
    return {"nbformat": 3, "worksheets": [{"cells": [
        {"cell_type": "code", "language": "python", "input": cell["source"]} for cell in cells]}]}


def test_notebooks_of_any_version_and_encoding_are_read(tmp_path, small_lesson, monkeypatch):
    monkeypatch.setattr(grading, "_run", fake_run)
    plain = {"nbformat": 4, "cells": [{"cell_type": "markdown"}, *small_lesson]}
    twice = [cell | {"id": "check-1"} for cell in small_lesson]
    lists = [cell | {"source": cell["source"].splitlines(True)} for cell in small_lesson]
    for i, (content, encoding) in enumerate([
            (plain, "utf-8"), (plain, "utf-8-sig"), (plain, "utf-16"), (plain, "utf-32-le"),
            (plain | {"nbformat": 99}, "utf-8"), (in_version_3(small_lesson), "utf-8"),
            ({"cells": twice}, "utf-8"), ({"cells": lists}, "utf-8")]):
        path = tmp_path / f"01-{i}.ipynb"
        path.write_bytes(json.dumps(content).encode(encoding))
        assert grading.grade(path) == {"1": "right"} | {str(n): "asked" for n in range(2, 10)}


def test_the_lessons_check_takes_the_place_of_the_students(tmp_path, small_lesson, monkeypatch):
    """By its words, else its id, else its exercise; an answer in a copy of the cell stays."""
    ran = []

    def run(sources, timeout):
        ran[:] = sources
        return fake_run(sources, timeout)

    monkeypatch.setattr(grading, "_run", run)
    mark = {"metadata": {"exercise": "1"}, "id": "check-1"}
    copy = mark | {"source": "x1 = 1", "id": "new"}
    path = tmp_path / "01.ipynb"
    for cells, expected in [
            ([mark | {"source": "x1 = 1"}, {"source": "assert x1 == 1, 'wrong' "}], ["x1 = 1", 1]),
            ([{"source": "print('right')", "id": "check-1"}, copy], [1, "x1 = 1"]),
            ([{"source": "print('right')", "metadata": {"exercise": "1"}}], [1]), ([], [])]:
        path.write_text(json.dumps({"cells": [{"cell_type": "code"} | cell for cell in cells]}))
        found = grading.grade(path)["1"]
        check = small_lesson[0]["source"]
        assert ran == [check if source == 1 else source for source in expected]
        assert found == ("right" if expected else "the check's cell is missing")


NO_NOTEBOOKS = {
    "empty": b"", "list": b"[]", "null": b"null", "other JSON": b'{"a": 1}', "html": b"<html>",
    "no source": b'{"cells": [{"cell_type": "code"}]}', "numbers": b'{"cells": 3}',
    "odd cells": b'{"cells": [1]}', "metadata": b'{"cells": [{"cell_type": "code", "source": "", '
    b'"metadata": [1]}]}', "sheets": b'{"worksheets": [3]}', "deep": b"[" * 10**6,
    "latin": '{"cells": ["é"]}'.encode("latin-1"), "cut": b'{"cells": [', "NUL": bytes(99)}


def test_every_student_gets_a_row_at_once(tmp_path, small_lesson, monkeypatch, capfd):
    monkeypatch.setattr(grading, "_run", fake_run)
    paths = []
    for name, content in NO_NOTEBOOKS.items():
        paths.append(tmp_path / f"01-{name}.ipynb")
        paths[-1].write_bytes(content)
    (tmp_path / "01-folder.ipynb").mkdir()
    os.mkfifo(tmp_path / "01-pipe.ipynb")
    good = json.dumps({"cells": small_lesson})
    odd = ["01-a,b \"c\".ipynb", "01-m\udcfcnch.ipynb", "01-two\nlines.ipynb", "01-हिन्दी.ipynb"]
    for name in odd:
        (tmp_path / name).write_text(good)
    paths += [tmp_path / f"01-{name}.ipynb" for name in ("folder", "pipe", "missing")]
    paths += [tmp_path / name for name in odd]
    assert command.main(["grade", *map(str, paths)]) == 1
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(out.splitlines(keepends=True)))
    assert [row["notebook"] for row in rows if row["exercise"] in ("", "1")] == [
        path.name.replace("\udcfc", "\\xfc") for path in paths]
    failed = [row for row in rows if not row["exercise"]]
    assert len(failed) == len(paths) - len(odd) == len(err.splitlines())
    assert all(row["points"] == "0" and len(row["outcome"]) > 20 for row in failed)
    # what ends the program does not end the rows that there are
    def killed(sources, timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(grading, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        grading.grades([paths[0], paths[-1]])
    assert "01-empty.ipynb,,0,not a notebook: no JSON (Expecting" in capfd.readouterr().out


def test_students_of_one_file_name_are_told_apart(tmp_path, small_lesson, monkeypatch, capsys):
    monkeypatch.setattr(grading, "_run", fake_run)
    paths = [tmp_path / student / "01.ipynb" for student in ("ada", "bob")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(json.dumps({"cells": small_lesson}))
    assert grading.grades(paths) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[1], lines[10]] == [f"{path},1,1,right" for path in paths]
