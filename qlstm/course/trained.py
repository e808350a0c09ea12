"""``python -m qlstm.course.trained [FOLDER]``: make the trained models of lessons 4 and 5
and the run records of lesson 6.

Trains on War and Peace (``QLSTM_MIRROR`` or a download) with one thread, 20 minutes, and writes the
packed models and records into ``notebooks/learn/models`` and ``notebooks/learn/records``; beside
the models ``text.json``, the symbols that they know and the beginning of the test text.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from qlstm import ExperimentConfig, load_dataset, run
from qlstm.course.handouts import LEARN
from qlstm.study.records import reports

MODELS = [
    ExperimentConfig(dataset="war_and_peace", quantizer=quantizer, normalizer=normalizer,
                     hidden_size=d, steps=100, batch_size=32, epochs=5, max_train=1_000_000)
    for quantizer, normalizer, d in [("full_precision", "none", 128),
                                     ("full_precision", "layer", 128),
                                     ("binary_connect", "none", 128),
                                     ("binary_connect", "weight", 128),
                                     ("binary_connect", "layer", 128),
                                     ("binary_connect", "layer", 256)]
]
"""Lessons 4 and 5: full precision and one bit, without and with normalization, and one of twice the
width."""

RECORDS = [
    ExperimentConfig(dataset="war_and_peace", quantizer=quantizer, normalizer=normalizer,
                     hidden_size=128, steps=100, batch_size=32, epochs=5, max_train=200_000,
                     seed=seed)
    for seed in range(5)
    for quantizer, normalizer in [("full_precision", "none"), ("full_precision", "layer"),
                                  ("binary_connect", "none"), ("binary_connect", "weight"),
                                  ("binary_connect", "layer")]
]
"""Lesson 6: five rows of Table 2, five seeds each."""

EXCERPT = 5000
"""Symbols of the test text that lesson 5 reads."""


def main(folder: Path):
    """Train what is missing and copy what the lessons read.

    Args:
        folder: Where the runs are trained, ``reports/course/runs`` by default. A run that is
            finished there, by today's recipe, is not trained again.
    """
    torch.set_num_threads(1)
    for configs, target in ((MODELS, LEARN / "models"), (RECORDS, LEARN / "records")):
        target.mkdir(parents=True, exist_ok=True)
        for config in configs:
            varied = f"d{config.hidden_size}" if configs is MODELS else f"seed{config.seed}"
            name = f"{config.quantizer}-{config.normalizer}-{varied}"
            trained = folder / config.run_id
            run(config, trained)
            shutil.copyfile(trained / "record.json", target / f"{name}.json")
            if configs is MODELS:
                shutil.copyfile(trained / "packed.safetensors", target / f"{name}.safetensors")
    text = load_dataset("war_and_peace")
    content = {"vocabulary": text.vocabulary, "excerpt": text.decode(text.test[:EXCERPT])}
    (LEARN / "models" / "text.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else reports() / "course" / "runs")
