"""The lessons as hand-outs: their parts, the checks before and after the solution."""

import os
import re

import nbformat
import pytest
import torch

from qlstm.course import handouts
from qlstm.course.exercises import EXERCISES
from qlstm.data import storage
from qlstm.data.storage import ROOT

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
            exec(cell.source, namespace)
            if handouts.tagged(cell, "check"):
                exercise = cell.metadata["exercise"]
                line, tally = capsys.readouterr().out.splitlines()[-2:]
                told = "right. " if solved else r"not answered yet: `\w+` (is )?still (returns )?`"
                assert re.match(f"Exercise {exercise}: {told}", line)
                assert tally.startswith(f"Lesson {exercise[0]}: ")
    torch.set_num_threads(threads)


def test_a_hand_out_has_what_belongs_to_the_lessons(tmp_path, monkeypatch):
    learn = tmp_path / "learn"
    for name in ("models/m.safetensors", "models/text.json", "records/r.json",
                 "models/.ipynb_checkpoints/text-checkpoint.json", "records/.DS_Store",
                 "records/core.17", "models/folder.json/x"):
        (learn / name).parent.mkdir(parents=True, exist_ok=True)
        (learn / name).touch()
    (learn / "models" / ".#text.json").symlink_to("nothing")
    monkeypatch.setattr(handouts, "LEARN", learn)
    handouts.copy_materials(tmp_path / "a hand-out")
    copies = [path for path in (tmp_path / "a hand-out").rglob("*") if path.is_file()]
    assert {path.name for path in copies} == {"m.safetensors", "text.json", "r.json"}




def test_hand_outs_have_no_solution_and_no_output_and_leave_other_files_alone(tmp_path):
    own = tmp_path / "exercises" / "my.ipynb"
    own.parent.mkdir()
    own.write_text("mine")
    handouts.write(tmp_path)
    for name, lesson in LESSONS.items():
        student = nbformat.read(tmp_path / "exercises" / f"{name}.ipynb", as_version=4)
        teacher = nbformat.read(tmp_path / "solutions" / f"{name}.ipynb", as_version=4)
        nbformat.validate(student)
        assert not of(student, "solution")
        assert len(of(student, "stub")) == len(of(lesson, "stub"))
        assert not any(cell.get("outputs") for cell in student.cells)
        text = "\n".join(cell.source for cell in student.cells)
        assert not any(cell.source in text for cell in of(lesson, "solution"))
        assert not of(teacher, "stub")
        assert of(teacher, "solution")
        assert not any(
            "source_hidden" in cell.metadata.get("jupyter", {}) for cell in of(teacher, "solution"))
    assert (tmp_path / "exercises" / "models" / "text.json").exists()
    assert own.read_text() == "mine"


def test_without_lessons_no_empty_folders_are_hand_outs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "ROOT", tmp_path)  # as where the package alone is installed
    assert handouts.main(["write", str(tmp_path / "course")]) == 2
    assert "start it in the folder of the repository" in capsys.readouterr().err
    assert not (tmp_path / "course").exists()


def test_a_hand_out_that_was_worked_in_is_kept(tmp_path, capsys):
    assert handouts.write(tmp_path) == []
    assert handouts.write(tmp_path) == []  # nobody worked in it
    path = tmp_path / "exercises" / "01_quantizers.ipynb"
    worked = path.read_text().replace("steps = ...", "steps = 25")
    path.write_text(worked)
    assert handouts.main(["write", str(tmp_path)]) == 0
    assert f"kept, as worked in: {path.name} " in capsys.readouterr().out
    assert path.read_text() == worked


def test_hand_outs_for_an_odd_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "exercises").mkdir()
    os.mkfifo(tmp_path / "exercises" / "01_quantizers.ipynb")
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file", "/dev/null"):
        assert handouts.main(["write", str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: cannot write the hand-outs: ")
        assert len(error.splitlines()) == 1


def test_the_instructors_page_names_every_lesson():
    page = (ROOT / "notebooks" / "learn" / "INSTRUCTORS.md").read_text()
    assert all(f"{name}.ipynb" in page for name in LESSONS)
