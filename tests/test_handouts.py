"""Hand-outs, the copy to work in, slides, and the pages beside the lessons."""

import json
import os
import re
import zipfile

import nbformat
import pytest

import qlstm
from qlstm.course import command, handouts, slides
from qlstm.data import storage
from qlstm.data.storage import ROOT
from qlstm.report.page import WIDGET

LESSONS = {path.stem: nbformat.read(path, as_version=4) for path in handouts.lessons()}
PAGES = {path.stem: nbformat.read(path, as_version=4) for path in storage.pages()}
FIRST, SECOND = list(LESSONS)[:2]


@pytest.fixture(autouse=True)
def no_wheel(monkeypatch, request):
    """It takes seconds."""
    if "built" not in request.node.name:
        monkeypatch.setattr(handouts, "wheel", lambda: {"qlstm-0-py3-none-any.whl": b"wheel"})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where to write the hand-outs of two small lessons and a page."""
    learn = tmp_path / "learn"
    (learn / "models").mkdir(parents=True)
    (learn / "models" / "text.json").write_text("{}")
    cells = [nbformat.v4.new_code_cell("x = ...", metadata={"tags": ["stub"]}),
             nbformat.v4.new_code_cell("x = 17", metadata={"tags": ["solution"]}),
             nbformat.v4.new_code_cell("check(x)", metadata={"tags": ["check"]})]
    paths = [learn / f"{name}.ipynb" for name in (FIRST, SECOND, "START")]
    for path in paths:
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    monkeypatch.setattr(handouts, "LEARN", learn)
    monkeypatch.setattr(handouts, "lessons", lambda: paths[:2])
    monkeypatch.setattr(handouts, "pages", lambda: paths[2:])
    return tmp_path / "course"


def of(lesson, tag):
    return [cell for cell in lesson.cells if handouts.tagged(cell, tag)]


def answer(path):
    """Work on a notebook; what it is then."""
    notebook = nbformat.read(path, as_version=4)
    of(notebook, "stub")[0].source = "mine = 25"
    nbformat.write(notebook, path)
    return path.read_bytes()


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


def test_hand_outs_keep_what_one_should_see_and_no_solution():
    for lesson in LESSONS.values():
        student, teacher = handouts.handout(lesson), handouts.solution(lesson)
        nbformat.validate(student)
        assert not of(student, "solution")
        assert len(of(student, "stub")) == len(of(lesson, "stub"))
        text = "\n".join(cell.source for cell in student.cells)
        assert not any(cell.source in text for cell in of(lesson, "solution"))
        assert not any(cell.outputs for tag in ("stub", "check", "answer")
                       for cell in of(student, tag))
        pictures = [sum("image/png" in output.get("data", {}) for cell in version.cells
                        for output in cell.get("outputs", [])) for version in (lesson, student)]
        assert pictures[0] == pictures[1] > 0
        assert not of(teacher, "stub")
        assert of(teacher, "solution")
        assert not any(
            "source_hidden" in cell.metadata.get("jupyter", {}) for cell in of(teacher, "solution"))


def test_a_hand_out_has_no_widget_but_what_stands_for_it():
    output = nbformat.v4.new_output("display_data", {WIDGET: {}, "text/plain": "seen"})
    alone = nbformat.v4.new_output("display_data", {WIDGET: {}})
    lesson = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(execution_count=3, outputs=[output, alone])],
        metadata={"widgets": {}})
    student = handouts.handout(lesson)
    assert [output.data for output in student.cells[0].outputs] == [{"text/plain": "seen"}]
    assert student.cells[0].execution_count is None
    assert "widgets" not in student.metadata


def test_the_zip_is_made_from_the_lessons(folder):
    handouts.write(folder)
    answer(folder / "exercises" / f"{FIRST}.ipynb")
    handouts.write(folder)
    with zipfile.ZipFile(folder / "exercises.zip") as file:
        contents = {name.removeprefix("exercises/"): file.read(name) for name in file.namelist()}
    written = {path.relative_to(folder / "exercises").as_posix(): path.read_bytes()
               for path in (folder / "exercises").rglob("*") if path.is_file()}
    assert written.pop(handouts.WRITTEN)
    assert contents == written
    assert {"START.ipynb", "models/text.json"} < set(contents)
    assert b"mine = 25" not in b"".join(contents.values())


def test_what_was_worked_in_leaves_the_hand_outs_and_is_not_lost(folder):
    assert handouts.write(folder) == handouts.write(folder) == []
    exercises, work = folder / "exercises", folder / "work"
    pristine = (exercises / f"{FIRST}.ipynb").read_bytes()
    worked = answer(exercises / f"{FIRST}.ipynb")
    (exercises / "my notes.txt").write_text("mine")
    (exercises / ".ipynb_checkpoints").mkdir()
    (exercises / ".ipynb_checkpoints" / "a-checkpoint.ipynb").write_text("mine too")
    assert len(handouts.write(folder)) == 3
    assert (exercises / f"{FIRST}.ipynb").read_bytes() == pristine
    assert (work / f"{FIRST}.ipynb").read_bytes() == worked
    assert (work / "my notes.txt").read_text() == "mine"
    assert (work / ".ipynb_checkpoints" / "a-checkpoint.ipynb").read_text() == "mine too"
    again = answer(exercises / f"{FIRST}.ipynb") + b" "
    (exercises / f"{FIRST}.ipynb").write_bytes(again)
    handouts.write(folder)  # where one lies already
    assert (work / f"{FIRST}.ipynb").read_bytes() == worked
    assert (work / f"{FIRST}-2.ipynb").read_bytes() == again


def test_work_in_the_folder_of_an_older_version_goes_on(folder, capsys):
    exercises, work = folder / "exercises", folder / "work"
    handouts.write(folder)
    for name in (handouts.WRITTEN, "qlstm-0-py3-none-any.whl"):  # there were none
        (exercises / name).unlink()
    (exercises / "models" / "former.json").write_text("{}")
    worked = answer(exercises / f"{FIRST}.ipynb")
    assert command.main(["work", str(folder)]) == 0
    said = capsys.readouterr().out
    assert f"moved to {work}, as somebody's own: {FIRST}.ipynb\n" in said
    assert f"kept, as worked in: {FIRST}.ipynb (" in said
    assert (work / f"{FIRST}.ipynb").read_bytes() == worked
    assert (work / f"{SECOND}.ipynb").exists()
    assert (work / "former" / "models" / "former.json").exists()
    assert not (work / "models" / "former.json").exists()  # a lesson reads all models


def test_a_copy_to_work_in_is_kept_if_worked_in_and_renewed_if_not(folder, monkeypatch, capsys):
    work = folder / "work"
    assert handouts.work(folder) == ([], [])
    worked = answer(work / f"{FIRST}.ipynb")
    run = nbformat.read(work / f"{SECOND}.ipynb", as_version=4)
    run.metadata.language_info = {"name": "python", "version": "3"}  # as Jupyter saves it
    of(run, "check")[0].outputs = [nbformat.v4.new_output("stream", text="not yet")]
    nbformat.write(run, work / f"{SECOND}.ipynb")
    monkeypatch.setattr(handouts, "handout", lambda lesson: nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("a new edition")]))
    assert command.main(["work", str(folder)]) == 0
    assert f"kept, as worked in: {FIRST}.ipynb (remove one" in capsys.readouterr().out
    assert (work / f"{FIRST}.ipynb").read_bytes() == worked
    assert "a new edition" in (work / f"{SECOND}.ipynb").read_text()
    (work / f"{FIRST}.ipynb").unlink()
    assert handouts.work(folder)[0] == []
    assert "a new edition" in (work / f"{FIRST}.ipynb").read_text()


def test_what_is_no_longer_handed_out_goes_unless_it_was_worked_in(folder, monkeypatch):
    handouts.work(folder)
    worked = answer(folder / "work" / f"{FIRST}.ipynb")
    assert (folder / "work" / "models" / "text.json").exists()
    own = folder / "work" / "models" / "own.safetensors"
    own.write_text("mine")
    monkeypatch.setattr(handouts, "lessons", list)
    monkeypatch.setattr(handouts, "MATERIALS", ["records/*.json"])
    handouts.work(folder)
    assert (folder / "work" / f"{FIRST}.ipynb").read_bytes() == worked
    assert not (folder / "work" / f"{SECOND}.ipynb").exists()
    assert [path.name for path in own.parent.iterdir()] == [own.name]


def test_without_lessons_no_empty_folders_are_hand_outs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "ROOT", tmp_path)  # as where the package alone is installed
    for name in ("write", "work", "slides"):
        assert command.main([name, str(tmp_path / "course")]) == 2
        assert "start it in the folder of the repository" in capsys.readouterr().err
    assert not (tmp_path / "course").exists()


def test_hand_outs_for_an_odd_folder(tmp_path, monkeypatch, capsys):
    (tmp_path / "exercises").mkdir()
    os.mkfifo(tmp_path / "exercises" / f"{FIRST}.ipynb")
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file", "/dev/null"):
        assert command.main(["write", str(folder)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: cannot write the hand-outs: ")
        assert len(error.splitlines()) == 1


def test_the_built_wheel_has_the_whole_package(tmp_path):
    ((name, content),) = handouts.wheel().items()
    assert name == f"qlstm-{qlstm.__version__}-py3-none-any.whl"
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as file:
        inside = {path for path in file.namelist() if path.startswith("qlstm/")}
    assert inside == {path.relative_to(ROOT).as_posix() for path in (ROOT / "qlstm").rglob("*")
                      if path.is_file() and "__pycache__" not in path.parts}
    start = "\n".join(cell.source for cell in PAGES["START"].cells)
    assert f"./{name}[learn]" in start


def test_no_copy_is_a_page(tmp_path, monkeypatch):
    learn = tmp_path / "notebooks" / "learn"
    learn.mkdir(parents=True)
    for name in ("START", "START-Copy1", "Untitled", "glossary", "01_a", "02b_b", "02b_b-Copy1"):
        (learn / f"{name}.ipynb").touch()
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    assert [path.stem for path in storage.pages()] == ["02b_b", "START", "glossary"]
    assert [path.stem for path in storage.lessons()] == ["01_a"]


def test_the_start_leads_to_every_lesson_and_page():
    text = "\n".join(cell.source for cell in PAGES["START"].cells)
    links = set(re.findall(r"\]\(([^)]+\.ipynb)\)", text))
    assert links == {f"{name}.ipynb" for name in [*LESSONS, *PAGES] if name != "START"}
    assert all(cell.cell_type == "markdown" for cell in PAGES["START"].cells)


def test_the_glossary_has_a_sentence_and_a_lesson_for_each_word():
    rows = [line.strip("| ").split(" | ") for cell in PAGES["glossary"].cells
            for line in cell.source.splitlines() if line.startswith("| **")]
    assert len(rows) >= 50
    names = [word for word, _, _ in rows]
    assert len({*names}) == len(names)
    for word, meaning, where in rows:
        assert meaning.endswith("."), word
        lessons = re.findall(r"\]\((\w+)\.ipynb\)", where)
        assert lessons, word
        assert {*lessons} <= {*LESSONS, *PAGES}, word


def test_the_instructors_page_names_every_lesson_and_deck():
    page = (ROOT / "notebooks" / "learn" / "INSTRUCTORS.md").read_text()
    assert all(f"{name}.ipynb" in page for name in LESSONS)
    assert all(f"{deck['file']}.html" in page for deck in slides.decks())


def test_what_slides_show_is_in_the_lessons():
    for deck in slides.decks():
        assert 10 <= len(deck["slides"]) <= 16
        assert sum(slide["minutes"] for slide in deck["slides"]) <= 90
        shown = slides.notebook(deck)
        assert sum(bool(cell.get("outputs")) for cell in shown.cells) >= 6


@pytest.mark.parametrize(("slide", "words"), [
    ({"cell": "01_quantizers none"}, "01_quantizers.ipynb has no cell none with an output"),
    ({"cell": "01_quantizers c00"}, "01_quantizers.ipynb has no cell c00 with an output"),
    ({"cell": "09_none c01"}, "there is no 09_none.ipynb"),
    ({"picture": "lstm_sell"}, "unknown picture 'lstm_sell': did you mean 'lstm_cell'"),
    ({"nots": ""}, "unknown field 'nots': did you mean 'notes'"),
    ({"minutes": None}, "Title has no minutes")])
def test_a_slide_that_cannot_be_made_is_named(slide, words):
    slide = {"title": "Title", "notes": "", "minutes": 1} | slide
    slide = {name: value for name, value in slide.items() if value is not None}
    deck = {"file": "deck", "title": "Deck", "subtitle": "", "slides": [slide]}
    with pytest.raises(slides.SlideError, match=r"^deck, slide 1 \(Title\): ") as error:
        slides.notebook(deck)
    assert words in str(error.value)


def test_a_description_that_is_no_toml_or_incomplete_is_named(tmp_path):
    path = tmp_path / "slides.toml"
    for text, words in (("deck = [", "cannot read slides.toml: "),
                        ("[[deck]]\ntitle = 'One'", "One has no file, subtitle, slides")):
        path.write_text(text)
        with pytest.raises(slides.SlideError, match=words):
            slides.decks(path)
    with pytest.raises(slides.SlideError, match=r"cannot read none.toml"):
        slides.decks(tmp_path / "none.toml")


def test_a_deck_needs_no_network_and_has_its_notes():
    pytest.importorskip("sphinx_revealjs")
    deck = {"file": "deck", "title": "A < B", "subtitle": "", "slides": [
        {"title": "Formula", "formula": r"\|W\|_2", "notes": "Say *this*.", "minutes": 2},
        {"title": "Picture", "picture": "lstm_cell", "notes": "Ask.", "minutes": 3}]}
    text = slides.html(deck)
    assert "<title>A &lt; B</title>" in text
    assert re.search(r'<aside class="notes">\s*<p>Say <em>this</em>.</p>\s*<p>2 minutes</p>', text)
    assert "<math" in text
    own = text[:text.index("<script>")] + text[text.rindex("<script>"):]  # not what reveal.js says
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|url\((?!data:)|@import""", own)
    (picture,) = re.findall("<img[^>]*>", own)
    assert re.search(r'alt="\w[^"]{20}', picture)
    assert 'src="data:image/png;base64,' in picture


