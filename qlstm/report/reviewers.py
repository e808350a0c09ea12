"""What the paper's reviewers asked, as tables: statistics of batch normalization, GRU, run time.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them.
"""

import dataclasses

import pandas as pd

from qlstm.report.frames import frame, gradients
from qlstm.report.names import (
    NORMALIZER_TITLES,
    NORMALIZER_WORDS,
    NOT_RUN,
    QUANTIZER_TITLES,
    UNKNOWN,
    label,
    number,
)
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
    """GRUs beside LSTMs of the same setting: test metric, size and growth of the gradient over
    all steps (largest moment)."""
    runs = over_seeds(frame(records))
    growth = gradients(records).groupby(["label", "quantizer", "normalizer"])["growth"].max()
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
                     "normalization": NORMALIZER_WORDS.get(normalizer, normalizer), "cell": cell,
                     f"test {METRICS[run.metric].title}": run.mean,
                     "KB": UNKNOWN if pd.isna(run.size_kb) else run.size_kb,
                     "gradient": growth.get(key)})
    table = pd.DataFrame(rows)
    return table.set_index(["setting", "quantization", "normalization", "cell"]) if rows else table


def run_time(records: list[dict]) -> pd.DataFrame:
    """Seconds of training an epoch, by setting, device and normalizer, and as a ratio to the same
    without normalization.

    Of full precision and BinaryConnect, means over the seeds that did not diverge. Runs of one
    profile train side by side on a machine that does other things too, so that only the ratios say
    something; ``make bench`` times the layer alone.
    """
    runs = frame(records)
    runs = runs[runs["quantizer"].isin(["full_precision", "binary_connect"]) & ~runs["diverged"]]
    runs = runs.assign(each=runs["seconds"] / runs["epochs"])
    keys = ["label", "device", "quantizer", "normalizer"]
    means = runs.groupby(keys, sort=False)["each"].mean()
    plain = means.xs("none", level="normalizer") if "none" in set(runs["normalizer"]) else {}
    table = pd.DataFrame({"seconds an epoch": means, "times none": [
        seconds / plain.get((name, device, quantizer), float("nan"))
        for (name, device, quantizer, _), seconds in means.items()]})
    table = table.rename(index=QUANTIZER_TITLES, level="quantizer").rename(
        index=NORMALIZER_WORDS, level="normalizer")
    return table.rename_axis(["setting", "device", "quantization", "normalization"])


def pairs(tests: pd.DataFrame) -> pd.DataFrame:
    """Paired tests as people read them: those that could be made.

    Args:
        tests: of :func:`qlstm.report.statistics.paired_tests`.
    """
    made = tests[tests["p"].notna()]
    return pd.DataFrame({
        "quantization": made["quantizer"].replace(QUANTIZER_TITLES),
        "a": made["a"].replace(NORMALIZER_WORDS), "b": made["b"].replace(NORMALIZER_WORDS),
        "a - b": [f"{row.difference:.3g} ± {row.half_width:.2g}" for row in made.itertuples()],
        "p (Holm)": [f"{p:.2g}" for p in made["p_holm"]],
    }).set_index(made["label"].rename("setting"))


def several_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """The settings that were run with more than one seed: mean ± 95 % t-interval, and their
    number.

    Args:
        runs: of :func:`qlstm.report.frames.frame`.
    """
    found = over_seeds(runs).rename(columns={"mean": "ours"})
    found = found[found["seeds"] > 1]
    return pd.DataFrame({
        "quantization": found["quantizer"].replace(QUANTIZER_TITLES),
        "normalization": found["normalizer"].replace(NORMALIZER_WORDS),
        "test": [_range(row) for _, row in found.iterrows()],
        "seeds": found["seeds"].astype(str),
    }).set_index(found["label"].rename("setting"))


def _range(row: pd.Series) -> str:
    """Mean and interval; where that would cross zero or chance, the range of the seeds."""
    if not row["half_width"] > row["ours"] / 2:
        return measured(row)
    return " to ".join(number(row["metric"], end, True) for end in (row["least"], row["most"]))
