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
        arguments: The words of the command line: ``write [FOLDER]``, ``grade NOTEBOOK ...`` or
            ``store NOTEBOOK ...``.

    Returns:
        The exit status: 1 if a notebook could not be graded, or a cell of a lesson failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm course", description="Hand-outs of the lessons, and grades.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="the lessons as hand-outs, and with solutions").add_argument(
        "folder", type=Path, nargs="?", default=reports() / "course")
    commands.add_parser("grade", help="run students' notebooks").add_argument(
        "notebooks", type=Path, nargs="+")
    commands.add_parser("store", help="run lessons and store their outputs in them").add_argument(
        "notebooks", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    if options.command == "grade":
        from qlstm.course.grading import grades

        return grades(options.notebooks)
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
