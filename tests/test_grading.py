"""Grading: what is read of submissions, what they can do to others, tables."""

import csv
import io
import json
import os
import shutil
import socket
import struct
import sys
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch

from qlstm.course import command, handouts
from qlstm.course.exercises import EXERCISES
from qlstm.course.grading import Limits, grade, process, tables
from qlstm.course.grading.notebooks import GradingError, read
from qlstm.course.inside import sandbox, wire

LESSONS = {path.stem: nbformat.read(path, as_version=4) for path in handouts.lessons()}
LANDLOCK = pytest.mark.skipif(not sandbox.landlock(), reason="needs Linux with Landlock")
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
CHECKS = {name: f'exercises.check("{name}")' for name in EXERCISES}


def notebook(path, *sources, **cell):
    cells = [{"cell_type": "code", "source": source, "metadata": {}} | cell for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5}))
    return path


@pytest.fixture
def no_materials(monkeypatch):
    """A process begins faster, and what does not end is given up sooner."""
    monkeypatch.setattr(process, "copy_materials", lambda place: place.mkdir())
    monkeypatch.setattr(process, "STOPPING", 2)
    monkeypatch.setattr(process, "CALLING", 2)


@pytest.fixture
def run(tmp_path, no_materials):
    """The outcomes by exercise of a notebook of cells, of lesson 1 where it is not said."""
    def grades(*sources, lesson="01_quantizers", seconds=2, memory=4):
        path = notebook(tmp_path / f"{lesson}.ipynb", *sources)
        return {found.exercise: found.outcome
                for found in grade(path, Limits(memory=memory, seconds=seconds))}

    return grades


def states(outcomes):
    return {name: outcome.state for name, outcome in outcomes.items()}


RIGHT = ["steps = 26", CHECKS["1.2"], "size = 2504", CHECKS["1.4"]]


def test_a_hand_out_is_graded_whatever_its_checks_say(tmp_path):
    """Lesson 1 as it is: 1.1 right, 1.2 wrong with a check that says otherwise, 1.3 raises, 1.4 not
    answered; its cells have lost their tags and names."""
    student = handouts.handout(LESSONS["01_quantizers"])
    imports, *others = [cell for cell in student.cells if cell.cell_type == "code"
                        and not handouts.tagged(cell, "colab")]
    student.cells = [imports, *(cell for cell in others
                                if handouts.tagged(cell, "stub") or handouts.tagged(cell, "check"))]
    answers = {"uniform": "uniform, normal = 1 / 4, 1 - 2 / torch.pi",
               "steps": "steps = 25\nexercises.check = lambda *a, **k: print('right')",
               "def ternary": "def ternary(weight):\n    return nonsense * weight"}
    for cell in student.cells:
        for start, answer in answers.items():
            if handouts.tagged(cell, "stub") and cell.source.startswith(start):
                cell.source = answer
    for cell in student.cells:
        cell.id, cell.metadata = nbformat.v4.new_raw_cell().id, {}
    path = tmp_path / "Copy of 01_quant (1).ipynb"
    nbformat.write(student, path)
    found = {row.exercise: row for row in grade(path)}
    assert states({name: row.outcome for name, row in found.items()}) == {
        "1.1": "right", "1.2": "wrong", "1.3": "crashed", "1.4": "not answered"}
    assert "`nonsense * weight`" not in found["1.2"].outcome.message
    assert ("raised NameError: name 'nonsense' is not defined (line 2: `return nonsense * weight`)"
            in found["1.3"].outcome.message)
    assert all(row.seconds > 0 for row in found.values())


def test_answers_are_taken_where_the_check_is_called_last(run):
    found = run("steps = 26", CHECKS["1.2"], "steps = 25", "size = 2504",
                "exercises . check(\n  '1.4' , size=size)", "size = 0", "# exercises.check('1.4')")
    assert states(found) == {"1.2": "right", "1.4": "right", "1.1": "not answered",
                             "1.3": "not answered"}
    assert states(run("steps = 26", CHECKS["1.2"], "steps = 25", CHECKS["1.2"]))["1.2"] == "wrong"


