import os

# one thread: the tests run side by side, and tiny operations only lose by sharing
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


LONG = ["test_triton.py", "test_gpu.py"]
"""Files of few tests that take minutes: two processes share the files, and neither is to be left
with one of these in the end."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in LONG)
