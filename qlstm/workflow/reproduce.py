"""``make reproduce``, ``plan``, ``report`` and ``data``: train what is missing, then make tables,
figures and the page, with one calm line meanwhile.

Three phases, each a function that takes a plan, does what is in it, and returns the plan of the
next: :func:`train` the runs, :func:`render` the notebooks of records that have none,
:func:`show` tables, figures and page.

Here ``options`` are what the words of the command line say, ``plan`` is as in
:mod:`qlstm.workflow.plan`, ``work`` is what all phases use, and ``found`` the records of the
profile.
"""

import argparse
import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qlstm import data
from qlstm.data.storage import write_atomically
from qlstm.errors import ConfigError, unknown
from qlstm.study import costs, machine, records
from qlstm.study.config import ExperimentConfig
from qlstm.study.grid import ARTEFACTS, FROM_ALL, grid, most_wanted, no_runs
from qlstm.study.locks import exclusive
from qlstm.study.records import reports
from qlstm.study.tasks import PROFILES
from qlstm.workflow import cluster, pool
from qlstm.workflow.command_line import names, stop_when_terminated
from qlstm.workflow.made import OVERVIEW, MadeFrom, copies
from qlstm.workflow.notebooks import check_packages, to_html
from qlstm.workflow.plan import make_plan, with_artefacts, with_records, without_notebook
from qlstm.workflow.progress import Count, Line, Progress, duration
from qlstm.workflow.run import cause

BUSY = 75
"""Exit status (EX_TEMPFAIL): another one is running."""


class Busy(Exception):
    """Another `make reproduce` works in the same folder."""


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
    if options.cluster and options.cluster not in cluster.CLUSTERS:
        raise ConfigError(unknown("cluster", options.cluster, cluster.CLUSTERS))
    if options.cluster and find_spec(f"snakemake_executor_plugin_{options.cluster}") is None:
        python = shlex.quote(sys.executable)
        raise ConfigError(f"CLUSTER={options.cluster} needs one package more: {python} "
                          f"-m pip install -c constraints.txt -e '.[{options.cluster}]'")
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
        jobs: How many runs are trained side by side.
        cluster: The name of the cluster that trains them, or empty.
        progress: What is said meanwhile.
    """

    folder: Path
    jobs: int
    cluster: str
    progress: Progress

    def write(self, plan: dict[str, Any]):
        """Put the ``plan`` where the runs and ``status`` read it."""
        write_atomically(self.folder / "plan.json", json.dumps(plan, indent=1).encode())

    def execute(self, what: str, commands: dict[str, list[str]],
                made: Callable[[str], object] = lambda name: None,
                logs: Path | None = None) -> int:
        """Execute notebooks side by side on this machine, and say which failed and why.

        Args:
            what: What they are, for people.
            commands: The words that follow ``python -m qlstm``, by the name of each.
            made: Called with the name of each that is made.
            logs: The folder of what they print; None: :attr:`logs`.

        Returns:
            How many failed.
        """
        count, logs = Count(what, len(commands), self.progress.line), logs or self.logs

        def ended(name: str, status: int):
            count.one_more()
            if status:
                self.progress.line.say(f"failed: {name}: {pool.cause(logs, name, status)}")
            else:
                made(name)

        commands = {name: [*pool.QLSTM, *words] for name, words in commands.items()}
        outcome = pool.side_by_side(
            commands, min(self.jobs, machine.cores()), watch=count.show, ended=ended,
            say=self.progress.line.say, logs=logs)
        self.progress.line.clear()
        return len(outcome.failed)

    @property
    def logs(self) -> Path:
        """What the processes print, a file each."""
        return self.folder / "logs"


def train(plan: dict[str, Any], work: Work) -> dict[str, Any]:
    """Phase 1: train what is to be trained.

    A record that is out of date stays beside the new one, as ``record.outdated.json``.

    Returns:
        The plan with the failures.
    """
    runs, progress = work.folder / "runs", work.progress
    for run_id in plan["todo"]:
        (runs / run_id / "error.txt").unlink(missing_ok=True)
        if run_id in plan["outdated"]:
            (runs / run_id / "record.json").replace(runs / run_id / "record.outdated.json")
    if work.cluster and plan["todo"]:
        ended = cluster.train(
            work.cluster, work.folder, work.jobs, progress.show, progress.line.say)
        status = ended.get("snakemake", 0)
        failed = {run_id: status for run_id in plan["todo"]
                  if not (runs / run_id / "record.json").exists()}
    else:
        commands = {run_id: [*pool.QLSTM, "run", run_id, "--profile", plan["profile"]]
                    for run_id in plan["todo"]}
        failed = pool.side_by_side(commands, work.jobs, watch=progress.show,
                                   say=progress.line.say, logs=work.logs).failed
    progress.line.clear()
    causes = {run_id: cause(runs / run_id, status) for run_id, status in failed.items()}
    return plan | {"failures": plan["failures"] | causes}


def render(plan: dict[str, Any], work: Work, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Phase 2: execute the notebooks of records that were made without one.

    Returns:
        The plan with all records.
    """
    plan = with_records(plan, found)
    work.write(plan)
    left_out = [record["config"]["dataset"] for record in without_notebook(plan, found)
                if record["run_id"] not in plan["unrendered"]]
    if left_out:
        print(f"{len(left_out)} notebooks are left out: their data sets are not at hand "
              f"({', '.join(dict.fromkeys(left_out))})")
    work.execute("notebooks of records made without one",
                 {run_id: ["run", run_id, "--profile", plan["profile"], "--render"]
                  for run_id in plan["unrendered"]},
                 logs=work.logs / "notebooks")  # those of training stay
    return plan