def test_what_the_call_gives_counts_as_the_answer(run):
    found = run("own = 20", 'exercises.check("1.2", steps=own + 6)', "size = ...",
                "%time 1\nexercises.check('1.4', size=2504)")
    assert states(found)["1.2"] == states(found)["1.4"] == "right"
    found = run("own = 26", '%%time\nexercises.check("1.2", steps=own)')
    assert states(found)["1.2"] == "right"


def test_without_a_check_answers_are_taken_at_the_end(run):
    found = run("steps = 26", "1 / 0")
    assert states(found)["1.2"] == "right"
    assert found["1.4"].message == (
        "There is no `size`; a cell before raised ZeroDivisionError: division by zero.")


def test_the_cause_and_the_cell_are_those_that_the_student_sees(run):
    """Not the error of a check that misses the answer; all cells count, those of widgets too."""
    found = run("def ternary(weight:", CHECKS["1.3"].replace(")", ", ternary=ternary)"),
                "widgets.x", "raise ValueError('\\x1b[31m\\ud800')", "import os\nos._exit(0)")
    assert "SyntaxError" in found["1.3"].message
    assert found["1.4"].message == "code cell 5 ended the process"
    found = run("raise ValueError('\\x1b[31m\\ud800')")
    assert found["1.4"].message.isprintable()


def test_functions_are_called_where_they_are(run):
    """With what the grader gives, in their own process, which may print, fail, end or not end."""
    share = "def share(values):\n    "
    right = (share + "print('x' * 10**6, values)\n    pairs = [(a, b) for i, a in "
             "enumerate(values) for b in values[:i]]\n    values.clear()\n    return "
             "sum(abs(a - b) > 0.02 for a, b in pairs) / len(pairs)")
    half = "def half_width(values):\n    import time\n    time.sleep(99)"
    found = run(right, CHECKS["6.4"], half, CHECKS["6.1"], lesson="06_read_a_paper")
    assert states(found) == {
        "6.1": "crashed", "6.4": "right", "6.2": "not answered", "6.3": "not answered"}
    assert "`half_width` took longer than 2 s (line 3: `time.sleep(99)`)" in found["6.1"].message
    found = run(share + "os._exit(1)\nimport os", CHECKS["6.4"], "kb = 1",
                lesson="06_read_a_paper")
    assert (found["6.4"].state, found["6.2"].state) == ("crashed", "not reached")
    assert "`share` ended the process" in found["6.4"].message
    assert "code cell 2 ended the process" in found["6.2"].message


@POSIX
def test_a_submission_survives_what_can_be_survived(run):
    """A cell that asks, one that never ends, ones that flood the output, the memory, the disk, one
    that leaves, one that needs a terminal."""
    found = run(
        "size = input() or 1", "while True:\n    steps = 26",
        "for _ in range(20):\n    print('flood' * 10**6)\n'x' * 10**8",
        "import os\nfor fd in (1, 2):\n    os.write(fd, bytes(10**6))", "raise SystemExit",
        "x = bytearray(5 * 2**30)", "with open('f', 'wb') as file:\n    file.truncate(2**31)",
        "!exit 3", "await __import__('asyncio').sleep(0)\nuniform, normal = 0.25, 0.3634", "exit()",
        "open('own', 'w').write('x')\nsize = 2504", seconds=4)
    assert states(found) == {
        "1.1": "right", "1.2": "right", "1.3": "not answered", "1.4": "right"}


