"""What the notebook of one run shows beside its curve: the data, the network, the result and what
the trained network does."""

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from qlstm import data
from qlstm.quantizers import find_quantizer
from qlstm.report.figures import PALETTE, style
from qlstm.report.names import UNKNOWN, label, model_name
from qlstm.study import records
from qlstm.study.config import ExperimentConfig
from qlstm.study.networks import build_model, load_model
from qlstm.study.tasks import TASKS

BEGINNING = {"char_lm": 300, "word_lm": 60}
"""Symbols of a text that are shown."""
PROMPT = {"char_lm": 50, "word_lm": 10}
"""Symbols that a network goes on from."""
BY_HAND = "by_hand"
"""The folder in ``reports/`` of runs by hand, which are no part of the study; git ignores it."""


def folder(config: ExperimentConfig) -> Path:
    """Return the folder of a run by hand: ``reports/by_hand/<profile>/runs/<run id>``.

    Args:
        config: The settings of the run.
    """
    return records.run_directory(config, records.reports() / BY_HAND)


def show_data(config: ExperimentConfig):
    """Show what a run learns from: the sizes of its three parts, and the beginning of the text or
    some of the images.

    Args:
        config: The settings of the run.
    """
    dataset = data.load_dataset(config.dataset, config.task)
    print(f"{data.title(config.dataset)}, from {dataset.source}\n{dataset.summary()} "
          "(training / validation / test)")
    if config.max_train:
        print(f"this run trains on the first {config.max_train:,}")
    if config.task == "sequential_image":
        display(_images(_as_read(dataset, config)))
    else:
        print("\n" + dataset.decode(dataset.train[: BEGINNING[config.task]]))


def network(config: ExperimentConfig) -> pd.DataFrame:
    """List the parameters of the network of a run: how many there are, and what is quantized.

    Args:
        config: The settings of the run.

    Returns:
        ``shape``, ``values``, and ``bits`` of each in the trained network, by parameter.
    """
    model = build_model(config)
    coded = getattr(find_quantizer(config.quantizer), "bits", np.nan)  # NaN: one's own, unknown
    rows = [{"parameter": name, "shape": " × ".join(map(str, value.shape)),
             "values": value.numel(),
             "bits": coded if name.startswith("rnn.weight_")
             and model.rnn.quantizes(name.removeprefix("rnn.")) else 32}
            for name, value in model.named_parameters()]
    return pd.DataFrame(rows).set_index("parameter")


def result(record: dict[str, Any], directory: Path) -> pd.DataFrame:
    """Put a run beside the same network in full precision, if there is a record of that.

    Args:
        record: The run's.
        directory: Its folder. The other one is looked for beside it and in the profile's.

    Returns:
        The test metric, the sizes (KB, as the paper counts it and as the file of packed weights)
        and the seconds of each.
    """
    test = f"test {TASKS[record['config']['task']].metric.title}"
    found = {model_name(*_kind(record)): record}
    if _kind(record) != ("full_precision", "none"):
        found["full precision"] = _full_precision(record, directory)
    rows = [{"network": name, test: run["test_metric"],
             "best epoch": run["best_epoch"], "size (KB)": run["size_kb"],
             "packed (KB)": (run["packed_bytes"] or np.nan) / 1024, "seconds": run["seconds"]}
            for name, run in found.items() if run]
    table = pd.DataFrame(rows).set_index("network").astype({"size (KB)": float}).round(
        {test: 3, "size (KB)": 1, "packed (KB)": 1, "seconds": 0})
    return table.assign(**{"size (KB)": table["size (KB)"].astype(object).fillna(UNKNOWN)})


def _kind(record: dict[str, Any]) -> tuple[str, str]:
    return record["config"]["quantizer"], record["config"]["normalizer"]


def _full_precision(record: dict[str, Any], directory: Path) -> dict[str, Any] | None:
    """The record of the same setting in full precision without normalization, of the same seed if
    there is one."""
    same = []
    for runs in (directory.parent, records.reports() / record["config"]["profile"] / "runs"):
        for path in sorted(runs.glob("*full_precision-none-*/record.json")):
            try:
                other = records.load(path)
            except records.RecordError:  # the table of the run does without it
                continue
            if (_kind(other) == ("full_precision", "none")
                    and other["data"]["sha256"] == record["data"]["sha256"]
                    and _setting(other) == _setting(record)):
                same.append(other)
    return min(same, default=None,
               key=lambda other: other["config"]["seed"] != record["config"]["seed"])


