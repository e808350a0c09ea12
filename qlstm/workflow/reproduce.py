"""``make reproduce``, ``plan``, ``report`` and ``data``: train what is missing, then make tables,
figures and the page, with one calm line meanwhile.

Three phases, each a function that takes a plan, lets the engine do what is in it, and returns the
plan of the next: :func:`train` the runs, :func:`render` the notebooks of records that have none,
:func:`show` tables, figures and page.

Here ``options`` are what the words of the command line say, ``plan`` is as in
:mod:`qlstm.workflow.plan`, ``work`` is what all phases use, and ``found`` the records of the
profile.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qlstm import data
from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError, unknown
from qlstm.study import costs, machine, records
from qlstm.study.config import ExperimentConfig
from qlstm.study.grid import ARTEFACTS, FROM_ALL, grid, most_wanted
from qlstm.study.records import reports
from qlstm.study.tasks import PROFILES
from qlstm.workflow.command_line import names, stop_when_terminated
from qlstm.workflow.engine import Busy, engine, sole
from qlstm.workflow.plan import make_plan, with_artefacts, with_records, without_notebook
from qlstm.workflow.progress import Progress

BUSY = 75
"""Exit status (EX_TEMPFAIL): another one is running."""
CLUSTERS = ["slurm"]
CLUSTER_JOBS = 100
"""Jobs that a cluster is given at once where JOBS does not say."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the words of the command line, which the Makefile's variables become.

    Args:
        arguments: The words that follow ``python -m qlstm``, the command first.

    Raises:
        ConfigError: A number is none or too small, or a cluster is unknown or not installed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm", description="Train what is missing, then make tables, figures and "
        "page (reproduce); say what that would take (plan); make them from the records that exist "
        "(report); fetch the data sets (data).")
    parser.add_argument(
        "command", choices=["reproduce", "plan", "report", "data"], nargs="?", default="reproduce")
    parser.add_argument("--profile", default="quick", help=", ".join(PROFILES))
    parser.add_argument("--only", type=names, help=", ".join([*ARTEFACTS, *FROM_ALL]))
    parser.add_argument(
        "--datasets", type=names, help=", ".join(data.CATALOGUE) + ", or text files")
    parser.add_argument("--seeds", default="", help="seeds 0 .. SEEDS-1")
    parser.add_argument("--epochs", default="", help="instead of the profile's")
    parser.add_argument("--jobs", default="",
                        help="runs side by side; default: 4 a GPU, else one a core, at most 8")
    parser.add_argument("--cluster", default="", help="give the runs to a cluster: slurm")
    options = parser.parse_args(arguments)
    for name, default in [("seeds", 1), ("epochs", None), ("jobs", None)]:
        text = getattr(options, name)  # empty if the Makefile's variable is
        if text and not text.lstrip("-").isdigit():
            raise ConfigError(f"{name.upper()} must be a whole number, got {text!r}")
        setattr(options, name, int(text) if text else default)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"JOBS must be 1 or more, got {options.jobs}")
    if options.cluster and options.cluster not in CLUSTERS:
        raise ConfigError(unknown("cluster", options.cluster, CLUSTERS))
    if options.cluster and find_spec(f"snakemake_executor_plugin_{options.cluster}") is None:
        raise ConfigError(f"CLUSTER={options.cluster} needs one package more: .venv/bin/pip "
                          f"install -c constraints.txt -e '.[{options.cluster}]'")
    if options.datasets:  # notebooks run in folders of their own
        options.datasets = [
            os.path.abspath(name) if name not in data.CATALOGUE and os.path.exists(name) else name
            for name in options.datasets]
    return options


@dataclass(frozen=True)
class Work:
    """What all phases use.

    Attributes:
        folder: The folder of the profile.
        lock: The descriptor of the locked file there.
        jobs: How many runs are trained side by side.
        cluster: The name of the cluster that trains them, or empty.
        progress: What is said meanwhile.
    """

    folder: Path
    lock: int
    jobs: int
    cluster: str
    progress: Progress

    def write(self, plan: dict[str, Any]):
        """Put the ``plan`` where the engine, the runs and ``status`` read it."""
        write_atomically(self.folder / "plan.json", json.dumps(plan, indent=1).encode())

    def make(self, plan: dict[str, Any], phase: str, target: str, force: Sequence[str] = ()) -> int:
        """Let the engine make a ``target`` of a later ``phase`` of the ``plan``, on this machine.

        Args:
            plan, phase, target: As in :func:`qlstm.workflow.engine.engine`.
            force: Rules that run in any case.

        Returns:
            The engine's exit status.
        """
        self.write(plan)
        return engine(phase, target, self.folder, min(self.jobs, machine.cores()), self.lock,
                      force=force)

    @property
    def log(self) -> Path:
        """What the engine says."""
        return self.folder / "engine.log"


def train(plan: dict[str, Any], work: Work) -> tuple[dict[str, Any], int]:
    """Phase 1: train what is to be trained.

    A record that is out of date stays beside the new one, as ``record.outdated.json``.

    Returns:
        The plan with the failures, and the engine's exit status.
    """
    if not plan["todo"]:
        return plan, 0
    for run_id in plan["todo"]:
        run = work.folder / "runs" / run_id
        (run / "error.txt").unlink(missing_ok=True)
        if run_id in plan["outdated"]:
            (run / "record.json").replace(run / "record.outdated.json")
    status = engine("runs", "runs", work.folder, work.jobs, work.lock, work.progress.show,
                    cluster=work.cluster, force=["run"])
    return plan | {"failures": work.progress.failures()}, status