@POSIX
@pytest.mark.parametrize(("source", "words"), [
    ("import os\nos._exit(0)", "ended the process"),
    ("import os, signal\nos.kill(os.getpid(), 9)", "ended the process"),
    ("import time\nwhile True:\n    try:\n        while True: time.sleep(0.01)\n"
     "    except KeyboardInterrupt: pass",
     "took longer than 2 s and could not be stopped"),
    ("import os\nfor fd in range(3, 99):\n    try: os.write(fd, b'\\x00' * 10**5)\n"
     "    except OSError: pass", "sent what cannot be read"),
    ("import os\nos.closerange(3, 99)", "ended the process"),
])
def test_what_ends_a_process_ends_that_notebook_alone(run, source, words):
    found = run(*RIGHT[:2], source, *RIGHT[2:])
    assert states(found) == {"1.2": "right", "1.1": "not reached", "1.3": "not reached",
                             "1.4": "not reached"}
    assert words in found["1.4"].message
    assert "code cell 3 " in found["1.4"].message


FORGERIES = [
    ["from qlstm.course import exercises\nexercises.check = exercises.judge = print",
     "import qlstm.course.exercises as e\n"
     "e.judge.__code__ = (lambda name, answers: e.Outcome('right', '')).__code__",
     "from qlstm.course.exercises import answers\n"
     "answers.number = answers.same = answers.call = lambda *a, **k: None",
     "answers.NotYet.__init__ = lambda *a: exit()",
     "import math\nmath.isclose = lambda *a, **k: True",
     "class Any(float):\n    __eq__ = __lt__ = __gt__ = lambda *a: True\n"
     "    __hash__ = float.__hash__\nsize = Any(1)",
     "print('Exercise 1.4: right.')\nimport sys\nsys.__stdout__.write('1.4,1,right')"],
    ["import gc\nfrom qlstm.course.inside.runner import Runner\n"
     "for r in gc.get_objects():\n    if isinstance(r, Runner):\n"
     "        r._reply = lambda *a: {'answers': {}, 'right': True, 'state': 'right'}"],
    ["import sys\nframe = sys._getframe()\nwhile frame:\n"
     "    frame.f_globals.update(judge=print, right=True)\n    frame = frame.f_back"]]


@pytest.mark.parametrize("sources", FORGERIES)
def test_no_forgery_makes_a_wrong_answer_right(run, sources):
    found = run("size = 1", *sources, CHECKS["1.4"], "steps = 26", seconds=20)
    assert found["1.4"].state in ("wrong", "not answered")


def alive(word):
    """The processes whose command line has a word."""
    found = []
    for candidate in psutil.process_iter():
        try:
            found += [candidate] if word in " ".join(candidate.cmdline()) else []
        except psutil.Error:
            continue
    return found


LEAVES = """import subprocess, sys, os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.Popen([sys.executable, "-c", "import time, sys; time.sleep(99)", {word!r}],
                         start_new_session=True)
        open("left", "w")
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(99)", {word!r}])
    os._exit(0)
while not os.path.exists("left"):
    time.sleep(0.01)
steps = 26"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("protections", [("separate", "confine"), ("confine",), ()])
def test_all_that_a_submission_starts_ends_with_it(run, monkeypatch, protections):
    """Daemons in sessions of their own too, with namespaces and without."""
    monkeypatch.setattr(process, "PROTECTIONS", protections)
    word = f"left-by-{os.getpid()}"
    found = run(LEAVES.format(word=word))
    assert found["1.2"].state == "right"
    assert not alive(word)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("protections", [("separate", "confine"), ()])
def test_too_many_processes_end_it(run, monkeypatch, protections):
    """A bomb that stops by itself at 300."""
    monkeypatch.setattr(process, "PROTECTIONS", protections)
    found = run("import os, time\nfor _ in range(300):\n    if os.fork() == 0:\n"
                "        time.sleep(9)\n        os._exit(0)\ntime.sleep(9)", seconds=20)
    assert found["1.2"].state in ("not reached", "not answered")  # as a user, fork() fails
    assert "128 processes" in found["1.2"].message or "raised" in found["1.2"].message


@POSIX
def test_all_processes_together_have_a_memory(run):
    found = run("import os, time\nfor _ in range(2):\n    if os.fork() == 0:\n"
                "        x = b'x' * 7 * 10**8\n        time.sleep(20)\n        os._exit(0)\n"
                "time.sleep(20)", seconds=30, memory=1)
    assert "took more than 1 GiB of memory" in found["1.2"].message


REACHES = """import os, shutil, pathlib
lecturer = pathlib.Path({lecturer!r})
tried = [lambda: (lecturer / "grades.csv").write_text("1.4,1,right"),
         lambda: (lecturer / "new").write_text(""), lambda: (lecturer / "grades.csv").unlink(),
         lambda: os.truncate(lecturer / "grades.csv", 0), lambda: os.rename(lecturer, "mine"),
         lambda: os.link(lecturer / "grades.csv", "mine"), lambda: shutil.rmtree(lecturer),
         lambda: (lecturer / "grades.csv").read_text(), lambda: os.listdir(lecturer),
         lambda: os.kill(os.getppid(), 9), lambda: os.kill({grader}, 0)]
