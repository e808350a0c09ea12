"""``python -m qlstm gpu --rehearse``: all of it on a CPU in a minute or two, before a GPU is lent.

The same parts at tiny sizes, the kernels in Triton's interpreter, and these faults planted, each of
which has to be survived and told:

- a difference in one gradient of the Triton kernels;
- a part that never ends;
- a row whose GPU has too little memory, once;
- a row that is killed after its first epoch, once;
- the whole command stopped in the middle of the rows; it goes on from its archives in another
  folder.

``python -m qlstm.workflow.gpu.rehearsal COMMAND ...`` is ``python -m qlstm COMMAND ...`` with the
sizes and faults in it; the rehearsal starts it as its processes.
"""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

from qlstm.study.records import reports
from qlstm.workflow.gpu import command
from qlstm.workflow.gpu.command import Part

OWN = [sys.executable, "-m", "qlstm.workflow.gpu.rehearsal"]
MACHINE, EQUALITY, *_ = command.PARTS
SHAPE = {"words": dict(dataset="python_help_words", hidden_size=8, steps=5, batch_size=4)}
PARTS = [
    MACHINE,
    Part("equality", [*EQUALITY.command, "-p", "qlstm.workflow.gpu.planted", "-k",
                      "every_combination and ter_connect-layer",
                      *(["-n", "0"] if command.SIDE_BY_SIDE else [])], 90),
    Part("hangs", [sys.executable, "-c", "import time; print('waiting'); time.sleep(600)"], 3),
    Part("ratios", [*OWN, "bench", "--repeats", "1", "--normalizers", "none;layer", "--shapes",
                    "words", "--parts", "step;side by side", "--backends", "cudnn;cpu"], 90),
    Part("rows", [*OWN, "run", "--most-wanted", "--profile", "smoke", "--no-notebook", "--jobs",
                  "2", "--datasets", "digits"], None, once=False)]
"""The real ones at tiny sizes but for the tuning of tiles, which needs a GPU, and a part that
hangs."""
TOLD = {
    "equality": {
        "a difference in the kernels": r"FAILED .*gradient of weight_hh_l0: error",
        "the seed that gives it again": r"again: QLSTM_SEED=0 python -m pytest"},
    "hangs": {"a part that hangs": r"hangs .* stopped at its limit of 3 s"},
    "rows": {
        "too little memory": r"had too little memory and goes on with 1 side by side",
        "a killed row": r"was killed .*is started once more",
        "the stop in the middle": r"== rows: stopped\n",
        "the archives it goes on from": r"from .*: \d+ runs\n(.*\n)*3 runs, [012] done before",
        "all rows in the end": r"3 done, 0 failed, 0 not finished"}}
"""What each part has to tell in the end, as a pattern."""
LEFT_OUT = "QLSTM_REHEARSE_WITHOUT"
"""The variable that tells its processes which parts a rehearsal goes without."""


def rehearse(out: Path, without: tuple[str, ...] = ()) -> int:
    """Do all of it twice, the second time from the archives of the first, which is stopped.

    Args:
        out: The folder for the archives and tables of both.
        without: The names of parts to leave out, to save time.

    Returns:
        The exit status: 0 if every fault was survived and told, else 1.
    """
    started, lines = time.monotonic(), []
    for call, more in (("first", []), ("second", ["--from", str(out / "first")])):
        environment = os.environ | {
            "QLSTM_REPORTS": str(out / call / "reports"), "TRITON_INTERPRET": "1",
            "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", LEFT_OUT: ";".join(without)}
        words = [*OWN, "gpu", "--minutes", "8", "--out", str(out / call), *more]
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
                if call == "first" and "going on after epoch" in line:  # the row that was killed
                    process.send_signal(signal.SIGTERM)
    text, missing = "".join(lines), []
    print(f"\nthe rehearsal took {time.monotonic() - started:.0f} s")
    told = {what: pattern for part, patterns in TOLD.items() if part not in without
            for what, pattern in patterns.items()}
    for what, pattern in told.items():
        found = re.search(pattern, text)
        missing += [] if found else [what]
        print(f"  {what}: " + (f"told: {found[0].splitlines()[-1].strip()[:120]}" if found
                               else "NOT told"))
    return int(bool(missing))


def plant():
    """Tiny sizes, and the faults of a row; each strikes once."""
    from qlstm.study import checkpoints, training
    from qlstm.workflow import bench, measure, pool, throughput

    pool.QLSTM = OWN
    bench.in_own_process = lambda function, *arguments: function(*arguments)
    measure.SHAPES, measure.WARM_UP = SHAPE, 0
    throughput.COUNTS, throughput.SECONDS = [1], 0.2
    train_epoch, save = training.train_epoch, checkpoints.Checkpoint.save

    def too_little_memory(model, *rest):
        if "binary_connect-none" in sys.argv[2] and _first_time("memory"):
            import torch

            raise torch.OutOfMemoryError("planted: CUDA out of memory. ")
        return train_epoch(model, *rest)

    def killed(checkpoint, progress):
        save(checkpoint, progress)
        if "full_precision-none" in checkpoint.run_id and _first_time("kill"):
            os.kill(os.getpid(), signal.SIGKILL)

    training.train_epoch, checkpoints.Checkpoint.save = too_little_memory, killed


def _first_time(fault: str) -> bool:
    mark = reports() / "gpu" / f"planted_{fault}"
    if mark.exists():
        return False
    mark.touch()
    return True


if __name__ in ("__main__", "__mp_main__"):  # __mp_main__ in processes that it starts
    plant()
if __name__ == "__main__":
    if sys.argv[1] == "gpu":
        without = os.environ.get(LEFT_OUT, "").split(";")
        left = [part for part in PARTS if part.name not in without]
        sys.exit(command.main(sys.argv[2:], left, "smoke"))
    runpy.run_module("qlstm", run_name="__main__")