def test_slides_without_their_package_name_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qlstm.errors.importlib.util.find_spec", lambda name: None)
    assert command.main(["slides", str(tmp_path)]) == 1
    assert 'pip install ".[slides]"' in capsys.readouterr().err


def test_the_record_of_what_was_written_may_be_damaged(folder):
    handouts.work(folder)
    worked = answer(folder / "work" / f"{FIRST}.ipynb")
    (folder / "work" / handouts.WRITTEN).write_text(json.dumps(17))
    assert [path.name for path in handouts.work(folder)[0]] == [f"{FIRST}.ipynb"]
    assert (folder / "work" / f"{FIRST}.ipynb").read_bytes() == worked


def test_the_times_are_those_of_the_lessons_length():
    """By the rule that the page names: 150 words a minute, half a minute for a cell of code."""
    rows = re.findall(r"^\| (\d\w?) \| (\d+) min \|", "\n".join(
        cell.source for cell in PAGES["START"].cells), re.M)
    notebooks = {name.split("_")[0].lstrip("0"): notebook
                 for name, notebook in (LESSONS | PAGES).items() if name[0] == "0"}
    assert [number for number, _ in rows] == sorted(notebooks)
    for number, minutes in rows:
        cells = [cell for cell in notebooks[number].cells if not {
            "exercise", "quiz", "stub", "solution", "check"} & {*cell.metadata.get("tags", [])}]
        words = sum(len(cell.source.split()) for cell in cells if cell.cell_type == "markdown")
        length = words / 150 + sum(cell.cell_type == "code" for cell in cells) / 2
        assert 0.75 < length / int(minutes) < 1.33, (number, length)
