"""``python -m qlstm gpu --minutes 9 --data FOLDER --out FOLDER``: the most of a GPU that is lent
for minutes, on a bare machine.

It needs torch, triton, numpy and safetensors, for one part pytest and hypothesis too, and
neither a network nor Jupyter. Its :data:`parts <PARTS>` follow one another, each in processes of
its own with a time limit of its own; one that fails, hangs or is killed does not touch the others:

    machine       the card, its driver, versions, free memory, how fast it copies and multiplies
    equality      the Triton kernels against the naive recurrence, at small and the paper's shapes
    tiles         the fastest tiles of the kernels for the paper's shapes, which the rows take
    ratios        a layer and a whole training step beside cuDNN's ``torch.nn.LSTM``
    side by side  how many runs at once train the most
    rows          the paper's rows, the most wanted first, until the time is over

At the end, also when it is stopped, records, checkpoints and logs go into archives of a size that
can be carried away, and a table says what came of it all. Called with ``--from`` the archives, on
whatever machine, it goes on: parts that came to their end on such a card with the same code are not
repeated, and rows go on after their last epoch. Their content has the layout of ``reports/``.

Here ``state`` is what :data:`STATE` keeps: the ``card``, the rows ``before`` that had a record at
the start, and of the ``parts`` the status, the seconds, what they said, the card and the code.
"""

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from qlstm.data.storage import ROOT, content, files, write_atomically
from qlstm.errors import ConfigError
from qlstm.study import machine
from qlstm.study.config import ExperimentConfig
from qlstm.study.grid import most_wanted
from qlstm.study.records import reports
from qlstm.workflow.command_line import stop_when_terminated
from qlstm.workflow.gpu import archive, summary
from qlstm.workflow.gpu.archive import STATE
from qlstm.workflow.gpu.processes import attempt, multi_process_service
from qlstm.workflow.pool import GRACE
from qlstm.workflow.run import UNFINISHED, finished

RESERVE = 30
"""Seconds of the time that are left for stopping the rows, the archives and the table."""


class Part(NamedTuple):
    """``name``; ``command``: its words; ``seconds``: its limit, None for all that are left;
    ``once``: whether it is done once for a kind of card; ``shared``: whether several processes
    use the GPU at once."""

    name: str
    command: list[str]
    seconds: float | None
    once: bool = True
    shared: bool = False


QLSTM = [sys.executable, "-m", "qlstm"]
SIDE_BY_SIDE = ["-n", str(min(8, machine.cores()))] if find_spec("xdist") else []
"""Words for pytest: most of the time goes by while kernels are compiled."""
FEW_SHAPES = ("every_combination or all_kernels or normalized_cell or evaluation or in_a_graph "
              "or tuning or ((cudnn or paper) and bwn and not text8)")
PARTS = [
    Part("machine", [sys.executable, "-c", "from qlstm.workflow.gpu.summary import card; card()"],
         60, once=False),
    Part("equality", [sys.executable, "-m", "pytest", "tests/triton_equality.py", "-k", FEW_SHAPES,
                      "-o", "addopts=", "-o", "filterwarnings=default", "-q", "-rfE", "--tb=short",
                      "-p", "no:cacheprovider", *SIDE_BY_SIDE], 120),
    Part("tiles", [sys.executable, "-c",
                   "from qlstm.recurrence.triton_tuning import tune_all; tune_all()"], 90),
    Part("ratios", [*QLSTM, "bench", "--parts", "layer;step", "--repeats", "20", "--shapes",
                    "character;word, d = 650;sequential MNIST;word, d = 300", "--normalizers",
                    "none;layer;batch_shared", "--backends", "cudnn;triton"], 180),
    Part("side by side", [*QLSTM, "bench", "--parts", "side by side", "--shapes", "word, d = 300"],
         120, shared=True),
    Part("rows", [*QLSTM, "run", "--most-wanted", "--profile", "paper", "--no-notebook"], None,
         once=False, shared=True)]
