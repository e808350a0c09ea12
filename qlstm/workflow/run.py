"""``python -m qlstm run [RUN_ID ...]``: train runs of a profile's grid, each with its notebook or
without.

The workflow calls it once a run. Several runs, or those of a table (``--only table_3 --seeds 3``),
train side by side, a process each, for at most ``--minutes``; the same command goes on from there.
``--most-wanted`` gives a machine that nobody watches what it is to train, in the order in which it
is wanted (:data:`qlstm.study.grid.MOST_WANTED`), as far as the data sets can be had.
With ``--no-notebook`` it needs nothing but torch, numpy and safetensors.

Here ``options`` are what the words of the command line say; ``run_id`` is the name of a run,
``settings`` the fields of its configuration by name, and ``directory`` its folder.
"""

import argparse
import contextlib
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from qlstm.data.files import DataError
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError, unknown
from qlstm.study import machine, records
from qlstm.study.records import reports
from qlstm.workflow import notebooks, pool
from qlstm.workflow.command_line import names, stop_when_terminated

NOTEBOOK = ROOT / "notebooks" / "run" / "experiment.ipynb"
"""The notebook that a run is made in."""
UNFINISHED = 75
"""Exit status (EX_TEMPFAIL): what is left goes on with the same command."""
EXPECTED = (ConfigError, DataError, notebooks.NotebookError, records.RecordError, OSError,
            MemoryError)
"""Errors that say all there is to say in a line; others leave their traceback in the log."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the words of the command line.

    Args:
        arguments: The words that follow ``python -m qlstm run``.

    Raises:
        ConfigError: A number is too small, a backend is unknown, or options exclude each other.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm run", description="Train runs of a profile's grid.")
    parser.add_argument("run_ids", nargs="*", metavar="run_id",
                        help="the names of runs; none: all that are selected")
    parser.add_argument("--profile", default="quick", choices=["smoke", "quick", "paper"])
    parser.add_argument("--most-wanted", action="store_true",
                        help="what is to be trained first, in that order")
    parser.add_argument("--no-notebook", action="store_true",
                        help="train in a plain process; make report makes the notebook")
    parser.add_argument("--render", action="store_true",
                        help="execute the notebook of a finished run; trains nothing")
    parser.add_argument(
        "--minutes", type=float, help="stop after so long; status 75 if something is left")
    parser.add_argument(
        "--jobs", type=int, help="runs side by side; default: 4 a GPU, else one a core, at most 8")
    parser.add_argument("--only", type=names, help="tables and figures, e.g. table_3")
    parser.add_argument("--datasets", type=names, help="data sets, or text files")
    parser.add_argument("--seeds", type=int, help="seeds 0 .. SEEDS-1")
    parser.add_argument("--epochs", type=int, help="instead of the profile's")
    parser.add_argument("--backend", default="auto",
                        help="of the recurrence: naive, cpu, ...; default: the fastest that can")
    options = parser.parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {options.jobs}")
    if options.minutes is not None and not options.minutes > 0:
        raise ConfigError(f"--minutes must be above 0, got {options.minutes:g}")
    if options.most_wanted and (options.run_ids or options.only or options.seeds is not None):
        raise ConfigError("--most-wanted names the runs itself: leave out run ids, --only, --seeds")
    if options.backend != "auto":
        from qlstm.recurrence import check_backend  # needs torch, which takes seconds to load

        check_backend(options.backend)
    return options


def select(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The settings of the runs that are asked for, by their names.

    A run that is named is looked up in the profile's plan (of ``make reproduce``), else in its
    grid. Without names all runs of the grid that the other ``options`` leave are taken, or with
    ``--most-wanted`` those, in their order.

    Raises:
        ConfigError: A run is unknown.
    """
    planned = records.planned(reports() / options.profile)["runs"]
    if options.run_ids and all(run_id in planned for run_id in options.run_ids):
        return {run_id: planned[run_id] for run_id in options.run_ids}
    from qlstm.study.grid import grid, most_wanted  # need torch too

    if options.most_wanted:
        wanted = most_wanted(options.profile, datasets=options.datasets, epochs=options.epochs)
        return {config.run_id: config.as_dict() for config in wanted}
    named = [int(seed) + 1 for run_id in options.run_ids
             for seed in re.findall(r"-seed(\d{1,4})\b", run_id)]
    configs = grid(options.profile, only=options.only, datasets=options.datasets,
                   epochs=options.epochs,
                   seeds=max([options.seeds if options.seeds is not None else 1, *named]))
    known = planned | {config.run_id: config.as_dict() for config in configs}
    for run_id in options.run_ids:
        if run_id not in known:
            raise ConfigError(unknown("run", run_id, known))
    chosen = options.run_ids or [config.run_id for config in configs]
    return {run_id: known[run_id] for run_id in chosen}


