"""``make test-slurm``: a grid of four runs on a real Slurm of this machine, with everything killed
once. Root, Linux.

Starts munge and a Slurm of its own on the loopback (packages slurm-wlm and munge), then: the head
of `make reproduce CLUSTER=slurm` is killed and started again, its jobs and one of the second head's
are cancelled, the node's slurmd is killed and started again. All records must be there, whole, and
equal to those of an unbroken run. Takes some five minutes.
"""

import contextlib
import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qlstm import grid
from qlstm.study import records

SELECTION = dict(only=["figure_04"], seeds=2, epochs=40)
NAME = platform.node()
ETC = Path("/etc/slurm")  # where the commands look inside jobs, too
CONF = """ClusterName=qlstm
SlurmctldHost={name}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
GresTypes=gpu,shard
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={name} NodeAddr=127.0.0.1 CPUs=8 RealMemory=100000 Gres=gpu:1,shard:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def wait_for(what, condition, seconds=180):
    """Until the condition holds; its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"gave up waiting for {what}")
        time.sleep(0.5)
    return found


def output(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def say(text):
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", flush=True)


@contextlib.contextmanager
def slurm(folder):
    """A munged, a slurmctld and a slurmd; yields a function that (re)starts the slurmd."""
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (ETC / "slurm.conf").write_text(CONF.format(name=NAME, folder=folder))
    (ETC / "gres.conf").write_text(
        f"NodeName={NAME} Name=gpu File=/dev/zero\nNodeName={NAME} Name=shard Count=4\n")
    daemons = []

    def start(*command):
        with (folder / f"{command[0]}.log").open("a") as log:
            daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
        return daemons[-1]

    try:
        if subprocess.run(["munge", "-n"], capture_output=True).returncode:
            Path("/run/munge").mkdir(mode=0o755, exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            start("runuser", "-u", "munge", "--", "munged", "--foreground")
            wait_for("munge",
                     lambda: subprocess.run(["munge", "-n"], capture_output=True).returncode == 0)
        start("slurmctld", "-D", "-c")
        node = functools.partial(start, "slurmd", "-D", "-N", NAME)
        first = node()
        wait_for("the node", lambda: output("sinfo", "-h", "-o", "%t") in (["idle"], ["mix"]))
        yield first, node
    finally:
        subprocess.run(["scancel", "--user", "root"], capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
        for name in ("slurm.conf", "gres.conf"):
            (ETC / name).unlink()


@contextlib.contextmanager
def head(reports):
    """`make reproduce CLUSTER=slurm`, in a process group of its own that does not outlive the
    context."""
    command = [sys.executable, "-m", "qlstm", "reproduce", "--profile", "smoke", "--cluster",
               "slurm"]
    command += ["--only", ",".join(SELECTION["only"])]
    command += ["--seeds", str(SELECTION["seeds"]), "--epochs", str(SELECTION["epochs"])]
    process = subprocess.Popen(
        command, env=os.environ | {"QLSTM_REPORTS": str(reports)}, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def epochs(runs):
    """Epochs behind each run, from what the jobs have written."""
    return [len(path.read_text().splitlines()) - 1 if path.exists() else 0
            for path in (run / "epochs.jsonl" for run in runs)]


def comparable(path):
    return {key: value for key, value in records.load(path).items() if key not in records.VARYING}


def main():
    """The faults one after the other, then the comparison."""
    configs = grid("smoke", **SELECTION)
    folder = Path(tempfile.mkdtemp(prefix="qlstm-slurm"))
    print(f"in {folder}, which stays if something fails", flush=True)
    unbroken, broken = folder / "unbroken", folder / "broken"
    command = [sys.executable, "-m", "qlstm", "run", "--profile", "smoke", "--no-notebook",
               "--jobs", "2", "--only", "figure_04", "--seeds", str(SELECTION["seeds"]), "--epochs",
               str(SELECTION["epochs"])]
    subprocess.run(command, env=os.environ | {"QLSTM_REPORTS": str(unbroken)}, check=True,
                   stdout=subprocess.DEVNULL)
    say(f"unbroken: {len(configs)} runs of {SELECTION['epochs']} epochs")
    runs = [records.run_directory(config, broken) for config in configs]
    with slurm(folder) as (slurmd, node):
        say(f"Slurm {output('slurmctld', '-V')[-1]} is up")
        with head(broken):
            wait_for("epochs", lambda: sum(epochs(runs)) > 5)
        orphans = output("squeue", "-h", "-o", "%i")
        say(f"head killed; epochs {epochs(runs)}, jobs in the queue {len(orphans)}")
        with head(broken) as process:
            wait_for("jobs of the second head",
                     lambda: set(output("squeue", "-h", "-o", "%i")) - set(orphans))
            subprocess.run(["scancel", *orphans], check=True)
            say(f"the first head's jobs cancelled; epochs {epochs(runs)}")
            jobs = wait_for("running jobs", lambda: output("squeue", "-h", "-t", "R", "-o", "%i"))
            before = epochs(runs)
            wait_for("progress", lambda: epochs(runs) != before)
            subprocess.run(["scancel", jobs[0]], check=True)
            say(f"job {jobs[0]}, one of {len(jobs)} running, cancelled; epochs {epochs(runs)}")
            time.sleep(5)
            slurmd.kill()
            slurmd.wait()
            say(f"slurmd killed; epochs {epochs(runs)}")
            time.sleep(5)
            node()
            wait_for("the node",
                     lambda: output("sinfo", "-h", "-o", "%t") in (["idle"], ["mix"], ["alloc"]))
            say("slurmd started again")
            status = process.wait(900)
            say(f"head ended with status {status}")
    for config, run in zip(configs, runs, strict=True):
        assert comparable(run / "record.json") == comparable(
            records.run_directory(config, unbroken) / "record.json"), run
        lines = [
            json.loads(line)["epoch"] for line in (run / "epochs.jsonl").read_text().splitlines()]
        assert lines == list(range(SELECTION["epochs"] + 1)), f"{run}: epochs torn or doubled"
        assert not list(run.glob(".*.tmp")), f"{run}: half-written files"
    assert len(list((broken / "smoke" / "runs").glob("*/record.json"))) == len(configs)
    assert status == 0
    say(f"{len(configs)} records: all there, whole, equal to the unbroken ones")
    shutil.rmtree(folder)


STARTED = time.monotonic()
if __name__ == "__main__":
    if os.geteuid() or not shutil.which("slurmctld") or not shutil.which("munged"):
        sys.exit("error: needs root and the packages slurm-wlm and munge: "
                 "apt-get install slurm-wlm munge")
    if (ETC / "slurm.conf").exists():
        sys.exit(f"error: this machine has a Slurm of its own: {ETC / 'slurm.conf'}")
    main()
