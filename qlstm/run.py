"""``python -m qlstm.run RUN_ID``: execute the run notebook of one run of a profile's grid.

The workflow calls it once a run. A command, not to be imported: the function is :func:`qlstm.run`.
"""

import argparse
import contextlib
import json
import sys

from qlstm import notebooks, records
from qlstm.errors import ConfigError, unknown
from qlstm.experiments import PROFILES, ExperimentConfig, grid
from qlstm.paths import ROOT, reports

if __name__ != "__main__":
    raise ImportError("qlstm.run as a module is the command `python -m qlstm.run`; the function is qlstm.train.run")

NOTEBOOKS = {"char_lm": ROOT / "notebooks" / "run" / "char_language_model.ipynb"}


def find(run_id: str, profile: str) -> ExperimentConfig:
    """The configuration of a run id: from the profile's plan (what ``make reproduce`` asked for), else its grid."""
    plan = reports() / profile / "plan.json"
    planned = json.loads(plan.read_text(encoding="utf-8"))["runs"] if plan.exists() else {}
    if run_id in planned:
        return ExperimentConfig(**planned[run_id])
    configs = {config.run_id: config for config in grid(profile)}
    if run_id not in configs:
        raise ConfigError(unknown("run", run_id, configs))
    return configs[run_id]


def main() -> int:
    """Run it; on failure one line on stderr and in ``error.txt`` of the run's folder, exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m qlstm.run", description="Execute one run's notebook.")
    parser.add_argument("run_id")
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    options = parser.parse_args()
    directory = None
    try:
        config = find(options.run_id, options.profile)
        directory = records.run_directory(config)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "error.txt").unlink(missing_ok=True)
        parameters = config.as_dict() | {"directory": str(directory)}
        notebooks.execute(NOTEBOOKS[config.task], directory / "notebook.ipynb", parameters)
        records.load(directory / "record.json")
    except (ConfigError, notebooks.NotebookError, records.RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if directory is not None:
            with contextlib.suppress(OSError):  # the disk may be full
                (directory / "error.txt").write_text(f"{error}\n", encoding="utf-8")
        return 1
    return 0


sys.exit(main())