"""What is done, in this order."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the ``arguments``, the words that follow ``python -m qlstm gpu``.

    Raises:
        ConfigError: A number cannot be, or a folder is missing.
    """
    parser = argparse.ArgumentParser(
        prog="python -m qlstm gpu", description="Make the most of a GPU that is lent for minutes: "
        "check the kernels, time them, train the most wanted rows, and pack all of it up.")
    parser.add_argument("--minutes", type=float, default=9, help="for all of it; default: 9")
    parser.add_argument("--data", type=Path, help="folder of the data sets, as QLSTM_MIRROR")
    parser.add_argument("--out", type=Path, required=True,
                        help="where the archives and the table go")
    parser.add_argument("--from", dest="archives", type=Path, metavar="ARCHIVES",
                        help="go on from the archives in this folder")
    parser.add_argument("--jobs", type=int, help="rows side by side; default: as many as pay")
    parser.add_argument("--again", action="store_true",
                        help="repeat parts that came to their end in an earlier call too")
    parser.add_argument("--megabytes", type=float, default=60, help="the archives' size at most, "
                        "in files of 16 MB, 7 at most; default: 60. A checkpoint of words has 27, "
                        "or 54 after an epoch that was not the best")
    parser.add_argument("--rehearse", action="store_true", help="do all of it on the CPU in a "
                        "minute or two, at tiny sizes and with faults planted")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        raise ConfigError(f"--minutes must be above 0, got {options.minutes:g}")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {options.jobs}")
    if not 0 < options.megabytes <= archive.LARGEST:
        raise ConfigError(f"--megabytes must be above 0 and at most {archive.LARGEST:g}, "
                          f"got {options.megabytes:g}")
    if options.data is not None and not options.data.is_dir():
        raise ConfigError(f"--data {options.data}: there is no such folder")
    return options


def main(arguments: list[str], parts: list[Part] = PARTS, profile: str = "paper") -> int:
    """Do all parts that are left, and pack up what came of them.

    Args:
        arguments: The words that follow ``python -m qlstm gpu``.
        parts: What is to be done; the rehearsal has others.
        profile: The profile of the rows.

    Returns:
        The exit status: 0, 1 if a part failed, 2 if nothing could be done,
        :data:`~qlstm.workflow.run.UNFINISHED` if it was stopped.
    """
    started = time.monotonic()
    try:
        options = parse(arguments)
        if options.rehearse:
            from qlstm.workflow.gpu import rehearsal

            return rehearsal.rehearse(options.out)
        if parts is PARTS and not _sees_gpu():
            raise ConfigError("no NVIDIA GPU is visible here; --rehearse tries all of it on a CPU")
        return lend(options, parts, profile, started)
    except (ConfigError, archive.ArchiveError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before anything was done", file=sys.stderr)
        return UNFINISHED


def _sees_gpu() -> bool:
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # leaves the card alone
    import torch

    return torch.cuda.is_available()


def lend(options: argparse.Namespace, parts: list[Part], profile: str, started: float) -> int:
    """Do the parts, whatever becomes of each, then write archives and table.

    Args:
        options: Those of the command line.
        parts: What is to be done.
        profile: The profile of the rows.
        started: When the time began, by ``time.monotonic()``.

    Returns:
        The exit status, as :func:`main`'s.
    """
    stop_when_terminated()
    folder = reports() / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=options.out):
        pass  # writable, or there would be no archives in the end
    rows = most_wanted(profile)
    first = not (folder / STATE).exists()
    here = {row.run_id for row in rows
            if finished(row.run_id, row.as_dict(), profile, text=None)}
    if options.archives is not None:
        print(archive.unpack(options.archives, reports()), flush=True)
    state = _state(folder / STATE)
    if first:
        state["before"] = sorted({*state["before"], *here})
        _write(state)
    over, stopped = started + 60 * options.minutes - RESERVE, False
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200",
                                "QLSTM_REPORTS": str(reports().resolve()),
                                "XDG_CACHE_HOME": str(folder.resolve() / "cache")}
    if options.data is not None:
        environment["QLSTM_MIRROR"] = str(options.data.resolve())
    try:
        for part in parts:
            if part.seconds is None:  # for all that is left: who knows how it ends
                _pack(options, rows, state, started)
                part = part._replace(command=[*part.command, *(
                    ["--jobs", str(options.jobs)] if options.jobs else [])])
            _do(part, state, over, environment, again=options.again)
    except KeyboardInterrupt:
        stopped = True
    for number in (signal.SIGTERM, signal.SIGINT):  # a second one must not spoil the archives
        signal.signal(number, signal.SIG_IGN)
    print("\n" + _pack(options, rows, state, started), flush=True)
    if stopped:
        return UNFINISHED
    return int(any(entry["status"] not in ("done", "no time left")
                   for entry in state["parts"].values()))


