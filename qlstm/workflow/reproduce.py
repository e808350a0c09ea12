"""``make reproduce``, ``plan``, ``report`` and ``data``: plan the runs, fetch the data, drive the
engine, show one calm line.

Inside, ``arguments`` are the words of the command line and ``options`` what they say; ``configs``:
the selected runs; ``folder``: of the profile. ``lock``: an open file, of which the engine's
processes hold a copy; ``watch``: called while the engine works; ``cluster``: its name, or empty.
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psutil

from qlstm import data
from qlstm.data.storage import ROOT, raw_data, write_atomically
from qlstm.errors import ConfigError, unknown
from qlstm.report import tables
from qlstm.study import costs, machine, records
from qlstm.study.grid import ARTEFACTS, FROM_ALL, grid
from qlstm.study.records import reports
from qlstm.study.tasks import PROFILES, TASKS
from qlstm.workflow.progress import Progress

REPORTED_IN = {"statistics": "reviewers", "gru": "reviewers"}
"""Experiments that another report shows."""
BUSY = 75  # EX_TEMPFAIL: another one is running
CLUSTERS = ["slurm"]
CLUSTER_JOBS = 100
"""Jobs that a cluster is given at once where JOBS does not say."""


def parse(arguments=None):
    """The options that the Makefile's variables become."""
    names = lambda text: text.replace(",", " ").split() or None  # noqa: E731
    parser = argparse.ArgumentParser(prog="make reproduce", description=__doc__)
    parser.add_argument(
        "command", choices=["reproduce", "plan", "report", "data"], nargs="?", default="reproduce")
    parser.add_argument("--profile", default="quick", help=", ".join(PROFILES))
    parser.add_argument("--only", type=names, default=None, help=", ".join([*ARTEFACTS, *FROM_ALL]))
    parser.add_argument(
        "--datasets", type=names, default=None, help=", ".join(data.CATALOGUE) + ", or text files")
    parser.add_argument("--seeds", default="", help="seeds 0 .. SEEDS-1")
    parser.add_argument("--epochs", default="", help="instead of the profile's")
    parser.add_argument(
        "--jobs", default="", help="runs side by side; default: 4 a GPU, else one a core, at most 8"
    )
    parser.add_argument("--cluster", default="", help="give the runs to a cluster: slurm")
    options = parser.parse_args(arguments)
    for name, default in [("seeds", 1), ("epochs", None), ("jobs", None)]:
        text = getattr(options, name)
        if text and not text.lstrip("-").isdigit():
            raise ConfigError(f"{name.upper()} must be a whole number, got {text!r}")
        setattr(options, name, int(text) if text else default)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"JOBS must be 1 or more, got {options.jobs}")
    if options.cluster and options.cluster not in CLUSTERS:
        raise ConfigError(unknown("cluster", options.cluster, CLUSTERS))
    if options.cluster and find_spec(f"snakemake_executor_plugin_{options.cluster}") is None:
        raise ConfigError(
            f"CLUSTER={options.cluster} needs one package more: .venv/bin/pip install -c constraints.txt -e '.[{options.cluster}]'"
        )
    if options.datasets:  # notebooks run in folders of their own
        options.datasets = [
            os.path.abspath(name) if name not in data.CATALOGUE and os.path.exists(name) else name
            for name in options.datasets]
    return options


