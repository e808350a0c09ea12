"""``python -m qlstm.run RUN_ID``: execute the run notebook of one run of a profile's grid.

The workflow calls it once a run. A command, not to be imported: the function is :func:`qlstm.run`.
"""

import argparse
import contextlib
import json
import sys
from typing import Any

from qlstm import notebooks, records
from qlstm.errors import ConfigError, unknown
from qlstm.paths import ROOT, reports

if __name__ != "__main__":
    raise ImportError("qlstm.run as a module is the command `python -m qlstm.run`; the function is qlstm.train.run")

_NOTEBOOKS = ROOT / "notebooks" / "run"
NOTEBOOKS = {
    "char_lm": _NOTEBOOKS / "char_language_model.ipynb",
    "word_lm": _NOTEBOOKS / "word_language_model.ipynb",
    "sequential_image": _NOTEBOOKS / "sequential_mnist.ipynb",
}


def find(run_id: str, profile: str) -> dict[str, Any]:
    """The settings of the run ``run_id``: from the profile's plan (what ``make reproduce`` asked for), else from its grid."""
    plan = reports() / profile / "plan.json"
    planned = json.loads(plan.read_text(encoding="utf-8"))["runs"] if plan.exists() else {}
    if run_id in planned:
        return planned[run_id]
    from qlstm.experiments import grid  # needs torch, which takes seconds to load

    configs = {config.run_id: config.as_dict() for config in grid(profile)}
    if run_id not in configs:
        raise ConfigError(unknown("run", run_id, configs))
    return configs[run_id]


def main() -> int:
    """Run it; on failure one line on stderr and in ``error.txt`` of the run's folder, exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m qlstm.run", description="Execute one run's notebook.")
    parser.add_argument("run_id")
    parser.add_argument("--profile", default="quick", choices=["smoke", "quick", "paper"])
    options = parser.parse_args()
    directory = None
    try:
        settings = find(options.run_id, options.profile)
        directory = reports() / options.profile / "runs" / options.run_id
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "error.txt").unlink(missing_ok=True)
        parameters = settings | {"directory": str(directory)}
        notebooks.execute(NOTEBOOKS[settings["task"]], directory / "notebook.ipynb", parameters)
        records.load(directory / "record.json")
    except (ConfigError, notebooks.NotebookError, records.RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if directory is not None:
            with contextlib.suppress(OSError):  # the disk may be full
                (directory / "error.txt").write_text(f"{error}\n", encoding="utf-8")
        return 1
    return 0


sys.exit(main())
