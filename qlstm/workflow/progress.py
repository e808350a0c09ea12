"""What the runs of a profile are doing, read from their folders: for ``python -m qlstm status`` and
the line that ``make reproduce`` shows.

It works while processes of this or of other machines write there, and imports no torch: an answer
takes a moment.

Here ``plan`` is the content of a profile's ``plan.json``, ``folder`` the profile's, and a ``state``
one of ``done``, ``running``, ``failed`` and ``waiting``.
"""

import contextlib
import functools
import os
import shutil
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

from qlstm.study import kinds, record_schema, underway
from qlstm.study.locks import held
from qlstm.study.records import RecordError, load, planned, reports


def state(directory: Path) -> tuple[str, dict[str, Any]]:
    """The state of a run, and what is known of it.

    Args:
        directory: The folder of the run.

    Returns:
        The state, with the last line of ``epochs.jsonl`` if the run is not finished (empty before
        the first epoch), or with its ``cause`` if it failed. If it is running, ``share`` is what of
        the epoch after that is done (0 to 1), once that is known.
    """
    path = directory / "record.json"
    if (stamp := _stamp(path)) is not None:
        cause = _refused(path, stamp)
        return ("failed", {"cause": cause}) if cause else ("done", {})
    last = _last_epoch(directory / "epochs.jsonl")
    if held(directory):
        here = underway.read(directory)
        present = here.get("epoch") == last.get("epoch", 0) + 1
        return "running", last | ({"share": here["share"]} if present else {})
    try:
        cause = (directory / "error.txt").read_text(encoding="utf-8", errors="replace").strip()
        return "failed", {"cause": cause}
    except FileNotFoundError:
        return "waiting", last
    except OSError as error:  # of another user
        return "failed", {"cause": f"cannot read its folder: {error.strerror}"}


def _epochs(last: dict[str, Any], of: str) -> str:
    """The epoch and the share of it where a run is that is in the midst of one, else the epochs it
    has done.

    >>> _epochs({"epoch": 2}, "/120"), _epochs({"epoch": 2, "share": 0.4}, "/120")
    ('2/120', '3/120, 40 %')
    """
    if "share" not in last:
        return f"{last.get('epoch', 0)}{of}"
    return f"{last.get('epoch', 0) + 1}{of}, {100 * last['share']:.0f} %"


def _stamp(path: Path) -> tuple | None:
    """What changes with the content of a file; None if there is none."""
    with contextlib.suppress(OSError):
        about = path.stat()
        return about.st_mtime_ns, about.st_size, about.st_ino
    return None


@functools.cache
def _refused(path: Path, stamp: tuple) -> str:
    """Why the record in a file is refused, empty if it is not: read once for each ``stamp``."""
    try:
        load(path, path.parent.name)
    except RecordError as error:
        return str(error)
    return ""


def _last_epoch(path: Path) -> dict[str, Any]:
    """The last line of a history, empty if there is none, or one that is torn."""
    with contextlib.suppress(OSError, ValueError, IndexError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))
        last = kinds.parse(file.read().splitlines()[-1])
        if isinstance(last, dict):
            return {name: last[name] for name, kind in record_schema.LAST.items()
                    if name in last and not kind(last[name])}
    return {}


def short(run_id: str, plan: dict[str, Any]) -> str:
    """The name of a run (``run_id``) for the progress line: without its data set if all runs of the
    ``plan`` share one."""
    datasets = {plan["runs"][key]["dataset"] for key in plan["selected"]}
    return run_id if len(datasets) > 1 else run_id.split("-", 1)[1]