def plan(options, configs) -> dict:
    """What is to be done, for the engine; earlier plans' runs stay known.

    ``todo``: runs without a record of these settings, this text and this code; ``outdated``: those
    of them that have another record, and in what it differs. Raises ``RecordError`` if a record is
    damaged or of another run.
    """
    path = reports() / options.profile / "plan.json"
    known = {}
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))["runs"]
        except (ValueError, KeyError):
            print(f"{path} is damaged and is written anew")
    runs = {config.run_id: config for config in configs}
    texts = {}
    for name in dict.fromkeys(config.dataset for config in configs):
        if options.command == "report" and not costs.at_hand(name):
            texts[name] = None  # records are shown without it
            continue
        try:
            texts[name] = data.load_dataset(
                name, next(c.task for c in configs if c.dataset == name)).sha256
        except data.DataError as error:
            raise data.DataError(f"{error} (DATASETS=... leaves {name} out)") from None
    todo, outdated = [], {}
    for run_id, config in runs.items():
        if not (path.parent / "runs" / run_id / "record.json").exists():
            todo.append(run_id)
        elif why := records.outdated(
                records.load_of(run_id, options.profile), config.as_dict(), texts[config.dataset]):
            todo.append(run_id)
            outdated[run_id] = why
    return {
        "profile": options.profile,
        "metrics": {name: task.metric.name for name, task in TASKS.items()},
        "runs": known | {run_id: config.as_dict() for run_id, config in runs.items()},
        "selected": list(runs),
        "todo": todo,
        "outdated": outdated,
        "unrendered": [],
        "artefacts": [],
        "records": [],
        "lessons": [
            f"learn/{path.stem}" for path in sorted((ROOT / "notebooks" / "learn").glob("*.ipynb"))
        ],
        "failures": {},
    }


class Busy(Exception):
    """Another `make reproduce` works in the same folder."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but it reaches this process alone."""


@contextlib.contextmanager
def exclusive(folder: Path):
    """One `make reproduce` a profile: a lock that ends with this process and its engine, however
    they end."""
    lock = os.open(folder / ".reproduce.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(
            f"another `make reproduce` works in {folder}; wait for it (make status shows it)"
        ) from None
    else:
        yield lock
    finally:
        os.close(lock)


def engine(
    phase: str, target: str, folder: Path, jobs: int, lock: int, watch, *, cluster="", force=()
) -> int:
    """Run Snakemake in the profile's folder until ``target`` of a phase is made; its output goes to
    ``engine.log``.

    ``force``: rules whose jobs run even if the engine thinks that they need not.
    """
    variables = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "QLSTM_REPORTS": str(reports().resolve()),
                 "QLSTM_DATA": str(raw_data().resolve())}
    variables |= {} if cluster else machine.threads(jobs)
    command = [sys.executable, "-m", "snakemake", target, "--snakefile",
               str(ROOT / "workflow" / "Snakefile"), "--directory", str(folder), "--profile",
               str(ROOT / "workflow" / "profiles" / (cluster or "default")), "--config",
               f"phase={phase}"]
    # locally a run takes a gpu_slot; on a cluster what its profile says
    command += (["--jobs", str(jobs)] if cluster
                else ["--cores", str(jobs), "--resources", f"gpu_slot={jobs}"])
    command += ["--forcerun", *force] if force else []
    with (folder / "engine.log").open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                   env=os.environ | variables, pass_fds=[lock])
        try:
            while process.poll() is None:
                watch()
                time.sleep(0.5)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):  # Ctrl-C reaches all of these by itself
                for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.send_signal(signal.SIGINT)
            process.wait()
            raise
    return process.returncode


