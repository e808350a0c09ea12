"""Lessons with outputs: what a control leaves where there is no kernel, and what is stored."""

import nbformat
import pytest

from qlstm.course import storing
from qlstm.report import page


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"widgets": {}}), path)
    return path


def shown(cell):
    return {kind: text for output in cell.outputs for kind, text in output.data.items()}


def test_a_control_is_stored_as_what_it_begins_with(tmp_path):
    path = notebook(
        tmp_path / "lesson.ipynb",
        "from qlstm.course import demos",
        "demos.explore(lambda word, n=2, end='.': print(n, word, end), word=demos.fixed('is'), "
        "n=(0, 4))",
        "demos.explore(demos.memory, bias=(-2.0, 6.0, 0.5))",
        "print('a'); print('b')")
    assert storing.store(path) == 0
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert [cell.execution_count for cell in stored.cells] == [1, 2, 3, 4]
    assert not any("execution" in cell.metadata for cell in stored.cells)
    assert shown(stored.cells[1]) == {"text/plain": "2 is .\n"}
    assert set(shown(stored.cells[2])) == {"image/png", "text/plain"}
    assert [output.text for output in stored.cells[3].outputs] == ["a\nb\n"]
    first = path.read_bytes()
    assert storing.store(path) == 0
    assert path.read_bytes() == first  # a lesson that did not change has no new outputs


def test_with_a_kernel_there_is_a_slider_as_well(monkeypatch):
    from qlstm.course import demos

    displayed = []
    monkeypatch.setattr(demos, "display", lambda bundle, raw: displayed.append(bundle))
    demos.explore(lambda n=2, unnamed=3: print(n), n=(0, 4))
    (bundle,) = displayed
    assert page.WIDGET in bundle
    assert bundle["text/plain"] == "2\n"


def test_a_lesson_that_fails_stays_as_it_was(tmp_path, capsys):
    path = notebook(tmp_path / "lesson.ipynb", "print(1)", "nonsense")
    before = path.read_bytes()
    assert storing.store(path) == 1
    assert path.read_bytes() == before
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: lesson.ipynb: NameError: name 'nonsense'")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}"])
def test_what_is_no_lesson_is_named(tmp_path, content, capsys):
    path = tmp_path / "lesson.ipynb"
    path.write_bytes(content)
    assert storing.store(path) == 1
    assert "lesson.ipynb" in capsys.readouterr().err