done = []
for i, one in enumerate(tried):
    try:
        one()
        done.append(i)
    except OSError:
        pass
steps = 26 if not done else 100 + sum(done)
shutil.rmtree(os.environ["HOME"], ignore_errors=True)
shutil.rmtree(os.getcwd(), ignore_errors=True)"""


@LANDLOCK
@pytest.mark.parametrize("protections", [("separate", "confine"), ("confine",)])
def test_a_submission_reaches_no_file_of_anybody_else(
        run, tmp_path_factory, monkeypatch, protections):
    """It may delete what is its own: what comes after is graded all the same."""
    if sandbox.landlock() < 6:
        pytest.skip("this Landlock knows no signals")
    monkeypatch.setattr(process, "PROTECTIONS", protections)
    lecturer = tmp_path_factory.mktemp("lecturer")
    (lecturer / "grades.csv").write_text("ada,1")
    found = run(REACHES.format(lecturer=str(lecturer), grader=os.getpid()), *RIGHT[2:])
    assert (lecturer / "grades.csv").read_text() == "ada,1"
    assert [path.name for path in lecturer.iterdir()] == ["grades.csv"]
    assert found["1.2"].state == found["1.4"].state == "right", found["1.2"]


@LANDLOCK
def test_a_submission_reaches_no_network(run):
    found = run("import socket\nwith socket.create_server(('127.0.0.1', 0)) as server:\n"
                "    steps = 26", "size = 2504")
    assert "PermissionError" in found["1.2"].message
    assert found["1.4"].state == "right"


@LANDLOCK
def test_a_submission_reaches_no_program_that_listens(run, tmp_path_factory):
    """At a socket of the file system, which may be that of the user's own services."""
    place = tmp_path_factory.mktemp("bus") / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        found = run(f"import socket\nwith socket.socket(socket.AF_UNIX) as s:\n"
                    f"    s.connect({str(place)!r})\n    steps = 26", "size = 2504")
    assert "Error" in found["1.2"].message
    assert found["1.4"].state == "right"


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(("source", "words"), [
    ("import os\nfor _ in range(60):\n    os.mkdir('n' * 99)\n    os.chdir('n' * 99)",
     "left what cannot be measured"),
    ("files = []\nimport os\nfor n in range(2):\n    files.append(open(f'f{n}', 'wb'))\n"
     "    os.posix_fallocate(files[n].fileno(), 0, 2**20)\n    os.unlink(f'f{n}')", "wrote more"),
    ("import os\nfor n in range(2):\n    os.posix_fallocate(os.memfd_create('m'), 0, 600 * 2**20)",
     "GiB of memory")])
def test_nothing_hides_from_the_one_who_watches(run, monkeypatch, source, words):
    """Folders too deep to be looked at, files without names on the disk and in memory."""
    monkeypatch.setattr(process, "DISK", 2**21 - 1)
    found = run(f"{source}\nimport time\ntime.sleep(9)", seconds=10, memory=1)
    assert words in found["1.2"].message


