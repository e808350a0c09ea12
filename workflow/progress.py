"""What the runs of a profile are doing, read from their folders: for `make status` and the line of `make reproduce`."""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import filelock

from qlstm.experiments import METRICS


def state(directory: Path) -> tuple[str, dict]:
    """``done``, ``running``, ``failed`` or ``waiting``, and what is known: the last epoch's line, the cause."""
    if (directory / "record.json").exists():
        return "done", {}
    last = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        last = json.loads((directory / "epochs.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    if _held(directory / ".lock"):
        return "running", last
    if (directory / "error.txt").exists():
        return "failed", {"cause": (directory / "error.txt").read_text(encoding="utf-8").strip()}
    return "waiting", last


def _held(path: Path) -> bool:
    """Whether a live process holds the lock of a run."""
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def short(run_id: str, plan: dict) -> str:
    """A run's name for the progress line: without the data set if all runs share one."""
    datasets = {config["dataset"] for key, config in plan["runs"].items() if key in plan["selected"]}
    return run_id if len(datasets) > 1 else run_id.split("-", 1)[1]


class Progress:
    """One calm line on a terminal; in a file a line whenever a run ends."""

    def __init__(self, folder: Path, plan: dict):
        self.folder, self.plan, self.started = folder, plan, time.monotonic()
        self.done_at_start = self._finished()
        self.work_at_start = self._work()
        self.shown = ""

    def opening(self, jobs: int) -> str:
        """What is going to happen."""
        total, done = len(self.plan["selected"]), len(self.done_at_start)
        what = "nothing to train" if done == total else f"{total - done} to go, {jobs} side by side"
        return f"{self.plan['profile']}: {total} runs, {done} done before, {what}"

    def _finished(self) -> set[str]:
        return {run for run in self.plan["selected"] if (self.folder / "runs" / run / "record.json").exists()}

    def _work(self) -> float:
        """Work done so far, in epochs and parts of runs: a run counts as its epochs."""
        total = 0.0
        for run in self.plan["selected"]:
            epochs = self.plan["runs"][run]["epochs"]
            kind, last = state(self.folder / "runs" / run)
            total += epochs if kind == "done" else last.get("epoch", 0)
        return total

    def show(self):
        """The line while runs are trained."""
        states = {run: state(self.folder / "runs" / run) for run in self.plan["selected"]}
        done = [run for run, (kind, _) in states.items() if kind == "done"]
        failed = [run for run, (kind, _) in states.items() if kind == "failed"]
        running = [f"{short(run, self.plan)} {last.get('epoch', 0)}/{self.plan['runs'][run]['epochs']}"
                   for run, (kind, last) in states.items() if kind == "running"]  # fmt: skip
        line = f"{len(done)} of {len(states)} runs done" + (f", {len(failed)} failed" if failed else "")
        if sys.stdout.isatty():
            self._write(" · ".join([line, *running, *self._time_left()]))
        elif line != self.shown and (done or failed):
            print(" · ".join([line, *self._time_left()]), flush=True)
            self.shown = line

    def _time_left(self) -> list[str]:
        total = sum(self.plan["runs"][run]["epochs"] for run in self.plan["selected"])
        work = self._work()
        if work - self.work_at_start < 1 or work >= total:
            return []
        left = (time.monotonic() - self.started) * (total - work) / (work - self.work_at_start)
        return [f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"]

    def _write(self, text: str):
        width = shutil.get_terminal_size().columns - 1
        text = text if len(text) <= width else text[: width - 1] + "…"
        print("\r" + text.ljust(width), end="", flush=True)

    def clear(self):
        """Take the line away again."""
        if sys.stdout.isatty():
            self._write("")
            print("\r", end="", flush=True)

    def finish(self, text: str):
        """The line that follows the runs."""
        if sys.stdout.isatty():
            self._write(text)
        else:
            print(text, flush=True)

    def failures(self) -> dict[str, str]:
        """The cause of each run that has no record."""
        found = {}
        for run in self.plan["selected"]:
            kind, about = state(self.folder / "runs" / run)
            if kind != "done":
                found[run] = about.get("cause", "no record; see the engine's log")
        return found


def status(folder: Path) -> int:
    """Print what is done, running (epoch, metric, time left), failed (cause) and waiting in a profile."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        print(f"{folder.name}: nothing planned yet; make reproduce PROFILE={folder.name}")
        return 0
    states = {run: state(folder / "runs" / run) for run in plan["selected"]}
    for kind in ("failed", "running", "waiting", "done"):
        runs = [run for run, (found, _) in states.items() if found == kind]
        print(f"{kind}: {len(runs)}")
        for run in runs if kind in ("failed", "running") else []:
            last = states[run][1]
            if kind == "failed":
                print(f"  {run}: {last['cause']}")
            elif "valid_metric" in last:
                print(f"  {run}: epoch {last['epoch']}/{plan['runs'][run]['epochs']}, validation {METRICS[plan['runs'][run]['task']]} {last['valid_metric']:.3f}, "
                      f"about {last['seconds_left'] / 60:.1f} min left")  # fmt: skip
            else:
                print(f"  {run}: first epoch")
    return 0
