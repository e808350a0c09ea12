"""``python -m qlstm clean``: remove what ``make reproduce`` made of the profiles smoke and quick.

Runs that it would not make again by itself, which are those outside of the profile's own grid, such
as of other seeds, texts and lengths, are removed only if that is said.
"""

import argparse
import shutil
import sys

from qlstm.study.records import reports

PROFILES = ("smoke", "quick")
"""The profiles whose results are removed; those of ``paper`` took weeks, and are tracked by git."""


def by_hand(profile: str) -> list[str]:
    """The names of the runs of a ``profile`` that have begun and are not in its own grid."""
    from qlstm.study.grid import grid  # needs torch, which takes seconds to load

    own = {config.run_id for config in grid(profile)}
    return sorted(
        run.name for run in (reports() / profile / "runs").glob("*") if run.name not in own
        and any((run / name).exists() for name in ("record.json", "epochs.jsonl")))


def main(arguments: list[str]) -> int:
    """Remove the folders; where they have runs outside of their grids, ask.

    Args:
        arguments: The words that follow ``python -m qlstm clean``.

    Returns:
        The exit status: 1 if nothing was removed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm clean", description="Remove the results of smoke and quick.")
    parser.add_argument("--yes", action="store_true", help="runs outside of their grids too")
    options = parser.parse_args(arguments)
    folders = [folder for name in PROFILES if (folder := reports() / name).exists()]
    runs = [f"{folder.name}: {run}" for folder in folders for run in by_hand(folder.name)]
    if runs and not options.yes:
        print(f"{len(runs)} runs that make reproduce does not make again by itself:")
        print("\n".join(f"  {run}" for run in runs))
        if not sys.stdin.isatty():
            print("error: nothing is removed; make clean YES=1 removes these too", file=sys.stderr)
            return 1
        if input("remove them too? y/N ").strip().lower() not in ("y", "yes"):
            print("nothing is removed")
            return 1
    for folder in folders:
        shutil.rmtree(folder)
    return 0
