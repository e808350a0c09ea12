import os
import sys

# one thread: the tests run side by side, and tiny operations only lose by sharing
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_exercise_is_solved():
    if exercises := sys.modules.get("qlstm.course.exercises"):
        exercises._solved.clear()


@pytest.fixture
def pretended(monkeypatch):
    """What `make reproduce` would start, the commands by their names for each call of the pool that
    has some. Nothing is: each notebook at once gets its copy and page, which are empty."""
    from qlstm.workflow import pool, reproduce

    calls = []

    def side_by_side(commands, jobs, ended=lambda name, status: None, **_):
        calls.extend([commands] if commands else [])
        for name, words in commands.items():
            if "notebook" in words:
                copy = Path(words[words.index("notebook") + 2])
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.touch()
                copy.with_suffix(".html").touch()
            ended(name, 0)
        return pool.Outcome({}, [], [])

    monkeypatch.setattr(pool, "side_by_side", side_by_side)
    monkeypatch.setattr(reproduce, "to_html", lambda notebook, page, code: page.touch())
    return calls


LONG = ["test_triton.py", "test_gpu.py", "test_transformations.py"]
"""Files of few tests that take minutes: two processes share the files, and neither is to be left
with one of these in the end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)