def test_a_submission_gets_no_settings_and_secrets(run, monkeypatch, tmp_path):
    startup = tmp_path / "own" / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text("steps = 26")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "own"))
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    found = run("import os\nsize = 2504 if 'SECRET_TOKEN' not in os.environ else 0")
    assert states(found)["1.2"] == "not answered"
    assert states(found)["1.4"] == "right"


def test_nothing_is_left_on_the_disk(run, monkeypatch, tmp_path):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    run("import os\nos.mkdir('shut')\nopen('shut/x', 'w')\nos.chmod('shut', 0)",
        "for _ in range(200):\n    os.mkdir('deep')\n    os.chdir('deep')")
    assert not list(place.iterdir())


@POSIX
def test_what_links_lead_to_stays_as_it_is(run, tmp_path_factory):
    victim = tmp_path_factory.mktemp("lecturer") / "victim"
    victim.touch(mode=0o640)
    run(f"import os\nos.mkdir('d')\nos.symlink({str(victim)!r}, 'd/s')\nos.chmod('d', 0o500)")
    assert victim.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("value", [
    None, True, ..., 3, -2**70, 0.1, float("inf"), "text", (1, [2.5, "x"]), [],
    np.float32(0.5), np.bool_(True), np.arange(6).reshape(2, 3), torch.arange(6.0).view(2, 3),
    torch.tensor(True), torch.zeros(0, 3), torch.ones(2, dtype=torch.bfloat16)])
def test_what_is_sent_arrives(value):
    encoder, file = wire.Encoder(), io.BytesIO()
    wire.send(file, {"value": encoder.encode(value)}, encoder.parts)
    file.seek(0)
    message, body = wire.receive(file)
    found = wire.decode(message["value"], body)
    assert type(found) is type(value) or (type(value), type(found)) == (int, float)
    if isinstance(value, torch.Tensor | np.ndarray):
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert (found == value).all()
    else:
        assert found == value


def test_types_that_are_not_sent_say_their_names():
    for value, name in [({1: 2}, "dict"), (object(), "object"), (1j, "complex"), (print, "built"),
                        (torch.zeros(2, dtype=torch.complex64), "complex64 Tensor"),
                        (np.array(["x"]), "ndarray")]:
        encoded = wire.Encoder().encode(value)
        assert type(wire.decode(encoded, b"")).__name__.startswith(name)


@pytest.mark.parametrize("value", [
    {}, {"a": 1, "b": 2}, {"tensor": 3}, {"tensor": ["float32", [2], 0, 4]},
    {"tensor": ["float32", [-1], 0, 4]}, {"tensor": ["float32", [1], 0, 2**40]},
    {"tensor": ["__class__", [1], 0, 4]}, {"array": ["O", [1], 0, 4]},
    {"tensor": ["float32", [2**62, 2**62], 0, 4]}, {"array": ["float64", ["a"], 0, 4]},
    {"list": [{"tensor": ["uint8", [8], 0, 8]}] * 2}, {"list": [1] * (wire.LONGEST + 1)},
    {"function": "0"}, {"list": 3}, {"float": "a"}, {"float": [1]}, {"unknown": 1}, {"list": {}}])
def test_hostile_values_are_no_values(value):
    try:
        found = wire.decode(value, bytes(8))
    except ValueError:
        return
    assert found == []  # an empty dict of items


@pytest.mark.parametrize("content", [
    b"", b"\xff" * 8, b"\0" * 8, struct.pack(">II", 10**6, 0) + b"[" * 10**6,
    struct.pack(">II", 2, 0) + b"[]", struct.pack(">II", 9, 0) + b"{}", b"cpickle"])
def test_hostile_bytes_are_no_message(content):
    with pytest.raises((ValueError, EOFError)):
        wire.receive(io.BytesIO(content))