def one(run_id: str, settings: dict[str, Any], options: argparse.Namespace) -> int:
    """Train one run in this process, and return the exit status.

    If it fails, its cause is one line on stderr and in ``error.txt`` of its folder, and the status
    is 1, or :data:`~qlstm.workflow.pool.NO_MEMORY`.
    """
    directory = reports() / options.profile / "runs" / run_id
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "error.txt").unlink(missing_ok=True)
        with machine.one_gpu():
            if options.no_notebook:
                plain(run_id, settings, directory, options.backend)
            else:
                parameters = settings | {"directory": str(directory), "backend": options.backend,
                                         "train": not options.render}
                notebooks.execute(NOTEBOOK, directory / "notebook.ipynb", parameters)
        records.load_of(run_id, options.profile)
        (directory / "checkpoint.pt").unlink(missing_ok=True)
    except Exception as error:
        cause = " ".join(str(error).removeprefix(f"{run_id}: ").split())
        if not isinstance(error, EXPECTED):
            traceback.print_exc()
            cause = f"{type(error).__name__}: {cause}"
        print(f"error: {run_id}: {cause}", file=sys.stderr)
        _note(directory, cause)
        return pool.NO_MEMORY if isinstance(error, MemoryError) else getattr(
            error, "exit_status", 1)
    return 0


def plain(run_id: str, settings: dict[str, Any], directory: Path, backend: str = "auto"):
    """Train one run without a notebook, its recurrence by the ``backend``; the notebook of an
    earlier record in its folder is removed."""
    from qlstm.study.config import ExperimentConfig
    from qlstm.study.training import run

    record = directory / "record.json"
    before = record.read_bytes() if record.exists() else None
    run(ExperimentConfig(**settings), directory, backend=backend,
        report=lambda line: print(f"{run_id}: {line.removeprefix(f'{run_id}: ')}", flush=True))
    if record.read_bytes() != before:
        for kind in ("ipynb", "html"):
            (directory / f"notebook.{kind}").unlink(missing_ok=True)


def several(runs: dict[str, dict[str, Any]], options: argparse.Namespace) -> int:
    """Train runs side by side, a process each, and stop them when the time is over.

    A process may be killed at any moment: whatever it has finished stays, and it, or the next call,
    goes on after that. If one fails, that is told at once and again at the end.

    Args:
        runs: The settings of the runs, by their names.
        options: Those of the command line.

    Returns:
        The exit status: 1 if a run failed, :data:`UNFINISHED` if one is left, else 0.
    """
    over = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    folder = reports() / options.profile / "runs"
    done, waiting = _done_and_waiting(runs, options)
    total = len(done) + len(waiting)
    jobs = min(options.jobs or machine.side_by_side(), total)
    at_start = {run_id: epochs_done(folder / run_id) for run_id in waiting}
    print(f"{total} runs, {len(done)} done before, {jobs} side by side", flush=True)
    commands = {run_id: [*pool.QLSTM, "run", run_id, *_selection(options)] for run_id in waiting}
    outcome = pool.side_by_side(commands, jobs, over=over)
    for run_id, status in outcome.failed.items():
        print(f"failed: {run_id}: {cause(folder / run_id, status)}")
    for run_id in outcome.working:
        epochs = epochs_done(folder / run_id)
        slow = ("; none ended in this call, so the time limit may be too short"
                if epochs == at_start[run_id] else "")
        print(f"not finished: {run_id}, {epochs} of {runs[run_id]['epochs']} epochs{slow}")
    failed, left = len(outcome.failed), len(outcome.working) + len(outcome.waiting)
    print(f"{total - failed - left} done, {failed} failed, {left} not finished"
          + ("; the same command goes on from here" if left else ""))
    return 1 if failed else UNFINISHED if left else 0


