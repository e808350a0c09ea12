"""Records for the report notebooks' test: every run of the smoke profile, trained in this process (half a minute).

``python tests/smoke_records.py FOLDER`` writes ``FOLDER/quick/runs``, where the notebooks look by default, and a record
of the benchmark. Runs that are there and of this very code are not trained again.
"""

import os
import sys
from pathlib import Path

import torch

from qlstm import bench, grid, run

torch.set_num_threads(1)
for config in grid("smoke"):
    run(config, Path(sys.argv[1]) / "quick" / "runs" / config.run_id, report=lambda line: None)
os.environ["QLSTM_REPORTS"] = sys.argv[1]
bench.main(["--repeats", "1", "--normalizers", "none;layer", "--shapes", "quick", "--parts", "layer;step"])
