"""Runs as jobs of a cluster, by Snakemake (``make reproduce CLUSTER=slurm``; the extra of the
cluster's name in pyproject.toml)."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from qlstm.data.storage import ROOT
from qlstm.workflow import pool
from qlstm.workflow.command_line import follow

CLUSTERS = ["slurm"]
JOBS = 100
"""Jobs that a cluster is given at once where nothing is said."""


def command(cluster: str, folder: Path, jobs: int) -> list[str]:
    """The words of Snakemake's command line that train the runs of the plan in a folder.

    Args:
        cluster: The name of the cluster, and of its settings in ``workflow/profiles``.
        folder: The folder of the profile, with its ``plan.json``.
        jobs: How many jobs the cluster has at once.
    """
    settings = ROOT / "workflow"
    return ["runs", "--directory", str(folder), "--snakefile", str(settings / "Snakefile"),
            "--profile", str(settings / "profiles" / cluster), "--workflow-profile", "none",
            "--jobs", str(jobs), "--forcerun", "run"]


def train(cluster: str, folder: Path, jobs: int, watch: Callable[[], object],
          say: Callable[[str], object]) -> dict[str, int]:
    """Let a cluster train what is to be trained, until all its jobs have ended. If this process is
    stopped they are cancelled, however long that takes.

    Args:
        cluster, folder, jobs: As in :func:`command`.
        watch, say: As in :func:`qlstm.workflow.pool.side_by_side`.

    Returns:
        Snakemake's exit status by its name if it failed: some runs have no record. It says why in
        ``logs/snakemake.log``.
    """
    words = [sys.executable, "-m", "qlstm.workflow.cluster", *command(cluster, folder, jobs)]
    return pool.side_by_side({"snakemake": words}, 1, watch=watch, say=say, logs=folder / "logs",
                             threads=lambda jobs: {}, grace=float("inf")).failed


if __name__ == "__main__":
    os.setpgid(0, 0)  # Ctrl-C reaches it once, by its leash: a second one would break off the first
    follow(signal.SIGINT)
    from snakemake.cli import main

    main()
