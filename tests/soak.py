"""``make soak``: a table of a profile, killed 20 times at random moments, against an unbroken run
of it.

Three ways in turn: ``kill -9`` of all processes of `make reproduce` at once; of its head alone,
whose runs then end by themselves; of all processes of ``python -m qlstm run --no-notebook``. At the
end every record must be equal to that of the unbroken run. ``python tests/soak.py [--kills
20] [--only table_3] [--profile smoke] [--epochs 600] [--seconds 16] [--seed 0]``
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from qlstm import grid
from qlstm.study import records


def start(way, options, reports):
    """The command of a way, in a process group of its own."""
    selection = ["--profile", options.profile, "--only", options.only, "--epochs",
                 str(options.epochs), "--jobs", "2"]
    commands = {"reproduce": ["-m", "qlstm", "reproduce"],
                "command": ["-m", "qlstm", "run", "--no-notebook"]}
    return subprocess.Popen([sys.executable, *commands[way], *selection],
                            env=os.environ | {"QLSTM_REPORTS": str(reports)},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)


def kill(process, everything):
    """SIGKILL, to all that it has started or to the head alone, which the others follow."""
    # kernels are in sessions of their own
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in family if everything else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, f"{alive} outlived the head"


def comparable(path):
    return {key: value for key, value in records.load(path).items() if key not in records.VARYING}


def main():
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--only", default="table_3")
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument(
        "--seconds", type=float, default=16.0, help="a kill comes at most so long after the start")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, started = random.Random(options.seed), time.monotonic()
    configs = grid(options.profile, only=[options.only], epochs=options.epochs)
    with tempfile.TemporaryDirectory(prefix="qlstm-soak", ignore_cleanup_errors=True) as temporary:
        unbroken, broken = Path(temporary) / "unbroken", Path(temporary) / "broken"
        if start("command", options, unbroken).wait():
            sys.exit("error: the unbroken run failed")
        print(f"{options.profile} {options.only}: {len(configs)} runs of {options.epochs} epochs; "
              f"unbroken in {time.monotonic() - started:.0f} s", flush=True)
        kept: dict[Path, bytes] = {}
        for kills in range(1, options.kills + 1):
            way, everything = [("reproduce", True), ("command", True), ("reproduce", False)][
                kills % 3]
            process, after = start(way, options, broken), chance.uniform(2, options.seconds)
            time.sleep(after)
            if process.poll() is not None:
                for log in [*broken.rglob("error.txt"), *broken.rglob("logs/*.log")]:
                    print(f"{log}:\n{log.read_text()[-3000:]}")
                sys.exit(f"error: {way} ended with {process.returncode} before kill {kills} "
                         "(0: choose more --epochs)")
            kill(process, everything)
            found = {
                path: path.read_bytes() for path in sorted(broken.glob("*/runs/*/record.json"))}
            for path, content in kept.items():
                assert found.get(path) == content, (
                    f"{path}: a finished record was lost or made again")
            kept = found
            if len(found) == len(configs):
                sys.exit(f"error: all runs were done at kill {kills}; choose more --epochs")
            half = len(list(broken.rglob("*.tmp")))
            who = "all" if everything else "head alone"
            print(f"kill {kills}: {way}, {who}, after {after:.1f} s; {len(found)} records, {half} "
                  "half-written files", flush=True)
        status = start("command", options, broken).wait()
        assert status == 0, status
        for config in configs:
            run = records.run_directory(config, broken)
            assert comparable(run / "record.json") == comparable(
                records.run_directory(config, unbroken) / "record.json"), run
            assert not list(run.glob(".*.tmp")), run
        print(f"{options.kills} kills, {len(configs)} records equal to the unbroken ones; "
              f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