def _pack(options: argparse.Namespace, rows: list[ExperimentConfig], state: dict[str, Any],
          started: float) -> str:
    """Write the archives and the table, which is returned, whatever becomes of them."""
    packed, failure = archive.Packed([], []), ""
    try:
        packed = archive.pack(reports(), options.out, options.megabytes, rows, state["before"])
    except OSError as error:
        failure = f"\nerror: no archives: {error}"
    table = summary.table(state, rows, packed, time.monotonic() - started) + failure
    with contextlib.suppress(OSError):
        write_atomically(options.out / "summary.txt", (table + "\n").encode())
    return table


def _state(path: Path) -> dict[str, Any]:
    """What an earlier call has left, or an empty state."""
    empty = {"card": None, "parts": {}, "before": []}
    with contextlib.suppress(OSError, ValueError, TypeError):
        return empty | json.loads(path.read_bytes())
    return empty


def _write(state: dict[str, Any]):
    content = json.dumps(state | {"time": time.time()}, indent=1)
    write_atomically(reports() / "gpu" / STATE, content.encode())


def _do(part: Part, state: dict[str, Any], over: float, environment: dict[str, str], *,
        again: bool = False):
    """Do one part, if it is to be done, and write what came of it into the state."""
    folder, now = reports() / "gpu", time.monotonic()
    left, code, before = over - now, _code(), state["parts"].get(part.name, {})
    ended = before.get("status", "").startswith(("done", "failed"))
    same = ended and (before["card"], before["code"]) == (state["card"], code)
    if part.once and same and not again:
        print(f"== {part.name}: {before['status']}, in an earlier call", flush=True)
        return
    if left < 1:
        state["parts"].setdefault(part.name, {"status": "no time left", "seconds": 0, "said": []})
        return
    seconds, command = min(part.seconds or left, left), part.command
    if part.seconds is None:
        command, seconds = [*command, "--minutes", f"{left / 60:.3f}"], left + GRACE
    print(f"== {part.name}, {seconds:.0f} s at most", flush=True)
    log = folder / f"{part.name.replace(' ', '_')}.log"
    status = "stopped"
    try:
        with multi_process_service(part.shared) as variables:
            status = attempt(command, seconds, log, environment | variables)
    except OSError as error:  # a full disk, say
        status = f"failed ({error})"
    finally:
        if part.name == "machine":
            state["card"] = summary.card_of(log)
        state["parts"][part.name] = {
            "status": status, "card": state["card"], "code": code, "said": summary.said(log),
            "seconds": round(time.monotonic() - now, 1)}
        with contextlib.suppress(OSError):
            _write(state)
        print(f"== {part.name}: {status}", flush=True)


def _code() -> str:
    """What tells this code from another, also where nothing is committed."""
    digest = hashlib.sha256()
    for path in files(ROOT, *(f"{folder}/**/*.{kind}" for folder in ("qlstm", "tests")
                              for kind in ("py", "cpp", "h"))):
        digest.update(content(path))
    return digest.hexdigest()[:16]
