"""``python -m qlstm course``: hand-outs, slides, grades, and the outputs of the lessons."""

import argparse
import math
import sys
from pathlib import Path

from qlstm.course.handouts import LEARN, work, write
from qlstm.data.storage import lessons
from qlstm.errors import LineError
from qlstm.study.records import reports

FOLDERS = {
    "write": "the lessons for a class: hand-outs, with solutions, slides",
    "work": "the lessons to work in: what was worked in stays",
    "slides": "a deck of slides for each class",
}
"""The commands that write into a folder."""


def main(arguments: list[str]) -> int:
    """Write the hand-outs, grade submissions, or run lessons and store their outputs.

    Args:
        arguments: The words of the command line: ``write [FOLDER]``, ``work [FOLDER]``,
            ``slides [FOLDER]``, ``grade SUBMISSION ...`` or ``store NOTEBOOK ...``.

    Returns:
        The exit status: 1 if a notebook could not be graded, or a cell of a lesson failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm course", description="Hand-outs of the lessons, and grades.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in FOLDERS.items():
        commands.add_parser(name, help=about).add_argument(
            "folder", type=Path, nargs="?", default=reports() / "course")
    grade = commands.add_parser("grade", help="run students' notebooks")
    grade.add_argument("submissions", type=Path, nargs="+", metavar="SUBMISSION",
                       help="a notebook, or a folder of notebooks")
    grade.add_argument("--out", type=Path, metavar="FOLDER",
                       help="a new one, for tables and pages (reports/grades/DATE)")
    grade.add_argument("--memory", type=_at_least_one, default=4, metavar="GIB",
                       help="that a submission may take (4)")
    grade.add_argument("--time", type=_at_least_one, default=300, metavar="SECONDS",
                       help="that a cell may take (300)")
    commands.add_parser("store", help="run lessons and store their outputs in them").add_argument(
        "notebooks", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    if options.command == "grade":
        from qlstm.course.grading import Limits
        from qlstm.course.grading.command import grades

        return grades(options.submissions, options.out, Limits(options.memory, options.time))
    if options.command == "store":
        from qlstm.course.storing import store

        return max(map(store, options.notebooks))
    return _write(options.command, options.folder)


def _at_least_one(text: str) -> float:
    if not 1 <= (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 1 or more")
    return value


def _write(command: str, folder: Path) -> int:
    if not lessons():
        print(f"error: there are no lessons in {LEARN}; start it in the folder of the repository",
              file=sys.stderr)
        return 2
    try:
        return {"write": _class, "work": _work, "slides": _slides}[command](folder)
    except LineError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: cannot write the hand-outs: {error}", file=sys.stderr)
    return 1


def _class(folder: Path) -> int:
    _tell_moved(write(folder))
    print(f"for students: {folder / 'exercises.zip'} (and as a folder: exercises)\n"
          f"with solutions: {folder / 'solutions'}")
    return _slides(folder)


def _work(folder: Path) -> int:
    kept, moved = work(folder)
    _tell_moved(moved)
    if kept:
        print(f"kept, as worked in: {', '.join(path.name for path in kept)} "
              "(remove one to have it anew)")
    print(f"to work in: {folder / 'work'}")
    return 0


def _slides(folder: Path) -> int:
    from qlstm.course import slides

    print(f"slides: {', '.join(map(str, slides.write(folder / 'slides')))}")
    return 0


def _tell_moved(moved: list[Path]):
    for folder in dict.fromkeys(path.parent for path in moved):
        names = [path.name for path in moved if path.parent == folder]
        print(f"moved to {folder}, as somebody's own: {', '.join(names)}")
