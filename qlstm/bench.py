"""``python -m qlstm.bench``: time the layer beside ``torch.nn.LSTM``, as ratios taken in one run."""

import argparse
import statistics
import sys
import time

import torch
from torch import nn

from qlstm.layer import QuantLSTM
from qlstm.normalizers import NORMALIZERS
from qlstm.recurrence import BACKENDS

SHAPES = {"quick": (100, 64, 100, 128), "character": (100, 64, 87, 512)}
"""T, N, D, d of the shapes timed."""


def seconds(layer: nn.Module, x: torch.Tensor) -> float:
    """One forward and backward pass of ``layer`` on ``x`` (T, N, D), in seconds."""
    started = time.perf_counter()
    output, _ = layer(x)
    output.sum().backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> int:
    """Print a row for each shape, backend and normalizer: median milliseconds, and the ratio to nn.LSTM's."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"forward + backward, float32, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"median of {repeats} in turn\n{'shape':30}{'layer':38}{'ms':>8}{'x nn.LSTM':>11}")  # fmt: skip
    for name, (t, n, d_in, d) in SHAPES.items():
        x = torch.randn(t, n, d_in, device=device)
        layers = {"torch.nn.LSTM": nn.LSTM(d_in, d)}
        for backend in BACKENDS:
            for normalizer in NORMALIZERS:
                layers[f"{backend}, binary_connect, {normalizer}"] = QuantLSTM(
                    d_in, d, quantizer="binary_connect", normalizer=normalizer, max_steps=t, backend=backend
                )
        times: dict[str, list[float]] = {key: [] for key in layers}
        for repeat in range(repeats + 1):  # in turn, so that a busy machine slows all alike; the first warms up
            for key, layer in layers.items():
                elapsed = seconds(layer.to(device), x)
                if repeat:
                    times[key].append(elapsed)
        medians = {key: statistics.median(values) for key, values in times.items()}
        for key, median in medians.items():
            shape = f"{name}: T{t} N{n} D{d_in} d{d}"
            print(f"{shape:30}{key:38}{1000 * median:8.1f}{median / medians['torch.nn.LSTM']:11.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
