"""Records: one JSON file a run, everything tables and figures are made from.

``root``: the folder of all profiles, ``reports/`` where it is None.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qlstm.data.storage import ROOT, write_atomically
from qlstm.study.recipe import recipe

SCHEMA = 4
"""Changes when a record gets other fields; records of another schema are not read."""
REQUIRED = ["schema", "run_id", "config", "config_sha256", "data", "metric", "test_metric",
            "valid_metric", "best_epoch", "diverged", "size_kb", "packed_bytes", "seconds",
            "epochs", "traces", "recipe", "environment", "checksum"]
VARYING = ("seconds", "environment", "checksum")
"""Fields that differ between two runs of one configuration on one machine; all others are equal bit
for bit."""


class RecordError(ValueError):
    """A record that is missing, damaged, edited, of another run or of another schema."""


def reports() -> Path:
    """The folder of runs, tables and figures: ``$QLSTM_REPORTS``, or ``reports`` of the
    checkout."""
    return Path(os.environ.get("QLSTM_REPORTS") or ROOT / "reports")


def run_directory(config, root: Path | None = None) -> Path:
    """The folder ``<root>/<profile>/runs/<run id>`` of the run with the configuration
    ``config``."""
    return (root or reports()) / config.profile / "runs" / config.run_id


def checksum(record: dict[str, Any]) -> str:
    """The sha256 of a ``record`` without its checksum, which tells whether somebody edited it."""
    return sha256({key: value for key, value in record.items() if key != "checksum"})


def sha256(content: dict[str, Any]) -> str:
    """The sha256 of ``content``, names with plain values (such as a run's settings), in whatever
    order they stand."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def outdated(record: dict[str, Any], config: dict[str, Any], text: str | None) -> str:
    """Why a run has to be repeated although it has a record.

    Args:
        record: the record that there is.
        config: the settings that the run should have, as
            :meth:`~qlstm.study.config.ExperimentConfig.as_dict` gives them.
        text: sha256 of the data set as it is now. None where that is not at hand; then it counts
            as unchanged.

    Returns:
        "other settings", "other text", "other recipe" or several of them, joined by commas; empty
        where the record stands.
    """
    now = {"settings": (record["config"], config),
           "text": (record["data"]["sha256"], text or record["data"]["sha256"]),
           "recipe": (record["recipe"], recipe(config))}
    return ", ".join(f"other {what}" for what, (then, is_now) in now.items() if then != is_now)


def save(record: dict[str, Any], path: Path):
    """Write a ``record`` with its checksum to the file at ``path``, a line for each field."""
    record = record | {"checksum": checksum(record)}
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}"
             for name, value in record.items()]
    write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())


def load(path: Path) -> dict[str, Any]:
    """Read the record in the file at ``path``.

    Raises:
        RecordError: naming the file, where it is missing, damaged, edited or of another schema.
    """
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path}: no readable record ({error}); delete it and the run is repeated") from error
    if why := _unfit(record):
        raise RecordError(f"{path}: {why}")
    return record


def _unfit(record: Any) -> str:
    """Why the content of a file is no record to be relied on; empty if it is one."""
    fields = record if isinstance(record, dict) else {}
    schema = fields.get("schema")
    if schema in range(1, SCHEMA):
        return (f"of an older version of qlstm (schema {schema}, not {SCHEMA}); "
                "delete it to repeat the run")
    missing = [name for name in REQUIRED if name not in fields]
    if missing or schema != SCHEMA:
        return f"not a record of schema {SCHEMA} (missing: {', '.join(missing) or 'nothing'})"
    if record["checksum"] != checksum(record):
        return ("the content does not match its checksum: edited or damaged; "
                "delete it to repeat the run")
    if record["config_sha256"] != sha256(record["config"]):
        return "the settings do not match their hash; delete it to repeat the run"
    return ""


def load_of(run_id: str, profile: str, root: Path | None = None) -> dict[str, Any]:
    """Read the record of a run.

    Args:
        run_id: the name of the run.
        profile: its profile, ``smoke``, ``quick`` or ``paper``.
        root: where to look, as everywhere in this module.

    Raises:
        RecordError: as :func:`load`, and for the record of another run in this one's folder.
    """
    path = (root or reports()) / profile / "runs" / run_id / "record.json"
    record = load(path)
    if record["run_id"] != run_id:
        raise RecordError(f"{path}: the record of another run, {record['run_id']}; "
                          "move it to the folder of that name")
    return record


def load_all(profile: str, root: Path | None = None) -> list[dict[str, Any]]:
    """Read all records of a ``profile``, in the order of their names; raises ``RecordError`` as
    :func:`load_of`."""
    found = sorted(((root or reports()) / profile / "runs").glob("*/record.json"))
    return [load_of(path.parent.name, profile, root) for path in found]


def benchmarks(directory: Path | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Read the records that ``make bench`` wrote, with their paths.

    Args:
        directory: the folder that they are in, ``reports/bench`` where it is None.

    Raises:
        RecordError: naming the file, for one that is damaged.
    """
    for path in sorted((directory or reports() / "bench").glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
            record["environment"]["device"], record["rows"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{path}: no record of make bench ({error}); "
                              "delete it, or let make bench write it anew") from error
        yield path, record
