"""Bring committed records and packed models from schema 3 to 4: a recipe number in place of the code's hash, new settings.

``python workflow/migrate_records.py``, once. It adds the settings that did not exist (decay, min_learning_rate, biases,
carry_state) at their usual values, which are what those runs did, and changes nothing else.
"""

import json
import subprocess
import sys

from qlstm import ExperimentConfig, packing, records
from qlstm.paths import ROOT

RECIPE = 1
"""Of all runs before recipes had numbers."""


def migrate(record: dict) -> dict:
    """A record of schema 3 as one of schema 4, without its checksum, which saving adds."""
    config = ExperimentConfig(**record["config"])
    assert config.run_id == record["run_id"]
    new = {"recipe" if key == "code" else key: value for key, value in record.items() if key != "checksum"}
    config = config.as_dict()
    return new | {"schema": 4, "config": config, "config_sha256": records.sha256(config), "recipe": RECIPE}


def main():
    """All files that git lists."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    for path in [ROOT / name for name in listed.stdout.splitlines()]:
        if path.suffix == ".json" and ("reports/paper/runs" in str(path) or "notebooks/learn" in str(path)):
            record = json.loads(path.read_bytes())
            if record.get("schema") == 3:
                assert record["checksum"] == records.checksum(record), path
                records.save(migrate(record), path)
        elif path.suffix == ".safetensors":
            metadata, tensors = packing._read(path)
            card = json.loads(metadata["card"])
            if "code" in card:
                del card["code"]
                config = ExperimentConfig(**card["config"]).as_dict()
                metadata["card"] = packing._dump(card | {"config": config, "recipe": RECIPE})
                metadata["sha256"] = packing._digest(tensors, metadata)
                records.write_atomically(path, packing._serialize(tensors, metadata))


if __name__ == "__main__":
    sys.exit(main())
