"""The folders that the package reads and writes, each with an environment variable that replaces it."""

import os
from pathlib import Path

_PARENT = Path(__file__).resolve().parent.parent

ROOT = _PARENT if (_PARENT / "notebooks").is_dir() else Path.cwd()
"""The checkout; for a package installed without one, the folder it was started in."""


def raw_data() -> Path:
    """The folder of data files, downloaded or put there: ``$QLSTM_DATA``, or ``data/raw`` of the checkout."""
    return Path(os.environ.get("QLSTM_DATA") or ROOT / "data" / "raw")


def reports() -> Path:
    """The folder of runs, tables and figures: ``$QLSTM_REPORTS``, or ``reports`` of the checkout."""
    return Path(os.environ.get("QLSTM_REPORTS") or ROOT / "reports")
