"""``make reproduce``, ``report``, ``status`` and ``data``: plan the runs, fetch the data, drive the engine, show one calm line."""

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
from pathlib import Path

import psutil
from progress import Progress, status

from qlstm import data, records, tables
from qlstm.errors import ConfigError, unknown
from qlstm.experiments import ARTEFACTS, FROM_ALL, PROFILES, grid
from qlstm.paths import ROOT, raw_data, reports

REPORT_MODULES = [
    "experiments.py",
    "records.py",
    "sizes.py",
    "tables.py",
    "figures.py",
    "theory.py",
    "verdicts.py",
    "published_results.csv",
]
REPORTED_IN = {"statistics": "reviewers", "gru": "reviewers"}
"""Experiments that another report shows."""
BUSY = 75  # EX_TEMPFAIL: another one is running


def parse(arguments=None):
    """The options that the Makefile's variables become."""
    names = lambda text: text.replace(",", " ").split() or None  # noqa: E731
    parser = argparse.ArgumentParser(prog="make reproduce", description=__doc__)
    parser.add_argument("command", choices=["reproduce", "report", "status", "data"], nargs="?", default="reproduce")
    parser.add_argument("--profile", default="quick", help=", ".join(PROFILES))
    parser.add_argument("--only", type=names, default=None, help=", ".join([*ARTEFACTS, *FROM_ALL]))
    parser.add_argument("--datasets", type=names, default=None, help=", ".join(data.CATALOGUE) + ", or text files")
    parser.add_argument("--seeds", default="", help="seeds 0 .. SEEDS-1")
    parser.add_argument("--epochs", default="", help="instead of the profile's")
    parser.add_argument("--jobs", default="", help="runs side by side; default: one a core, at most 8")
    options = parser.parse_args(arguments)
    for name, default in [("seeds", 1), ("epochs", None), ("jobs", None)]:
        text = getattr(options, name)
        if text and not text.lstrip("-").isdigit():
            raise ConfigError(f"{name.upper()} must be a whole number, got {text!r}")
        setattr(options, name, int(text) if text else default)
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"JOBS must be 1 or more, got {options.jobs}")
    if options.datasets:  # notebooks run in folders of their own
        options.datasets = [
            os.path.abspath(name) if name not in data.CATALOGUE and os.path.exists(name) else name
            for name in options.datasets
        ]
    return options


def plan(options, configs) -> dict:
    """What is to be done, for the engine; earlier plans' runs stay known."""
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
        try:
            texts[name] = data.load_dataset(name, next(c.task for c in configs if c.dataset == name)).sha256
        except data.DataError as error:
            raise data.DataError(f"{error} (DATASETS=... leaves {name} out)") from None
    return {
        "profile": options.profile,
        "phase": "runs",
        "runs": known | {run_id: config.as_dict() for run_id, config in runs.items()},
        "selected": list(runs),
        "artefacts": [],
        "records": [],
        "texts": texts,
        "code": records.training_code(),
        "report_modules": REPORT_MODULES,
        "lessons": [f"learn/{path.stem}" for path in sorted((ROOT / "notebooks" / "learn").glob("*.ipynb"))],
        "failures": {},
    }


class Busy(Exception):
    """Another `make reproduce` works in the same folder."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, but it reaches this process alone."""


@contextlib.contextmanager
def exclusive(folder: Path):
    """One `make reproduce` a profile: a lock that ends with this process and its engine, however they end."""
    lock = os.open(folder / ".reproduce.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"another `make reproduce` works in {folder}; wait for it (make status shows it)") from None
    else:
        yield lock
    finally:
        os.close(lock)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def engine(folder: Path, target: str, jobs: int, log: Path, lock: int, watch) -> int:
    """Run Snakemake in the profile's folder until ``target`` is made; its output goes to ``log``."""
    threads = str(max(1, cores() // jobs))
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYDEVD_DISABLE_FILE_VALIDATION": "1",
                 "QLSTM_REPORTS": str(reports().resolve()), "QLSTM_DATA": str(raw_data().resolve())}  # fmt: skip
    command = [sys.executable, "-m", "snakemake", target, "--snakefile", str(ROOT / "workflow" / "Snakefile"),
               "--directory", str(folder), "--cores", str(jobs),
               "--profile", str(ROOT / "workflow" / "profiles" / "default")]  # fmt: skip
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | variables, pass_fds=[lock]
        )
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
    configs = grid(
        options.profile, only=options.only, datasets=options.datasets, seeds=options.seeds, epochs=options.epochs
    )
    if not configs and not set(options.only or []) & set(FROM_ALL):
        raise ConfigError(
            "this selection has no runs: the tables and figures asked for are not made from these data sets"
        )
    folder = reports() / options.profile
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass  # writable
    with exclusive(folder) as lock:
        content = plan(options, configs)
        write = lambda: records.write_atomically(folder / "plan.json", json.dumps(content, indent=1).encode())  # noqa: E731
        write()
        for run_id in content["selected"]:
            (folder / "runs" / run_id / "error.txt").unlink(missing_ok=True)
        log, started = folder / "engine.log", time.monotonic()
        log.write_text("", encoding="utf-8")
        jobs = options.jobs or min(cores(), 8)
        progress = Progress(folder, content)
        print(progress.opening(jobs))
        runs_failed = 0
        if options.command == "reproduce":
            runs_failed = engine(folder, "runs", jobs, log, lock, progress.show)
            content["failures"] = progress.failures()
            for run_id in content["selected"]:  # only now is a record safe from the engine, which may have to redo it
                if (folder / "runs" / run_id / "record.json").exists():
                    (folder / "runs" / run_id / "checkpoint.pt").unlink(missing_ok=True)
        found = records.load_all(options.profile)
        content["phase"] = "page"
        content["records"] = [record["run_id"] for record in found]
        wanted = [REPORTED_IN.get(name, name) for name in options.only or [*ARTEFACTS, *FROM_ALL]]
        content["artefacts"] = [name for name in dict.fromkeys(wanted) if tables.makeable(found, name)]
        write()
        progress.finish("runs done; lessons, tables and figures are made")
        page_failed = engine(folder, "index.html", jobs, log, lock, lambda: None)
        progress.clear()
        for run_id, cause in content["failures"].items():
            print(f"failed: {run_id}: {cause}")
        if page_failed:
            print(f"error: the report is incomplete, see {log}", file=sys.stderr)
        if (folder / "index.html").exists():
            minutes, seconds = divmod(round(time.monotonic() - started), 60)
            print(f"{minutes}:{seconds:02d} min. Look at {folder / 'index.html'}   (the engine's log: {log})")
        return 1 if runs_failed or page_failed else 0


def fetch(options) -> int:
    """Fetch and check the data sets of a selection, a line each; the others are still tried when one fails."""
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
        if options.command == "status":
            return status(reports() / options.profile)
        return fetch(options) if options.command == "data" else reproduce(options)
    except (ConfigError, data.DataError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Busy as error:
        print(f"error: {error}", file=sys.stderr)
        return BUSY
    except OSError as error:
        place = error.filename or reports() / options.profile
        print(f"error: cannot write {place}: {error.strerror}; make it writable or set QLSTM_REPORTS", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
