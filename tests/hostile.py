"""``python tests/hostile.py [NAME ...]``: submissions of lesson 1 that do their worst, graded by
one command (two to six minutes for all).

Each gets the rows that it deserves; files of the lecturer's and the other submissions stay, no
process and no temporary file is left. What each has got is printed, with the seconds it took.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil

from qlstm.course import handouts
from qlstm.course.inside import sandbox

LESSON = next(path for path in handouts.lessons() if path.stem.startswith("01"))
RIGHT, NOT_REACHED = ["right"] * 4, ["right"] * 2 + ["not reached"] * 2
WORD = f"hostile-{os.getpid()}"
FORGED = ("from qlstm.course import exercises\nfrom qlstm.course.exercises import answers\n"
          "exercises.check = exercises.judge = answers.number = answers.same = print\n"
          "import gc, math, os, sys, torch\nmath.isclose = torch.allclose = lambda *a, **k: True\n"
          "from qlstm.course.inside import runner, wire\n"
          "wire.Encoder._tensor = lambda *a: {'right': True}\n"
          "for one in gc.get_objects():\n    if isinstance(one, runner.Runner):\n"
          "        one._call = lambda *a: {'result': None, 'state': 'right'}\n"
          "ternary = print")
BOMB = "import os\nfor _ in range(10):\n    os.fork()\nimport time\ntime.sleep(60)"
DAEMON = f"""import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", '''import time
time.sleep(5)
open({{target!r}}, "w").write("later")''', {WORD!r}])
    os._exit(0)"""
DELETES = """import os, shutil
for place in (os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"], {lecturer!r}):
    shutil.rmtree(place, ignore_errors=True)
for name in os.listdir("/tmp") if os.access("/tmp", os.R_OK) else []:
    if name.startswith("submission-"):
        shutil.rmtree("/tmp/" + name, ignore_errors=True)"""
STUBBORN = ("import time\nwhile True:\n    try:\n        while True:\n            time.sleep(0.1)\n"
            "    except BaseException:\n        pass")
WORST = {
    "perfect": ("", RIGHT),
    "wrong": ("uniform = normal = steps = size = 1\nternary = abs", ["wrong"] * 4),
    "exits": ("import os\nos._exit(0)", NOT_REACHED),
    "killed": ("import os\nos.kill(os.getpid(), 9)", NOT_REACHED),
    "endless": ("while True: pass", RIGHT),
    "stubborn": (STUBBORN, NOT_REACHED),
    "bomb": (BOMB, NOT_REACHED),
    "daemon": (DAEMON, RIGHT),
    "flood": ("for _ in range(100):\n    print('x' * 10**7)\n'x' * 10**9", RIGHT),
    "memory": ("kept = [bytearray(10**9) for _ in range(9)]", RIGHT),
    "writes": ("import os\nfor fd in range(99):\n    try: os.write(fd, bytes(10**5))\n"
               "    except OSError: pass", NOT_REACHED),
    "forged": (FORGED, ["right", "right", "wrong", "right"]),
    "deletes": (DELETES, RIGHT),
}


def main():
    """Grade them, print what each has got, and say what is not as it should be."""
    if sandbox.landlock() < 6:
        sys.exit("needs a Linux with Landlock: these submissions delete whatever they reach")
    chosen = {name: WORST[name] for name in sys.argv[1:] or WORST}
    with tempfile.TemporaryDirectory() as folder:
        lecturer, submissions = Path(folder, "lecturer"), Path(folder, "submissions")
        for place in (lecturer, submissions):
            place.mkdir()
        (lecturer / "exam.txt").write_text("secret")
        for name, (source, _) in chosen.items():
            source = source.replace("{target!r}", repr(str(lecturer / "later"))).replace(
                "{lecturer!r}", repr(str(lecturer)))
            write(submissions / f"{LESSON.stem}-{name}.ipynb", source, name)
        (submissions / f"{LESSON.stem}-empty.ipynb").write_bytes(b"")
        before = contents(lecturer, submissions)
        begin = time.monotonic()
        status = subprocess.run(
            [sys.executable, "-m", "qlstm", "course", "grade", str(submissions), "--out",
             f"{folder}/grades", "--time", "20"], stdout=subprocess.DEVNULL, check=False).returncode
        print(f"{time.monotonic() - begin:.0f} s, exit status {status}")
        time.sleep(6)  # what writes later would have
        faults = [] if contents(lecturer, submissions) == before else ["files have changed"]
        faults += [f"{left} runs on" for left in psutil.process_iter(["cmdline"])
                   if WORD in " ".join(left.info.get("cmdline") or [])]
        with Path(folder, "grades", "points.csv").open() as file:
            faults += judged(list(csv.DictReader(file)), chosen)
    sys.exit("\n".join(faults))


def write(path, source, name):
    """The lesson with solutions and one more cell: after the second exercise, or at the end of the
    answers; in Colab's way, with lines ended as on Windows, without ids and tags."""
    lesson = nbformat.read(LESSON, as_version=4)
    cells = [cell for cell in handouts.solution(lesson).cells if cell.cell_type == "code"]
    checks = [i for i, cell in enumerate(cells) if handouts.tagged(cell, "check")]
    worst = {"cell_type": "code", "source": source, "metadata": {"id": "aB3"}}
    plain = [{"cell_type": "code", "source": cell.source.splitlines(True), "metadata": {}}
             for cell in cells]
    if name in ("wrong", "forged"):  # before each check
        for i in reversed(checks if name == "wrong" else checks[2:3]):
            plain.insert(i, worst)
    else:
        plain.insert(checks[1] + 1, worst)
    text = json.dumps({"nbformat": 4, "nbformat_minor": 0, "cells": plain,
                       "metadata": {"colab": {"provenance": []}}}, indent=1)
    path.write_bytes(text.replace("\n", "\r\n").encode())


def contents(*folders):
    """All files in folders, with what is in them."""
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*")}


def judged(rows, chosen):
    """What is wrong in the rows."""
    faults = []
    for name, (_, expected) in {**chosen, "empty": ("", ["not graded"])}.items():
        own = [row for row in rows if row["submission"] == f"{LESSON.stem}-{name}.ipynb"]
        states = [row["outcome"] for row in sorted(own, key=lambda row: row["exercise"])]
        seconds = max((float(row["seconds"]) for row in own), default=0)
        said = next((row["message"] for row in own if row["points"] == "0"), "")
        print(f"{name:9} {seconds:5.1f} s  {', '.join(states)}  {said[:150]}")
        if states != expected:
            faults += [f"{name}: {states} in place of {expected}", *(row["message"] for row in own)]
    return faults


if __name__ == "__main__":
    main()