def in_version_3(cells):
    return {"nbformat": 3, "worksheets": [{"cells": [
        {"cell_type": "code", "language": "python", "input": cell["source"]} for cell in cells]}]}


def test_notebooks_of_any_version_and_encoding_are_read(tmp_path):
    cells = [{"cell_type": "code", "source": "x = 1\r\n" + check, "metadata": {"tags": None}}
             for name, check in CHECKS.items() if name[0] == "1"]
    lists = [cell | {"source": cell["source"].splitlines(True)} for cell in cells]
    colab = [cell | {"metadata": {"id": "aB3", "colab": {"base_uri": "x"}}, "outputs": [],
                     "execution_count": 1} for cell in lists]
    plain = {"nbformat": 4, "cells": [{"cell_type": "markdown"}, *cells]}
    for i, (content, encoding) in enumerate([
            (plain, "utf-8"), (plain, "utf-8-sig"), (plain, "utf-16"), (plain, "utf-32-le"),
            (plain | {"nbformat": 99}, "utf-8"), (in_version_3(cells), "utf-8"),
            ({"cells": lists}, "utf-8"), ({"nbformat_minor": 0, "cells": colab}, "utf-8")]):
        path = tmp_path / f"Copy of my homework ({i}).ipynb"
        path.write_bytes(json.dumps(content, indent=1).replace("\n", "\r\n").encode(encoding))
        found = read(path)
        assert found.lesson.stem == "01_quantizers"
        assert found.checked() == {"1.1": 0, "1.2": 1, "1.3": 2, "1.4": 3}


def test_the_name_says_the_lesson_before_the_checks_do(tmp_path):
    path = notebook(tmp_path / "02_the_lstm-ada.ipynb", *CHECKS.values())
    assert read(path).lesson.stem == "02_the_lstm"
    path = notebook(tmp_path / "x.ipynb", CHECKS["3.1"], CHECKS["4.1"], CHECKS["4.2"])
    assert read(path).lesson.stem == "04_normalization"
    with pytest.raises(GradingError, match="begins with none of 01_quantizers"):
        read(notebook(tmp_path / "y.ipynb", "check('9.9')", "print('1.2')"))


def test_widgets_are_not_run_but_checks_are(tmp_path):
    sources = ["import ipywidgets as widgets", "widgets.interact(print)", "demos.explore(print)",
               "widgets.x\nexercises.check('1.2', steps=26)", "# widgets.x"]
    found = read(notebook(tmp_path / "01_quantizers.ipynb", *sources))
    assert [cell.source for cell in found.cells] == [sources[0], *sources[3:]]
    tagged = notebook(tmp_path / "01_quantizers.ipynb", "x", metadata={"tags": ["widget"]})
    assert read(tagged).cells == []


NO_NOTEBOOKS = {
    "empty": b"", "list": b"[]", "null": b"null", "other JSON": b'{"a": 1}', "html": b"<html>",
    "no source": b'{"cells": [{"cell_type": "code"}]}', "numbers": b'{"cells": 3}',
    "odd cells": b'{"cells": [1]}', "metadata": b'{"cells": [{"cell_type": "code", "source": "", '
    b'"metadata": [1]}]}', "sheets": b'{"worksheets": [3]}', "deep": b"[" * 10**6,
    "latin": '{"cells": ["é"]}'.encode("latin-1"), "cut": b'{"cells": [', "NUL": bytes(99)}


def table(text):
    return list(csv.DictReader(text.splitlines(keepends=True)))


