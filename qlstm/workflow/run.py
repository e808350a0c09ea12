"""``python -m qlstm run [RUN_ID ...]``: train runs of a profile's grid, each with its notebook or
without.

The workflow calls it once a run. Several runs, or those of a table (``--only table_3 --seeds 3``),
train side by side, a process each, for at most ``--minutes``; the same command goes on from there.
With ``--no-notebook`` it needs nothing but torch, numpy and safetensors.

Inside, ``options`` are those of the command line ``arguments``, ``settings`` the fields of a run's
configuration, ``run_id`` and ``directory`` its name and folder, ``profile`` that of its grid,
``text`` the sha256 of its data.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from qlstm.data.files import DataError
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError, unknown
from qlstm.study import machine, records
from qlstm.study.records import reports
from qlstm.study.tasks import TASKS
from qlstm.workflow import notebooks

UNFINISHED = 75
"""Exit status (EX_TEMPFAIL): what is left goes on with the same command."""
GRACE = 10
"""Seconds between asking a process to end and killing it."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options of the command line ``arguments``."""
    names = lambda text: text.replace(",", " ").split() or None  # noqa: E731
    parser = argparse.ArgumentParser(
        prog="python -m qlstm run", description="Train runs of a profile's grid.")
    parser.add_argument("run_ids", nargs="*", metavar="run_id",
                        help="the names of runs; none: all that are selected")
    parser.add_argument("--profile", default="quick", choices=["smoke", "quick", "paper"])
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
    options = parser.parse_args(arguments)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {options.jobs}")
    if options.minutes is not None and not options.minutes > 0:
        raise ConfigError(f"--minutes must be above 0, got {options.minutes:g}")
    return options


def select(options) -> dict[str, dict[str, Any]]:
    """Settings by run id: of the runs named, from the profile's plan (``make reproduce``) or its
    grid, else of all."""
    try:
        planned = json.loads(
            (reports() / options.profile / "plan.json").read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError):
        planned = {}
    if options.run_ids and all(run_id in planned for run_id in options.run_ids):
        return {run_id: planned[run_id] for run_id in options.run_ids}
    from qlstm.study.grid import grid  # needs torch, which takes seconds to load

    named = [int(seed) + 1 for run_id in options.run_ids
             for seed in re.findall(r"-seed(\d{1,4})\b", run_id)]
    configs = grid(options.profile, only=options.only, datasets=options.datasets,
                   epochs=options.epochs,
                   seeds=max([options.seeds if options.seeds is not None else 1, *named]))
    known = planned | {config.run_id: config.as_dict() for config in configs}
    for run_id in options.run_ids:
        if run_id not in known:
            raise ConfigError(unknown("run", run_id, known))
    return {
        run_id: known[run_id] for run_id in options.run_ids or [config.run_id for config in configs]
    }


def one(run_id: str, settings: dict[str, Any], options) -> int:
    """Train one run in this process; on failure one line on stderr and in ``error.txt`` of its
    folder, status 1."""
    directory = reports() / options.profile / "runs" / run_id
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "error.txt").unlink(missing_ok=True)
        with machine.one_gpu():
            if options.no_notebook:
                plain(run_id, settings, directory)
            else:
                parameters = settings | {"directory": str(directory), "train": not options.render}
                notebook = f"{TASKS[settings['task']].notebook}.ipynb"
                notebooks.execute(
                    ROOT / "notebooks" / "run" / notebook, directory / "notebook.ipynb", parameters)
        records.load_of(run_id, options.profile)
        (directory / "checkpoint.pt").unlink(missing_ok=True)
    except (ConfigError, DataError, notebooks.NotebookError, records.RecordError, OSError,
            MemoryError) as error:
        print(f"error: {run_id}: {str(error).removeprefix(f'{run_id}: ')}", file=sys.stderr)
        with contextlib.suppress(OSError):  # the disk may be full
            (directory / "error.txt").write_text(f"{error}\n", encoding="utf-8")
        return 1
    return 0


