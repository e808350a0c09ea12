"""Records for the report notebooks' test: every run of the smoke profile, trained on two cores
(a quarter of a minute).

``python tests/smoke_records.py FOLDER`` writes ``FOLDER/quick/runs``, where the notebooks look by
default, and a record of the benchmark. Runs that are there and of today's recipe are not trained
again.
"""

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from qlstm import RecordError, grid, run
from qlstm.study import records
from qlstm.workflow import bench, measure


def train(config):
    """Train a run that is not there yet."""
    torch.set_num_threads(1)
    directory = Path(sys.argv[1]) / "quick" / "runs" / config.run_id
    try:
        records.load(directory / "record.json")
    except RecordError:  # none yet, or left by an older version
        (directory / "record.json").unlink(missing_ok=True)
    run(config, directory, report=lambda line: None)


if __name__ == "__main__":
    with multiprocessing.Pool(2) as pool:
        pool.map(train, grid("smoke"), chunksize=1)
    os.environ["QLSTM_REPORTS"] = sys.argv[1]
    # only what it looks like is asked
    measure.WARM_UP, bench.in_own_process = 0, lambda function, *arguments: function(*arguments)
    bench.main(["--repeats", "1", "--normalizers", "none;layer", "--shapes", "quick", "--parts",
                "layer;step"])
