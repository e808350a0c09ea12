"""What the runs of a profile are doing, read from their folders: for `make status` and the line of
`make reproduce`.

It works while processes of this or of other machines write there, and imports no torch: an answer
takes a moment.

``directory``: of a run, whose name is its ``run_id``; ``folder``: of a profile; ``plan``: the
content of its ``plan.json``; ``jobs``: runs side by side; ``text``: a line; ``arguments``: of the
command line.
"""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

from qlstm.study.locks import held
from qlstm.study.records import reports


def state(directory: Path) -> tuple[str, dict]:
    """``done``, ``running``, ``failed`` or ``waiting``, and what is known: the last epoch's line,
    the cause."""
    if (end := _end(directory / "record.json", 2)) is not None:
        return (("done", {}) if end == b"}\n"
                else ("failed", {"cause": "record.json is torn; delete it"}))
    last = {}
    with contextlib.suppress(ValueError, IndexError):
        last = json.loads((_end(directory / "epochs.jsonl", 2**16) or b"").splitlines()[-1])
    if held(directory):
        return "running", last
    if (directory / "error.txt").exists():
        return "failed", {"cause": (directory / "error.txt").read_text(encoding="utf-8").strip()}
    return "waiting", last


def _end(path: Path, size: int) -> bytes | None:
    """The last ``size`` bytes of a file; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - size))
            return file.read()
    except OSError:
        return None


def short(run_id: str, plan: dict) -> str:
    """A run's name for the progress line: without the data set if all runs share one."""
    datasets = {
        config["dataset"] for key, config in plan["runs"].items() if key in plan["selected"]}
    return run_id if len(datasets) > 1 else run_id.split("-", 1)[1]


class Progress:
    """One calm line on a terminal; in a file a line whenever a run ends."""

    def __init__(self, folder: Path, plan: dict):
        self.folder, self.plan, self.started = folder, plan, time.monotonic()
        self.work_at_start = self._work()
        self.shown = ""

    def opening(self, jobs: int) -> str:
        """What is going to happen."""
        total, todo = len(self.plan["selected"]), len(self.plan["todo"])
        what = f"{todo} to go, {jobs} side by side" if todo else "nothing to train"
        lines = [f"{self.plan['profile']}: {total} runs, {total - todo} done before, {what}"]
        whys = list(self.plan["outdated"].values())
        lines += [f"{whys.count(why)} of them again, their records are of {why}"
                  for why in dict.fromkeys(whys)]
        return "\n".join(lines)

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
        running = [
            f"{short(run, self.plan)} {last.get('epoch', 0)}/{self.plan['runs'][run]['epochs']}"
            for run, (kind, last) in states.items() if kind == "running"]
        line = f"{len(done)} of {len(states)} runs done" + (
            f", {len(failed)} failed" if failed else "")
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
    """Print what is done, running (epoch, metric, time left), failed (cause) and waiting in a
    profile."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        plan = {
            "selected": [],
            "runs": {},
            "metrics": {},
        }  # runs without a plan: python -m qlstm run
    found = sorted(path.name for path in (folder / "runs").glob("*") if path.is_dir())
    states = {
        run: state(folder / "runs" / run) for run in dict.fromkeys([*plan["selected"], *found])}
    if not states:
        print(f"{folder.name}: nothing planned yet; make reproduce PROFILE={folder.name}")
    for kind in ("failed", "running", "waiting", "done") if states else []:
        runs = [run for run, (found, _) in states.items() if found == kind]
        print(f"{kind}: {len(runs)}")
        for run in runs if kind in ("failed", "running") else []:
            last, config = states[run][1], plan["runs"].get(run, {})
            if kind == "failed":
                print(f"  {run}: {last['cause']}")
            elif "valid_metric" in last:
                epochs = f"/{config['epochs']}" if config else ""
                metric = plan["metrics"].get(config.get("task"), "metric")
                print(
                    f"  {run}: epoch {last['epoch']}{epochs}, validation {metric} {last['valid_metric']:.3f}, "
                    f"about {last['seconds_left'] / 60:.1f} min left"
                )
            else:
                print(f"  {run}: first epoch")
    return 0


def main(arguments: list[str]) -> int:
    """``python -m qlstm status PROFILE``."""
    (profile,) = arguments
    return status(reports() / profile)