def show(plan: dict[str, Any], work: Work, found: list[dict[str, Any]],
         only: list[str] | None) -> tuple[dict[str, Any], int]:
    """Phase 3: make tables, figures, lessons and the page, as far as they are not there.

    While a notebook fails the page is made without it, and again by the next call.

    Args:
        plan, work, found: As in the module's legend.
        only: The tables and figures that are asked for; ``None`` for all.

    Returns:
        The plan with the tables and figures, and how many notebooks failed.
    """
    plan = with_artefacts(plan, found, only)
    work.write(plan)
    made_from, wanted = MadeFrom(work.folder), copies(plan, found)
    todo = made_from.outdated(wanted)

    def command(name: str) -> list[str]:
        copy = todo[name]
        words = [f"{key}={json.dumps(value)}" for key, value in copy.parameters.items()]
        return ["notebook", str(copy.source), str(made_from.place(name)), *words]

    others = {name: command(name) for name in todo if name != OVERVIEW}
    failed = work.execute("lessons, tables and figures", others,
                          lambda name: made_from.note(name, todo[name]))
    page, overview = work.folder / "index.html", made_from.place(OVERVIEW)

    def page_made(name: str):
        to_html(overview, page, code=False)
        if not failed:
            made_from.note(name, todo[name])

    if OVERVIEW in todo:  # it shows what the others have made
        failed += work.execute("the page", {OVERVIEW: command(OVERVIEW)}, page_made)
    elif not page.exists():
        to_html(overview, page, code=False)
    return plan, failed


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
        raise ConfigError(no_runs(options.profile, options.only))
    if options.command == "plan":
        wanted = [] if options.profile != "paper" or options.only else most_wanted(
            options.profile, datasets=options.datasets, epochs=options.epochs)
        print("\n".join(costs.plan(configs, options.profile, wanted)))
        return 0
    check_packages()
    folder = reports() / options.profile
    folder.mkdir(parents=True, exist_ok=True)

    def refuse(_):
        raise Busy(f"another `make reproduce` works in {folder}; wait for it (make status shows "
                   "it)")
    with exclusive(folder, refuse):
        return _phases(options, configs, folder)


def _phases(options: argparse.Namespace, configs: list[ExperimentConfig], folder: Path) -> int:
    started, training = time.monotonic(), options.command == "reproduce"
    plan = make_plan(options.profile, configs, training=training)
    jobs = options.jobs or (cluster.JOBS if options.cluster else machine.side_by_side())
    work = Work(folder, jobs, options.cluster, Progress(folder, plan, Line()))
    work.write(plan)
    if options.profile == "paper" and training:
        print("\n".join(costs.plan(configs, options.profile)))
    print(work.progress.opening(jobs), flush=True)
    plan = train(plan, work) if training else plan
    found = records.load_all(options.profile)
    plan = render(plan, work, found)
    plan, failed = show(plan, work, found, options.only)
    for run_id, why in plan["failures"].items():
        if why not in records.SAID:
            print(f"failed: {run_id}: {why}")
    if failed:
        print(f"error: the report is incomplete, see {work.logs}", file=sys.stderr)
    if (folder / "index.html").exists():
        print(f"{duration(time.monotonic() - started)} min. Look at {folder / 'index.html'}")
    return 1 if plan["failures"] or failed else 0


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
    except BrokenPipeError:
        raise
    except (ConfigError, data.DataError, records.RecordError, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return BUSY if isinstance(error, Busy) else 2
    except OSError as error:
        way = ("; make it writable or set QLSTM_REPORTS"
               if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "")
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"error: {what}{way}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