def _done_and_waiting(runs: dict[str, dict[str, Any]],
                      options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The runs that have a record, and those that are to be trained. A data set that cannot be had
    is an error; but with ``--most-wanted`` its runs are left out, as long as others are there."""
    from qlstm.data.catalogue import load_dataset

    texts, missing = {}, {}
    for name, task in dict.fromkeys((s["dataset"], s["task"]) for s in runs.values()):
        try:
            texts[name] = load_dataset(name, task).sha256
        except DataError as error:
            if not options.most_wanted:
                raise
            texts[name], missing[name] = None, error
    done = [run_id for run_id, settings in runs.items()
            if finished(run_id, settings, options.profile, texts[settings["dataset"]])]
    left = [run_id for run_id in runs if run_id not in done]
    waiting = [run_id for run_id in left if runs[run_id]["dataset"] not in missing]
    if left and not waiting:
        raise next(iter(missing.values()))
    if left_out := len(left) - len(waiting):
        print(f"{left_out} runs are left out, as their data sets cannot be had: "
              f"{', '.join(missing)} (make data says why)", flush=True)
    return done, waiting


def cause(directory: Path, status: int) -> str:
    """Why the process of a run failed, in a line: what it left in ``error.txt``, else how it ended,
    which then stands there.

    Args:
        directory: As in the module's legend.
        status: As in :mod:`qlstm.workflow.pool`.
    """
    with contextlib.suppress(OSError, IndexError):
        return (directory / "error.txt").read_text(
            encoding="utf-8", errors="replace").splitlines()[0]
    why = f"its process {pool.how_ended(status)}"
    _note(directory, why)
    return why


def _note(directory: Path, cause: str):
    """Leave the cause of a failure in a run's folder, where ``status`` finds it."""
    with contextlib.suppress(OSError):  # the disk may be full, or read-only
        (directory / "error.txt").write_text(f"{cause}\n", encoding="utf-8", errors="replace")


def _selection(options: argparse.Namespace) -> list[str]:
    """The words of the command line that the process of a run is given after its name."""
    given = {name: getattr(options, name)
             for name in ("profile", "only", "datasets", "seeds", "epochs", "backend")}
    words = [f"--{name}={','.join(value) if isinstance(value, list) else value}"
             for name, value in given.items() if value]
    return words + (["--no-notebook"] if options.no_notebook else [])


def finished(run_id: str, settings: dict[str, Any], profile: str, text: str | None) -> bool:
    """Whether a run has its record. One that is damaged or of another run is left to the run's own
    process, which says so.

    Args:
        run_id, settings: As in the module's legend.
        profile: The name of the profile that the run belongs to.
        text: The sha256 of the run's data as it is now; None if it cannot be had.
    """
    try:
        return not records.outdated(records.load_of(run_id, profile), settings, text)
    except records.RecordError:
        return False


def epochs_done(directory: Path) -> int:
    """The epochs that an unfinished run has behind it."""
    try:
        return max(0, (directory / "epochs.jsonl").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def main(arguments: list[str]) -> int:
    """Train the runs that are asked for; an error is one line on stderr.

    Args:
        arguments: The words that follow ``python -m qlstm run``.

    Returns:
        The exit status: 0 if all runs have their record, 1 if one failed, 2 if there is nothing to
        run, :data:`UNFINISHED` if the same command is to go on.
    """
    try:
        options = parse(arguments)
        if not options.no_notebook:
            notebooks.check_packages()
        runs = select(options)
        if not runs:
            from qlstm.study.grid import no_runs

            raise ConfigError(no_runs(options.profile, options.only))
        if len(options.run_ids) == 1 and options.minutes is None:
            return one(*next(iter(runs.items())), options)
        stop_when_terminated()
        return several(runs, options)
    except BrokenPipeError:
        raise
    except (ConfigError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return UNFINISHED
