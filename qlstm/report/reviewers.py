"""What the paper's reviewers asked, as tables: statistics of batch normalization, GRU, run time.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
"""

import dataclasses

import pandas as pd

from qlstm.report.frames import frame, gradients
from qlstm.report.names import NORMALIZER_TITLES, NOT_RUN, QUANTIZER_TITLES, label
from qlstm.report.render import measured
from qlstm.report.statistics import over_seeds
from qlstm.study.tasks import METRICS


def statistics_experiment(records: list[dict]) -> pd.DataFrame:
    """Test accuracy of BinaryConnect on images by statistics, initial gain and state noise (mean
    over seeds, ± interval).

    Returns:
        A column for each of batch (shared) and batch (separate); rows: data and scale, gain
        ("U(0, 1)" or a number), noise.
    """
    runs = over_seeds(frame(records))
    runs = runs[(runs["metric"] == "accuracy") & (runs["quantizer"] == "binary_connect")
                & runs["normalizer"].str.startswith("batch")].rename(columns={"mean": "ours"})
    if runs.empty:
        return pd.DataFrame()
    plain = [dataclasses.replace(c, initial_gain=None, state_noise=None) for c in runs["config"]]
    gains = [f"{c.initial_gain:g}" if c.initial_gain else "U(0, 1)" for c in runs["config"]]
    shown = runs.assign(
        data=[label(config, "") for config in plain],
        statistics=runs["normalizer"].map(NORMALIZER_TITLES),
        shown=runs.apply(measured, axis=1),
        **{"initial gain": gains, "state noise": [f"{c.state_noise:g}" for c in runs["config"]]})
    return shown.pivot_table("shown", ["data", "initial gain", "state noise"], "statistics",
                             aggfunc="first").fillna(NOT_RUN)


def beside_lstm(records: list[dict]) -> pd.DataFrame:
    """GRUs beside LSTMs of the same setting: test metric, size and growth of the gradient a step
    (largest moment)."""
    runs = over_seeds(frame(records))
    growth = gradients(records).groupby(["label", "quantizer", "normalizer"])["rate"].max()
    by_key = {(run.label, run.quantizer, run.normalizer): run for run in runs.itertuples()}
    rows = []
    for name, quantizer, normalizer in [k for k, run in by_key.items() if run.config.cell == "gru"]:
        setting = name.replace(", GRU", "")
        for cell, key in (("GRU", (name, quantizer, normalizer)),
                          ("LSTM", (setting, quantizer, normalizer))):
            if key in by_key:
                run = by_key[key]
                rows.append(
                    {"setting": setting,
                     "quantization": QUANTIZER_TITLES.get(quantizer, quantizer),
                     "normalization": NORMALIZER_TITLES.get(normalizer, normalizer), "cell": cell,
                     f"test {METRICS[run.metric].title}": run.mean, "KB": run.size_kb,
                     "gradient, a step": growth.get(key)})
    table = pd.DataFrame(rows)
    return table.set_index(["setting", "quantization", "normalization", "cell"]) if rows else table


def run_time(records: list[dict]) -> pd.DataFrame:
    """Seconds of training an epoch, by setting and normalizer, and as a ratio to the same without
    normalization.

    Of full precision and BinaryConnect, means over seeds. Runs of one profile train side by side on
    a machine that does other things too, so that only the ratios say something; ``make bench``
    times the layer alone.
    """
    runs = frame(records)
    runs = runs[runs["quantizer"].isin(["full_precision", "binary_connect"])]
    runs = runs.assign(seconds_an_epoch=runs["seconds"] / runs["epochs"])
    means = runs.pivot_table(
        "seconds_an_epoch", ["label", "quantizer"], "normalizer", aggfunc="mean", sort=False)
    means = means[[name for name in NORMALIZER_TITLES if name in means]]
    ratios = means.div(means["none"], axis=0) if "none" in means else means * float("nan")
    return pd.concat({"seconds an epoch": means, "times no normalization": ratios}, axis=1)
