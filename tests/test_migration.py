"""The migrated records and packed models say what they said before, and more."""

import json
import subprocess

import pytest
import torch

from qlstm import packing, records
from qlstm.paths import ROOT

BEFORE = "f79fa4b"
NEW = {"decay": "all", "biases": 1, "carry_state": True}


def git(*words, **options):
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True, **options).stdout


NAMES = git("ls-tree", "-r", "--name-only", BEFORE, text=True).splitlines()
RECORDS = [n for n in NAMES if n.endswith(".json") and ("paper/runs" in n or "learn/re" in n or "learn/models/b" in n)]


@pytest.mark.parametrize("name", RECORDS)
def test_nothing_else_changed(name):
    old, new = json.loads(git("show", f"{BEFORE}:{name}")), records.load(ROOT / name)
    assert list(new) == ["recipe" if key == "code" else key for key in old]
    same = [key for key in old if key not in ("schema", "code", "config", "config_sha256", "checksum")]
    assert {key: new[key] for key in same} == {key: old[key] for key in same}
    assert (old["schema"], new["schema"], new["recipe"]) == (3, 4, 1)
    least = 0.001 if (new["config"]["profile"], new["config"]["task"]) == ("paper", "word_lm") else 0.0
    assert new["config"] == old["config"] | NEW | {"min_learning_rate": least}


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith(".safetensors")])
def test_packed_models_are_the_same(name, tmp_path):
    (tmp_path / "old").write_bytes(git("show", f"{BEFORE}:{name}"))
    (old_model, old), (model, new) = packing.load_packed(tmp_path / "old"), packing.load_packed(ROOT / name)
    for a, b in zip(old_model.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert {k: v for k, v in new.items() if k not in ("config", "recipe")} == {
        k: v for k, v in old.items() if k not in ("config", "code")
    }
    assert old["config"].items() <= new["config"].items()
