"""``python -m qlstm course``: hand-outs, grades, and the outputs of the lessons."""

import argparse
import sys
from pathlib import Path

from qlstm.course.handouts import LEARN, write
from qlstm.data.storage import lessons
from qlstm.study.records import reports


def main(arguments: list[str]) -> int:
    """Write the hand-outs, grade submissions, or run lessons and store their outputs.

    Args:
        arguments: The words of the command line: ``write [FOLDER]``, ``grade SUBMISSION ...`` or
            ``store NOTEBOOK ...``.

    Returns:
        The exit status: 1 if a notebook could not be graded, or a cell of a lesson failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm course", description="Hand-outs of the lessons, and grades.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="the lessons as hand-outs, and with solutions").add_argument(
        "folder", type=Path, nargs="?", default=reports() / "course")
    grade = commands.add_parser("grade", help="run students' notebooks")
    grade.add_argument("submissions", type=Path, nargs="+", metavar="SUBMISSION",
                       help="a notebook, or a folder of notebooks")
    grade.add_argument("--out", type=Path, metavar="FOLDER",
                       help="a new one, for tables and pages (reports/grades/DATE)")
    grade.add_argument("--memory", type=float, default=4, metavar="GIB",
                       help="that a submission may take (4)")
    grade.add_argument("--time", type=float, default=300, metavar="SECONDS",
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
    return _write(options.folder)


def _write(folder: Path) -> int:
    if not lessons():
        print(f"error: there are no lessons in {LEARN}; start it in the folder of the repository",
              file=sys.stderr)
        return 2
    try:
        kept = write(folder)
    except OSError as error:
        print(f"error: cannot write the hand-outs: {error}", file=sys.stderr)
        return 1
    if kept:
        print(f"kept, as worked in: {', '.join(path.name for path in kept)} "
              "(remove one to have it anew)")
    print(f"hand-outs: {folder / 'exercises'}   with solutions: {folder / 'solutions'}")
    return 0
