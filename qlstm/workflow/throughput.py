"""How many training runs share a machine best: steps a second of several at once, for ``make
bench``.

Here ``config`` is the run that all processes train, ``device`` is torch's.
"""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from threading import Barrier

import torch

from qlstm.errors import first_line
from qlstm.study import cuda_graphs, machine
from qlstm.study.config import ExperimentConfig
from qlstm.workflow.measure import training_step

COUNTS = [1, 2, 4, 8]
"""Processes that train at once on one GPU; on a CPU each has cores of its own, so not more than
there are."""
SECONDS = 5.0
"""For how long they are timed."""


def steps_per_second(config: ExperimentConfig, device: torch.device, threads: int, least: float,
                     ready: Barrier) -> float:
    """The steps a second of one process among those that train at once.

    Args:
        config, device: As in the module's legend.
        threads: The threads of the process.
        least: For how many seconds it trains.
        ready: What all processes wait at before.
    """
    torch.set_num_threads(threads)
    try:
        once = training_step(config, device, "auto")
        for _ in range(cuda_graphs.WARM_UP + 2):
            once()
        ready.wait()
    except BaseException:
        ready.abort()  # or the others wait forever
        raise
    started, steps = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < least:
        once()
        steps += 1
    return steps / seconds


_ready: Barrier
"""What the processes of a pool wait at; each is given it at its start."""


def _start(ready: Barrier):
    global _ready
    _ready = ready


def _measured(*given) -> float:
    return steps_per_second(*given, _ready)


def side_by_side(config: ExperimentConfig, device: torch.device) -> Iterator[tuple[int, float]]:
    """How many train at once, and the steps a second of all together; ends where memory does."""
    spawn = multiprocessing.get_context("spawn")
    for count in [n for n in COUNTS if device.type == "cuda" or n <= machine.cores()]:
        with ProcessPoolExecutor(count, spawn, _start, (spawn.Barrier(count),)) as pool:
            given = config, device, max(1, machine.cores() // count), SECONDS
            working = [pool.submit(_measured, *given) for _ in range(count)]
            try:
                rate = sum(future.result() for future in working)
            except RuntimeError as error:  # no memory for so many
                print(f"{count} side by side: {first_line(error)}")
                break
        print(f"{count} side by side: {rate:.1f} steps/s together", flush=True)
        yield count, rate
