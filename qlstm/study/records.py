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
from qlstm.errors import LineError, first_line
from qlstm.study import kinds, record_schema
from qlstm.study.recipe import recipe
from qlstm.study.record_schema import SCHEMA

REQUIRED = list(record_schema.FIELDS)
VARYING = ("seconds", "environment", "checksum")
"""Fields that differ between two runs of one configuration on one machine; all others are equal bit
for bit."""


class RecordError(LineError):
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


def load(path: Path, run_id: str | None = None) -> dict[str, Any]:
    """Read the record in the file at ``path``, which is that of the run ``run_id``, if that is
    given.

    Raises:
        RecordError: naming the file, where it is missing, damaged, edited, of another schema or of
            another run.
    """
    try:
        record = kinds.read(path)
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: no readable record ({first_line(error)}); "
                          "delete it and the run is repeated") from error
    if why := _unfit(record):
        raise RecordError(f"{path}: {why}")
    if run_id not in (None, record["run_id"]):
        raise RecordError(f"{path}: the record of another run, {record['run_id']}; "
                          "move it to the folder of that name")
    return record


def _unfit(record: Any) -> str:
    """Why the content of a file is no record to be relied on; empty if it is one."""
    schema = record.get("schema") if isinstance(record, dict) else None
    if type(schema) is int and 0 < schema < SCHEMA:
        return (f"of an older version of qlstm (schema {schema}, not {SCHEMA}); "
                "delete it to repeat the run")
    if type(schema) is int and schema > SCHEMA:
        return (f"of a newer version of qlstm (schema {schema}, not {SCHEMA}); "
                "update qlstm to read it")
    if why := record_schema.fault(record):
        return f"not a record of schema {SCHEMA}: {why}; delete it to repeat the run"
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
        RecordError: as :func:`load`.
    """
    return load((root or reports()) / profile / "runs" / run_id / "record.json", run_id)


SAID: set[str] = set()
"""What this process has said of records, which is said once."""


def load_all(profile: str, root: Path | None = None) -> list[dict[str, Any]]:
    """Read all records of a ``profile``, in the order of their names.

    One that :func:`load_of` refuses is left out; one whose text, quantizer or normalizer is gone is
    not. A line says so, once in a process.
    """
    found = []
    for path in sorted(((root or reports()) / profile / "runs").glob("*/record.json")):
        try:
            record = load(path, path.parent.name)
        except RecordError as error:
            _say("left out: ", str(error))
        else:
            found.append(record)
            for what in _gone(record["config"]):
                _say("", f"{what} is gone; its runs are shown without it")
    return found


def _say(start: str, line: str):
    if line not in SAID:
        SAID.add(line)
        print(start + line, flush=True)


def _gone(config: dict[str, Any]) -> Iterator[str]:
    """What the settings of a run name that is not there any more."""
    from qlstm.data.catalogue import CATALOGUE  # needs torch, which takes seconds to load
    from qlstm.errors import ConfigError, lookup
    from qlstm.normalizers import NORMALIZERS
    from qlstm.quantizers import QUANTIZERS

    if config["dataset"] not in CATALOGUE and not os.path.exists(config["dataset"]):
        yield f"the text {config['dataset']}"
    for what, table in (("quantizer", QUANTIZERS), ("normalizer", NORMALIZERS)):
        try:
            lookup(what, config[what], table)
        except ConfigError:
            yield f"the {what} {config[what]}"


def benchmarks(directory: Path | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Read the records that ``make bench`` wrote, with their paths; one that is damaged is left
    out, and a line says so.

    Args:
        directory: the folder that they are in, ``reports/bench`` where it is None.
    """
    for path in sorted((directory or reports() / "bench").glob("*.json")):
        try:
            record = kinds.read_as(record_schema.BENCHMARK, path)
        except (OSError, ValueError) as error:
            _say("left out: ", f"{path}: no record of make bench ({first_line(error)}); "
                 "delete it, or let make bench write it anew")
        else:
            yield path, record


def planned(folder: Path) -> dict[str, Any]:
    """The plan of a profile (:mod:`qlstm.workflow.plan`) in its ``folder``; what of it is missing
    or damaged is empty."""
    path = folder / "plan.json"
    try:
        found = kinds.read(path)
    except FileNotFoundError:
        return {name: empty() for name, (_, empty) in record_schema.PLAN.items()}
    except (OSError, ValueError):
        found = None
    fields = found if isinstance(found, dict) else {}
    sound = {name: fields[name] for name, (kind, _) in record_schema.PLAN.items()
             if name in fields and not kind(fields[name])}
    if found is not fields or sound.keys() != fields.keys() & record_schema.PLAN.keys():
        _say("", f"{path} is damaged; the next make reproduce writes it anew")
    return {name: sound.get(name, empty()) for name, (_, empty) in record_schema.PLAN.items()}