def _setting(record: dict[str, Any]) -> str:
    return label(ExperimentConfig.as_recorded(record["config"]), record["data"]["sha256"])


def show_answers(directory: Path):
    """Show what the trained network of a run does: go on with a text, or read an image.

    Args:
        directory: The folder of the run.
    """
    if not (directory / "model.safetensors").exists():
        print("no trained network: its loss became infinite or NaN")
        return
    model, record = load_model(directory)
    config = ExperimentConfig.as_recorded(record["config"])
    dataset = data.load_dataset(config.dataset, config.task)
    if config.task == "sequential_image":
        display(reading(model, _as_read(dataset, config), permuted=config.permuted))
    else:
        prompt = dataset.test[: PROMPT[config.task]].long()
        drawn = model.sample(prompt, 5 * len(prompt), temperature=0.7)
        print(f"{dataset.decode(prompt)} | {dataset.decode(drawn)}")


def _as_read(dataset: data.ImageDataset, config: ExperimentConfig) -> data.ImageDataset:
    """The images with those of the test part as the network of a run reads them, which may be
    smaller."""
    if config.steps == dataset.steps:
        return dataset
    return dataclasses.replace(dataset, test=data.smaller(dataset.test, config.steps))


@torch.no_grad()
def reading(model: nn.Module, dataset: data.ImageDataset, count: int = 3, *,
            permuted: bool = False) -> Figure:
    """Draw how a network reads images: a pixel a time step, and what it would answer after each.

    Args:
        model: The trained network.
        dataset: The images, of whose test part the first are read; those have the size that the
            network reads.
        count: How many of them.
        permuted: Whether their pixels come in the fixed random order.
    """
    part = tuple(values[:count] for values in dataset.test)
    inputs, labels = next(data.image_minibatches(
        part, count, levels=dataset.levels, permuted=permuted))
    states = []
    hook = model.rnn.register_forward_hook(lambda _, __, output: states.append(output[0]))
    model(inputs)
    hook.remove()
    answers = torch.softmax(model.decoder(states[0]), -1)  # (T, N, classes)
    steps = range(1, len(inputs) + 1)
    with style():
        figure, axes = plt.subplots(count, 3, figsize=(8, 1.5 * count), layout="constrained",
                                    width_ratios=[1, 3, 3], squeeze=False, sharex="col")
        for n, (image, pixels, chances) in enumerate(axes):
            digit, last = int(labels[n]), int(answers[-1, n].argmax())
            _draw(image, part[0][n], f"a {digit}")
            pixels.plot(steps, inputs[:, n, 0].numpy(), color="0.3", linewidth=0.8)
            pixels.set_ylabel("pixel")
            for k in dict.fromkeys([digit, last]):
                chances.plot(steps, answers[:, n, k].numpy(),
                             color=PALETTE[2 if k == digit else 3], label=f"{k}")
            chances.set(ylim=(-0.05, 1.05), ylabel="probability")
            chances.set_title(f"answer: {last}, {'right' if last == digit else 'wrong'}",
                              fontsize="medium")
            chances.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, title="digit")
        axes[-1, 1].set_xlabel("time step t")
        axes[-1, 2].set_xlabel("pixels read")
    plt.close(figure)
    return figure


def _images(dataset: data.ImageDataset, count: int = 8) -> Figure:
    """The first images of the test part, as their pixels are ordered."""
    figure, axes = plt.subplots(1, count, figsize=(count * 0.9, 1.2))
    for axis, image, digit in zip(axes, *(part[:count] for part in dataset.test), strict=True):
        _draw(axis, image, f"{digit}")
    plt.close(figure)
    return figure


def _draw(axis: Axes, pixels: Tensor, title: str):
    """An image of pixels (T,)."""
    axis.imshow(pixels.numpy().reshape(round(len(pixels) ** 0.5), -1), cmap="gray_r")
    axis.set_title(title, fontsize="small")
    axis.set_axis_off()