def reproduce(options) -> int:
    """Make the selected tables and figures; see ``make help``."""
    configs = grid(options.profile, only=options.only, datasets=options.datasets,
                   seeds=options.seeds, epochs=options.epochs)
    if not configs and not set(options.only or []) & set(FROM_ALL):
        raise ConfigError(
            "this selection has no runs: the tables and figures asked for are not made from these data sets"
        )
    folder = reports() / options.profile
    if options.command == "plan":
        print("\n".join(costs.plan(configs, options.profile)))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass  # writable
    with exclusive(folder) as lock:
        content = plan(options, configs)
        write = lambda: write_atomically(
            folder / "plan.json", json.dumps(content, indent=1).encode()
        )  # noqa: E731
        write()
        log, started, runs_failed = folder / "engine.log", time.monotonic(), 0
        log.write_text("", encoding="utf-8")
        jobs = options.jobs or (CLUSTER_JOBS if options.cluster else machine.side_by_side())
        progress = Progress(folder, content)
        if options.profile == "paper" and options.command == "reproduce":
            print("\n".join(costs.plan(configs, options.profile)))
        print(progress.opening(jobs))
        if options.command == "reproduce" and content["todo"]:
            for run_id in content["todo"]:
                run = folder / "runs" / run_id
                (run / "error.txt").unlink(missing_ok=True)
                if run_id in content["outdated"]:
                    (run / "record.json").replace(run / "record.outdated.json")
            runs_failed = engine("runs", "runs", folder, jobs, lock, progress.show,
                                 cluster=options.cluster, force=["run"])
            content["failures"] = progress.failures()
        found, local = records.load_all(options.profile), min(jobs, machine.cores())
        content["records"] = [record["run_id"] for record in found]
        bare = [record for record in found
                if not (folder / "runs" / record["run_id"] / "notebook.html").exists()]
        content["runs"] |= {record["run_id"]: record["config"] for record in bare}
        content["unrendered"] = [
            record["run_id"] for record in bare if costs.at_hand(record["config"]["dataset"])]
        write()
        if content["unrendered"]:
            progress.finish(
                f"{len(content['unrendered'])} records were made without a notebook; their notebooks are made"
            )
            if engine("notebooks", "notebooks", folder, local, lock, lambda: None):
                print(
                    f"error: some of these notebooks could not be made, see {log}", file=sys.stderr)
        if len(bare) > len(content["unrendered"]):
            print(
                f"{len(bare) - len(content['unrendered'])} notebooks are left out: their data sets are not at hand"
            )
        wanted = [REPORTED_IN.get(name, name) for name in options.only or [*ARTEFACTS, *FROM_ALL]]
        content["artefacts"] = [
            name for name in dict.fromkeys(wanted) if tables.makeable(found, name)]
        write()
        progress.finish("runs done; lessons, tables and figures are made")
        # by content, not by age: a record from a machine with another clock, or an older one,
        # counts too
        made_from, now = (folder / ".made_from",
                          "".join(record["checksum"] + "\n" for record in found))
        for path in (folder / "notebooks").rglob("*.ipynb"):
            if (
                path.stat().st_mtime > time.time()
            ):  # copied from a machine whose clock is ahead: the engine would stop
                os.utime(path)
        changed = not made_from.exists() or made_from.read_text(encoding="utf-8") != now
        page_failed = engine("page", "index.html", folder, local, lock, lambda: None,
                             force=["report", "explore", "page"] if changed else [])
        if not page_failed:
            write_atomically(made_from, now.encode())
        progress.clear()
        for run_id, cause in content["failures"].items():
            print(f"failed: {run_id}: {cause}")
        if page_failed:
            print(f"error: the report is incomplete, see {log}", file=sys.stderr)
        if (folder / "index.html").exists():
            minutes, seconds = divmod(round(time.monotonic() - started), 60)
            print(
                f"{minutes}:{seconds:02d} min. Look at {folder / 'index.html'}   (the engine's log: {log})"
            )
        return 1 if runs_failed or page_failed else 0


def fetch(options) -> int:
    """Fetch and check the data sets of a selection, a line each; the others are still tried when
    one fails."""
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


def terminate(*_):
    """What SIGTERM does."""
    raise Terminated


def main(arguments=None) -> int:
    """Errors are one line on stderr and a non-zero exit status; finished runs are never touched."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        options = parse(arguments)
        if options.profile not in PROFILES:
            raise ConfigError(unknown("profile", options.profile, PROFILES))
        return fetch(options) if options.command == "data" else reproduce(options)
    except (ConfigError, data.DataError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        return BUSY
    except OSError as error:
        place = error.filename or reports() / options.profile
        print(
            f"error: cannot write {place}: {error.strerror}; make it writable or set QLSTM_REPORTS",
            file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