def test_every_submission_gets_its_rows_at_once(tmp_path, no_materials, monkeypatch, capfd):
    """Also what is no notebook, with a name that no file should have."""
    folder = tmp_path / "in"
    paths = []
    for name, content in NO_NOTEBOOKS.items():
        paths.append(folder / f"01_quantizers-{name}.ipynb")
        folder.mkdir(exist_ok=True)
        paths[-1].write_bytes(content)
    (folder / "01-folder.ipynb").mkdir()
    os.mkfifo(folder / "01-pipe.ipynb")
    large = folder / "01-large.ipynb"
    with large.open("w") as file:
        file.truncate(10**9)
    paths += [folder / f"01-{name}.ipynb" for name in ("folder", "pipe", "missing", "large")]
    odd = [notebook(folder / name, "steps = 26") for name in (
        '=cmd|"a,b".ipynb', "01_quantizers-m\udcfcnch.ipynb", "01_quantizers-<b>\nlines.ipynb")]
    odd[0] = odd[0].rename(folder / '=01_quantizers|"a,b".ipynb')
    odd[0].write_text(json.dumps({"cells": [{"cell_type": "code", "source": CHECKS["1.2"]}]}))
    out = tmp_path / "out"
    assert command.main(["grade", *map(str, paths + odd), "--out", str(out)]) == 1
    printed, errors = capfd.readouterr()
    assert (out / "points.csv").read_text() == printed
    rows = table(printed)
    failed = [row for row in rows if row["outcome"] == "not graded"]
    assert [row["submission"] for row in failed] == [path.name for path in paths]
    assert all(row["points"] == "0" and len(row["message"]) > 20 for row in failed)
    assert errors.count("error: ") == len(paths)
    good = [row["submission"] for row in rows if row["exercise"] == "1.2"]
    assert good == ["'" + odd[0].name, "01_quantizers-m\\udcfcnch.ipynb".replace("udc", "x"),
                    "01_quantizers-<b>\\nlines.ipynb"]
    pages = list((out / "feedback").iterdir())
    assert len(pages) == len(paths) + len(odd)
    (page,) = [path for path in pages if "lines" in path.name]
    assert "<b>" not in page.read_text()
    assert "&lt;b&gt;" in page.read_text()


def fake(state, message="", exercises=("1.1", "1.2")):
    from qlstm.course.exercises import Outcome
    from qlstm.course.grading import Grade

    def grades(path, limits, report):
        yield from (Grade(name, Outcome(state, message), 1.0) for name in exercises)

    return grades


def test_what_ends_the_grading_leaves_the_rows_that_there_are(tmp_path, monkeypatch, capsys):
    path = notebook(tmp_path / "01_quantizers.ipynb", "")

    def stopped(*_, **__):
        yield from fake("right")(path, None, None)
        raise KeyboardInterrupt

    monkeypatch.setattr("qlstm.course.grading.command.grade", stopped)
    with pytest.raises(KeyboardInterrupt):
        command.main(["grade", str(path), "--out", str(tmp_path / "out")])
    rows = table((tmp_path / "out" / "points.csv").read_text())
    assert [row["exercise"] for row in rows] == ["1.1", "1.2"]


def test_tables_of_a_class(tmp_path, monkeypatch):
    """Files of one name in folders of Moodle's, names of one's own, two lessons of one student."""
    monkeypatch.setattr("qlstm.course.grading.command.grade", fake("right", "=1+1"))
    folder = tmp_path / "in"
    for name in ("Ada Lovelace_17_assignsubmission_file_/01_quantizers.ipynb",
                 "Ada Lovelace_17_assignsubmission_file_/02_the_lstm.ipynb",
                 "@Bob_18_assignsubmission_file_/01_quantizers.ipynb",
                 "carl/01_quantizers.ipynb", "03_why_the_gradient_explodes-dora@x.org.ipynb",
                 ".ipynb_checkpoints/01_quantizers.ipynb"):
        notebook(folder / name, "")
    out = tmp_path / "out"
    assert command.main(["grade", str(folder), "--out", str(out)]) == 0
    with (out / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["message"] for row in rows} == {"'=1+1"}
    assert len({row["submission"] for row in rows}) == 5
    matrix = table((out / "matrix.csv").read_text())
    assert [(row["1.1"], row["1.2"], row["total"]) for row in matrix] == [("1", "1", "2")] * 5
    book = table((out / "gradebook.csv").read_text())
    assert [list(row.values()) for row in book] == [
        ["", "", "dora@x.org", "dora@x.org", "", "", "2"],
        ["Participant 18", "'@Bob", "", "", "2", "", ""],
        ["Participant 17", "Ada Lovelace", "", "", "2", "2", ""],
        ["", "", "carl", "", "2", "", ""]]


