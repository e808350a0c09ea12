"""Records as a run would write them, with numbers that only a test may invent."""

import dataclasses

from qlstm import ExperimentConfig
from qlstm.study import record_schema, records
from qlstm.study.grid import ARTEFACTS
from qlstm.study.recipe import recipe
from qlstm.study.sizes import size_kb
from qlstm.study.tasks import TASKS

ENVIRONMENT = {"made_by": "command", "commit": None, "python": "3.11.2", "torch": "t", "numpy": "n",
               "system": "s", "device": "d", "threads": 1, "backend": "cpu",
               "matmul_precision": "highest"}


def made_up(config, test=2.0, *, sha256="a" * 64, diverged=False, packed=4096, seconds=3.0,
            rate=1.0, growing=None, ratio=0.5, lambdas=(1.5, 2.5), norms=(1.0, 8.0), bound=4.0,
            gains=(1.0, 1.1, 1.2), alpha=0.3, moments=("initial", "epoch 1", "best"), lambda_2=0.5,
            curve=None):
    """A record as `run` would write it, with numbers that only a test may invent.

    ``rate``: growth of the gradient a step back, at every moment but those of ``growing`` (by
    name); ``lambdas`` and ``norms``: before and after quantization; ``gains``: g_* by epoch, an
    epoch each; ``curve``: validation metrics by epoch, of as many epochs as ``gains``.
    """
    gates = {"lstm": 4, "gru": 3}[config.cell]
    metric, batch = TASKS[config.task].metric.name, config.normalizer.startswith("batch")
    proposition = "GRU" if config.cell == "gru" else record_schema.PROPOSITIONS.get(
        config.normalizer)
    coded = config.quantizer != "full_precision"
    epochs = []
    curve = curve or [test + 1 / (e + 1) for e in range(1, len(gains))]
    gains = gains if len(gains) == len(curve) + 1 else [1.0] * (len(curve) + 1)
    for e, g in enumerate(gains):
        line = {"epoch": e} | (
            {"learning_rate": 0.002, "valid_loss": 1 + 1 / (e + 1), "valid_metric": curve[e - 1],
             "train_loss": 1.0} if e else {})
        after = {"norms": [norms[1]] * gates, "lambda_1": lambdas[1], "lambda_2": 0.5}
        line["alpha"] = ([[alpha] * gates] * config.num_layers
                         if config.quantizer in record_schema.SCALED else None)
        g_star = [[g, *[0.9] * (gates - 1)]] * config.num_layers
        line["gains"] = None if config.normalizer == "none" else {
            "g": g_star} | ({"sigma": g_star} if batch else {})
        line["spectral"] = {
            "before": {"norms": [norms[0]] * gates, "lambda_1": lambdas[0], "lambda_2": 0.25},
            "after": after | ({"bounds": [bound] * gates} if coded else {})}
        epochs.append(line)
    if diverged:
        epochs[-1] = {"epoch": epochs[-1]["epoch"], "learning_rate": 0.002, "diverged": True,
                      "spectral": None,
                      **{key: epochs[-1][key] for key in ("alpha", "gains")}}
    steps = [1, config.steps // 2, config.steps]
    norm_lines, propositions = {}, {}
    for moment in [name for name in moments if name != "best" or not diverged]:
        grows = (growing or {}).get(moment, rate)
        lines = [[(k + 1) * 1e-3 * grows ** (config.steps - step) for step in steps]
                 for k in range(1 if batch else 10)]
        norm_lines[moment] = {"steps": steps, "training": lines}
        if config.task != "sequential_image":
            norm_lines[moment]["last_step"] = lines
        propositions[moment] = {"proposition": proposition, "steps": steps, "ratio": ratio,
                                "median_ratio": ratio / 2, "lambda_1": [lambdas[1]] * 3,
                                "lambda_2": [lambda_2] * 3}
    record = {
        "schema": records.SCHEMA,
        "run_id": config.run_id,
        "config": config.as_dict(),
        "config_sha256": records.sha256(config.as_dict()),
        "data": {"sha256": sha256, "reduced": not config.at_paper_scale,
                 "sizes": {"train": 1, "valid": 1, "test": 1}},
        "metric": metric,
        "test_metric": None if diverged else test,
        "valid_metric": None if diverged else test,
        "best_epoch": None if diverged else len(gains) - 1,
        "diverged": diverged,
        "size_kb": size_kb(config),
        "packed_bytes": packed,
        "seconds": seconds,
        "epochs": epochs,
        "recipe": recipe(config.as_dict()),
        "traces": {"gradient_norms": norm_lines, "propositions": propositions},
        "environment": ENVIRONMENT,
    }
    return record | {"checksum": records.checksum(record)}


def benchmark(device, rows=(), threads=1, **more):
    """A record of `make bench`, with the values of its rows that a test speaks of."""
    usual = dict(part="step", shape="character", task="char_lm", backend="cpu", normalizer="none",
                 quantizer="binary_connect", T=100, N=64, d=512, D=50, ms=1.0, memory_mb=None,
                 ratio=1.0) | {"pass": "training step"}
    return {"environment": ENVIRONMENT | {"device": device, "threads": threads}, "repeats": 1,
            "peaks": {"gflop_per_s": 1.0, "gb_per_s": 1.0},
            "rows": [usual | row for row in rows]} | more


def quick(quantizer="full_precision", normalizer="none", **more):
    """Settings of a small run; characters have T = 100, as the paper's."""
    config = ExperimentConfig(quantizer=quantizer, normalizer=normalizer, **more)
    if config.profile == "quick" and config.task == "char_lm":
        usual = {"steps": 100, "batch_size": 64, "max_train": 240_000}
        return dataclasses.replace(config, **usual | more)
    return config


def paper(dataset, quantizer="full_precision", normalizer="none", **more):
    return quick(quantizer, normalizer, profile="paper", dataset=dataset, **more)


def everything(dataset="python_help", **more):
    task = ExperimentConfig(dataset=dataset).task
    rows = {(row, panel.variant) for panels in ARTEFACTS.values() for panel in panels
            for row in panel.rows if panel.task == task and not panel.settings}
    sizes = {"": {}, "small": {}, "large": {"hidden_size": 128},
             "deep": {"hidden_size": 128, "num_layers": 2}}
    return [made_up(quick(q, n, dataset=dataset, **sizes[variant] | more), moments=["best"])
            for (q, n), variant in sorted(rows)]