def render(plan: dict[str, Any], work: Work, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Phase 2: execute the notebooks of records that were made without one.

    Returns:
        The plan with all records.
    """
    plan = with_records(plan, found)
    todo = len(plan["unrendered"])
    left_out = len(without_notebook(plan, found)) - todo
    if todo:
        work.progress.finish(
            f"{todo} records were made without a notebook; their notebooks are made")
        if work.make(plan, "notebooks", "notebooks"):
            print(f"error: some of these notebooks could not be made, see {work.log}",
                  file=sys.stderr)
    if left_out:
        print(f"{left_out} notebooks are left out: their data sets are not at hand")
    return plan


def show(plan: dict[str, Any], work: Work, found: list[dict[str, Any]],
         only: list[str] | None) -> tuple[dict[str, Any], int]:
    """Phase 3: make tables, figures, lessons and the page of the records.

    What was made from other records is made anew. That is told by the records' checksums, not by
    their ages: one from a machine with another clock, or an older one, counts too.

    Args:
        plan, work, found: As in the module's legend.
        only: The tables and figures that are asked for; ``None`` for all.

    Returns:
        The plan with the tables and figures, and the engine's exit status.
    """
    plan = with_artefacts(plan, found, only)
    work.progress.finish("runs done; lessons, tables and figures are made")
    for path in (work.folder / "notebooks").rglob("*.ipynb"):
        # copied from a machine whose clock is ahead: the engine would stop
        if path.stat().st_mtime > time.time():
            os.utime(path)
    made_from = work.folder / ".made_from"
    now = "".join(record["checksum"] + "\n" for record in found)
    changed = not made_from.exists() or made_from.read_text(encoding="utf-8") != now
    status = work.make(plan, "page", "index.html",
                       force=["report", "explore", "page"] if changed else [])
    if not status:
        write_atomically(made_from, now.encode())
    work.progress.clear()
    return plan, status


def reproduce(options: argparse.Namespace) -> int:
    """Make the selected tables and figures, or say what that would take; see ``make help``.

    Returns:
        The exit status: 1 if a run or the page failed, else 0.

    Raises:
        ConfigError: Nothing is selected.
        Busy: Another one works in the same folder.
    """
    configs = grid(options.profile, only=options.only, datasets=options.datasets,
                   seeds=options.seeds, epochs=options.epochs)
    if not configs and not set(options.only or []) & set(FROM_ALL):
        raise ConfigError("this selection has no runs: the tables and figures asked for are not "
                          "made from these data sets")
    if options.command == "plan":
        wanted = [] if options.profile != "paper" or options.only else most_wanted(
            options.profile, datasets=options.datasets, epochs=options.epochs)
        print("\n".join(costs.plan(configs, options.profile, wanted)))
        return 0
    folder = reports() / options.profile
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass  # writable
    with sole(folder) as lock:
        return _phases(options, configs, folder, lock)


def _phases(options: argparse.Namespace, configs: list[ExperimentConfig], folder: Path,
            lock: int) -> int:
    training = options.command == "reproduce"
    plan = make_plan(options.profile, configs, training=training)
    started = time.monotonic()
    jobs = options.jobs or (CLUSTER_JOBS if options.cluster else machine.side_by_side())
    work = Work(folder, lock, jobs, options.cluster, Progress(folder, plan))
    work.write(plan)
    work.log.write_text("", encoding="utf-8")
    if options.profile == "paper" and training:
        print("\n".join(costs.plan(configs, options.profile)))
    print(work.progress.opening(jobs))
    plan, runs_failed = train(plan, work) if training else (plan, 0)
    found = records.load_all(options.profile)
    plan = render(plan, work, found)
    plan, page_failed = show(plan, work, found, options.only)
    for run_id, cause in plan["failures"].items():
        print(f"failed: {run_id}: {cause}")
    if page_failed:
        print(f"error: the report is incomplete, see {work.log}", file=sys.stderr)
    if (folder / "index.html").exists():
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        print(f"{minutes}:{seconds:02d} min. Look at {folder / 'index.html'}   "
              f"(the engine's log: {work.log})")
    return 1 if runs_failed or page_failed else 0


def fetch(options: argparse.Namespace) -> int:
    """Fetch and check the data sets of a selection, a line each; if one fails the others are still
    tried, and the exit status is 1."""
    chosen = grid(options.profile, only=options.only, datasets=options.datasets)
    failed = 0
    for name in dict.fromkeys(config.dataset for config in chosen):
        try:
            found = data.load_dataset(name)
        except data.DataError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"{name}: {found.summary()}, sha256 {found.sha256[:12]}, {found.source}")
    return failed


def main(arguments: list[str]) -> int:
    """Do one of the four commands; an error is one line on stderr. Finished runs are never touched.

    Args:
        arguments: The words that follow ``python -m qlstm``, the command first.

    Returns:
        The exit status: 0, 1 if something failed, 2 if nothing could be done, :data:`BUSY`, or 130
        if it was stopped.
    """
    stop_when_terminated()
    try:
        options = parse(arguments)
        if options.profile not in PROFILES:
            raise ConfigError(unknown("profile", options.profile, PROFILES))
        return fetch(options) if options.command == "data" else reproduce(options)
    except (ConfigError, data.DataError, records.RecordError, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return BUSY if isinstance(error, Busy) else 2
    except OSError as error:
        place = error.filename or reports() / options.profile
        print(f"error: cannot write {place}: {error.strerror}; make it writable or set "
              "QLSTM_REPORTS", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