def test_grades_overwrite_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("qlstm.course.grading.command.grade", fake("right"))
    path = notebook(tmp_path / "01_quantizers.ipynb", "")
    assert command.main(["grade", str(path), "--out", str(tmp_path)]) == 2
    assert "cannot write the grades: " in capsys.readouterr().err
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path / "reports"))
    assert command.main(["grade", str(path)]) == 0
    (folder,) = (tmp_path / "reports" / "grades").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "points.csv", "matrix.csv", "gradebook.csv", "feedback"}


def test_students_are_named_by_what_is_left():
    """Of a submission found in the folder ``in``, and of one that was given itself."""
    for path, name in [
            ("01_quantizers-ada.ipynb", "ada"), ("Copy of 01_quantizers_ada (1).ipynb", "ada"),
            ("ada/01_quantizers.ipynb", "ada"), ("ada/week2/Copy of 01_quantizers.ipynb", "ada"),
            ("ada.ipynb", "ada"), ("01_quantizers-Copy1.ipynb", "01_quantizers-Copy1")]:
        assert tables.student(Path("in") / path, Path("in")) == (name, "")
    moodle = Path("Ada L_1_assignsubmission_file_/01_quantizers.ipynb")
    for given in (moodle, moodle.parent, Path(".")):
        assert tables.student(moodle, given) == ("Ada L", "1")
    given = Path("ada/01_quantizers.ipynb")
    assert tables.student(given, given) == ("ada", "")


def test_each_submission_is_called_otherwise(tmp_path, monkeypatch):
    """Names that differ in what is escaped, a file given twice, pages that have no exercises."""
    monkeypatch.setattr("qlstm.course.grading.command.grade", fake("right"))
    folder = tmp_path / "in"
    for name in ("01_quantizers-eve\n.ipynb", "01_quantizers-eve\\n.ipynb", "START.ipynb",
                 "02b_backpropagation_through_time.ipynb"):
        notebook(folder / name, "")
    out = tmp_path / "out"
    twice = str(folder / "01_quantizers-eve\n.ipynb")
    assert command.main(["grade", str(folder), twice, "--out", str(out)]) == 0
    matrix = table((out / "matrix.csv").read_text())
    assert [row["total"] for row in matrix] == ["2", "2"]
    assert len({row["submission"] for row in matrix}) == 2
    paths = [tmp_path / name / "x.ipynb" for name in "ab"]
    assert tables.labels(paths) == ["a/x.ipynb", "b/x.ipynb"]  # of nobody's folders more


def test_a_folder_without_notebooks_and_odd_limits_are_told(tmp_path, capsys):
    assert command.main(["grade", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "a folder without notebooks" in capsys.readouterr().err
    for option in ("--time=0", "--time=nan", "--memory=0.1", "--memory=inf", "--time=x"):
        with pytest.raises(SystemExit):
            command.main(["grade", str(tmp_path), option])


def test_pages_hint_only_where_a_hint_helps(tmp_path):
    found = tables.Tables(tmp_path / "out")
    found.add("x", ("1.1", 0, "wrong", "no.", 1))
    found.add("x", ("1.2", 0, "not reached", "code cell 3 ended the process", 1))
    found.finish("x", None, ("x", ""))
    found.close()
    page = (tmp_path / "out" / "feedback" / "x.html").read_text()
    assert page.count("Hint: ") == 1
    assert page.count("hand in again") == 1


def test_it_says_why_no_process_begins(run, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false") or "false")
    with pytest.raises(GradingError, match="its process did not start: ended the process"):
        run("steps = 26")