def plain(run_id: str, settings: dict[str, Any], directory: Path):
    """Train in this process; a notebook of an earlier record in the folder goes."""
    from qlstm.study.config import ExperimentConfig
    from qlstm.study.training import run

    before = (
        (directory / "record.json").read_bytes() if (directory / "record.json").exists() else None)
    run(ExperimentConfig(**settings), directory,
        report=lambda line: print(f"{run_id}: {line.removeprefix(f'{run_id}: ')}", flush=True))
    if (directory / "record.json").read_bytes() != before:
        for kind in ("ipynb", "html"):
            (directory / f"notebook.{kind}").unlink(missing_ok=True)


def several(runs: dict[str, dict[str, Any]], options) -> int:
    """Train runs side by side, a process each, and stop them when the time is over.

    A process may be killed at any moment: whatever it has finished stays, and the next call goes on
    after it.
    """
    from qlstm.data.catalogue import load_dataset

    over = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    jobs = min(options.jobs or machine.side_by_side(), len(runs))
    selection = [f"--{name}={','.join(map(str, value)) if isinstance(value, list) else value}"
                 for name in ("profile", "only", "datasets", "seeds", "epochs")
                 if (value := getattr(options, name))]
    selection += ["--no-notebook"] if options.no_notebook else []
    folder, working, status = reports() / options.profile / "runs", {}, {}
    texts = {name: load_dataset(name, task).sha256
             for name, task in dict.fromkeys((s["dataset"], s["task"]) for s in runs.values())}
    waiting = [run_id for run_id, settings in runs.items()
               if not finished(run_id, settings, options.profile, texts[settings["dataset"]])]
    done_before = len(runs) - len(waiting)
    at_start = {run_id: epochs_done(folder / run_id) for run_id in runs}
    print(f"{len(runs)} runs, {done_before} done before, {jobs} side by side", flush=True)
    try:
        while (waiting or working) and time.monotonic() < over:
            while waiting and len(working) < jobs:
                run_id = waiting.pop(0)
                command = [sys.executable, "-m", "qlstm", "run", run_id, *selection]
                working[run_id] = subprocess.Popen(command, env=machine.threads(jobs) | os.environ)
            time.sleep(0.1)
            status |= {run_id: child.returncode for run_id, child in working.items()
                       if child.poll() is not None}
            working = {run_id: child for run_id, child in working.items() if run_id not in status}
    finally:
        for child in working.values():
            child.terminate()
        for child in working.values():
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()
    failed = [run_id for run_id, code in status.items() if code]
    left = [*working, *waiting]
    for run_id in working:
        epochs = epochs_done(folder / run_id)
        slow = ("; none ended in this call, so the time limit may be too short"
                if epochs == at_start[run_id] else "")
        print(f"not finished: {run_id}, {epochs} of {runs[run_id]['epochs']} epochs{slow}")
    print(
        f"{len(runs) - len(failed) - len(left)} done, {len(failed)} failed, {len(left)} not finished"
        + ("; the same command goes on from here" if left else "")
    )
    return 1 if failed else UNFINISHED if left else 0


def finished(run_id: str, settings: dict[str, Any], profile: str, text: str) -> bool:
    """Whether a run has its record. A record that is damaged or of another run is left to the run's
    own process."""
    try:
        return not records.outdated(records.load_of(run_id, profile), settings, text)
    except records.RecordError:
        return False


def epochs_done(directory: Path) -> int:
    """Epochs that an unfinished run has behind it."""
    try:
        return max(0, (directory / "epochs.jsonl").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def terminate(*_):
    """SIGTERM, as a cluster sends it, stops the runs as Ctrl-C does."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Errors are one line on stderr; exit status 1: a run failed, 2: nothing to run, 75: not
    finished."""
    try:
        options = parse(arguments)
        runs = select(options)
        if not runs:
            raise ConfigError("this selection has no runs")
        if len(options.run_ids) == 1 and options.minutes is None:
            return one(*next(iter(runs.items())), options)
        signal.signal(signal.SIGTERM, terminate)
        return several(runs, options)
    except (ConfigError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return UNFINISHED