def _columns(text: str) -> int:
    """How many columns of a terminal a ``text`` takes: Chinese, Japanese and Korean letters two
    each, accents none.

    >>> _columns("ab"), _columns("漢字"), _columns("e\u0301")
    (2, 4, 1)
    """
    return sum(0 if unicodedata.combining(letter)
               else 1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def _cut(text: str, width: int) -> str:
    """As much of the ``text`` as goes into so many columns."""
    while text and _columns(text) > width:
        text = text[:-1]
    return text


class Line:
    """One calm line, which is written over on a terminal; a file gets a line only where there is
    news."""

    def __init__(self):
        # a dumb one, as in Emacs, cannot go back to the start of its line
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.said = ""

    def show(self, text: str, news: str = ""):
        """Show the ``text``; in a file the ``news``, unless it was the last."""
        if self.terminal:
            width = max(shutil.get_terminal_size().columns - 1, 0)
            text = text if _columns(text) <= width else _cut(text, width - 3) + "..."[:width]
            print("\r" + text + " " * (width - _columns(text)), end="", flush=True)
        elif news not in ("", self.said):
            print(news, flush=True)
            self.said = news

    def clear(self):
        """Take the line away again."""
        if self.terminal:
            self.show("")
            print("\r", end="", flush=True)

    def say(self, text: str):
        """Print the ``text`` as a line that stays."""
        self.clear()
        print(text, flush=True)


def duration(seconds: float) -> str:
    """The ``seconds`` as minutes and seconds.

    >>> duration(80)
    '1:20'
    """
    return "{}:{:02d}".format(*divmod(round(seconds), 60))


class Count:
    """How many of the notebooks are made, and the time left.

    Args:
        what: What they are, for people.
        total: How many are to be made.
        line: Where that is shown.
    """

    def __init__(self, what: str, total: int, line: Line):
        self.what, self.total, self.line = what, total, line
        self.done, self.started, self.last = 0, time.monotonic(), time.monotonic()

    def one_more(self):
        """Another is made, or failed."""
        self.done, self.last = self.done + 1, time.monotonic()

    def show(self):
        """Show the line."""
        text = f"{self.what}: {self.done} of {self.total}"
        if 0 < self.done < self.total:
            rate = (self.last - self.started) / self.done
            left = rate * (self.total - self.done) - (time.monotonic() - self.last)
            text += f", {duration(max(left, 0))} left"
        self.line.show(text, news=f"{self.what}: {self.total} to make")


class Progress:
    """What is said of a profile's runs while they are trained.

    Args:
        folder: The folder of the profile.
        plan: What is to be trained.
        line: Where that is shown; in a file whenever a run ends.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], line: Line):
        self.folder, self.plan, self.line, self.started = folder, plan, line, time.monotonic()
        self.epochs = {run: plan["runs"][run]["epochs"] for run in plan["selected"]}
        self.work_at_start = self._work(self._states())
        self.told = 0, 0

    def opening(self, jobs: int) -> str:
        """What is going to happen, with ``jobs`` runs side by side; of several lines if records are
        out of date."""
        total, todo = len(self.plan["selected"]), len(self.plan["todo"])
        what = f"{todo} to go, {jobs} side by side" if todo else "nothing to train"
        lines = [f"{self.plan['profile']}: {total} runs, {total - todo} done before, {what}"]
        whys = list(self.plan["outdated"].values())
        lines += [f"{whys.count(why)} of them again, their records are of {why}"
                  for why in dict.fromkeys(whys)]
        return "\n".join(lines)

    def _states(self) -> dict[str, tuple[str, dict]]:
        return {run: state(self.folder / "runs" / run) for run in self.epochs}

    def _work(self, states) -> float:
        """Epochs done so far, and shares of them; a run that has its record counts in full."""
        return sum(self.epochs[run] if kind == "done"
                   else last.get("epoch", 0) + last.get("share", 0)
                   for run, (kind, last) in states.items())

    def show(self):
        """Show the line."""
        states = self._states()
        kinds = [kind for kind, _ in states.values()]
        done, failed = kinds.count("done"), kinds.count("failed")
        running = [f"{short(run, self.plan)} {_epochs(last, f'/{self.epochs[run]}')}"
                   for run, (kind, last) in states.items() if kind == "running"]
        text = f"{done} of {len(states)} runs done" + (f", {failed} failed" if failed else "")
        left = self._time_left(states)
        news = " | ".join([text, *left]) if (done, failed) != self.told else ""
        self.line.show(" | ".join([text, *running, *left]), news)
        self.told = done, failed

    def _time_left(self, states) -> list[str]:
        total, work = sum(self.epochs.values()), self._work(states)
        if work - self.work_at_start < 1 or work >= total:
            return []
        left = (time.monotonic() - self.started) * (total - work) / (work - self.work_at_start)
        return [f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"]


def status(folder: Path) -> int:
    """Print how many runs of a profile failed, are running, wait and are done.

    The first are told with their cause, the second with epoch, metric and time left. Runs that no
    plan has (of ``python -m qlstm run``) count too.

    Returns:
        The exit status, 0.
    """
    plan = planned(folder)
    found = sorted(path.name for path in (folder / "runs").glob("[!.]*") if path.is_dir())
    states = {run: state(folder / "runs" / run)
              for run in dict.fromkeys([*plan["selected"], *found])}
    states |= {run: ("failed", {"cause": why}) for run, why in plan["failures"].items()
               if run in states and states[run][0] == "waiting"}  # which could not write it down
    if not states:
        print(f"{folder.name}: nothing planned yet; make reproduce PROFILE={folder.name}")
        return 0
    for kind in ("failed", "running", "waiting", "done"):
        runs = {run: about for run, (its_kind, about) in states.items() if its_kind == kind}
        print(f"{kind}: {len(runs)}")
        for run, about in runs.items():
            if kind == "failed":
                print(f"  {run}: {about['cause']}")
            elif kind == "running":
                print(f"  {run}: {_epoch(about, plan['runs'].get(run, {}), plan['metrics'])}")
    return 0


def _epoch(last: dict, settings: dict, metrics: dict) -> str:
    """What a running run says of its present epoch, and in the last line of its history."""
    epochs = f"/{settings['epochs']}" if settings else ""
    if not {"valid_metric", "seconds_left"} <= last.keys():
        return f"epoch {_epochs(last, epochs)}" if "share" in last else "first epoch"
    metric = metrics.get(settings.get("task"), "metric")
    return (f"epoch {_epochs(last, epochs)}, validation {metric} {last['valid_metric']:.3f}, "
            f"about {last['seconds_left'] / 60:.1f} min left")


def main(arguments: list[str]) -> int:
    """Print what the runs of a profile are doing.

    Args:
        arguments: The words of the command line: the name of the profile.

    Returns:
        The exit status, 0.
    """
    (profile,) = arguments
    return status(reports() / profile)
