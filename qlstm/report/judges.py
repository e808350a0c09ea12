"""What the records say on each claim of the paper: a function a claim, an answer a setting.

``view``: the records of a profile, as a :class:`View`. ``quantizer``: the one that the claim speaks
of. ``cell``: ``lstm`` or ``gru``.

Rules and thresholds were written before the first run was looked at; what counts as failing to
train is rule 2 of :mod:`qlstm.report.verdicts`.
"""

import dataclasses

import numpy as np

from qlstm.report import frames, verdicts
from qlstm.report.evidence import Answer, Answers, Setting, View
from qlstm.report.names import SHORT, label, model_name
from qlstm.study.config import ExperimentConfig
from qlstm.study.sizes import round_half_up, size_kb

EXPLODES = 1.1
"""A gradient explodes if it grows by more than 10 % a time step on its way back: a factor of 12,000
over 100 steps."""
CLOSE = 0.05
"""Within 5 % of full precision: of its BPC or perplexity, of its accuracy in percent."""
SLIGHTLY = 1.5
"""g_* grows only slightly: by at most half over the whole training."""
SMALL = 1 / 20
"""A fraction of the size: at most a twentieth."""
EXACT = 0.95
"""Sizes as printed: at least so many of them to the kilobyte."""

NORMALIZED = ["weight", "layer", "batch_shared"]
BASE = ("full_precision", "none")


def unnormalized_fails(view: View, quantizer: str) -> Answers:
    """Without normalization, the quantizer fails to train."""
    bare = (quantizer, "none")
    for setting in view.settings():
        if {BASE, bare} <= set(setting.means):
            fails = verdicts.fails(setting.metric, setting.means[bare], setting.means[BASE])
            yield Answer(setting.label, setting.paper_scale, fails,
                         f"{setting.told(*bare)}, full precision {setting.told(*BASE)}")


def normalized_trains(view: View, quantizer: str, cell: str = "lstm") -> Answers:
    """With each normalization that was run, the quantizer does not fail and is better than
    without."""
    bare = (quantizer, "none")
    for setting in view.settings(cell):
        means = setting.means
        rows = [(quantizer, n) for n in NORMALIZED if (quantizer, n) in means]
        if not rows or not {BASE, bare} <= set(means):
            continue
        holds = all(not verdicts.fails(setting.metric, means[row], means[BASE])
                    and not means[row] >= means[bare] for row in rows)
        yield Answer(setting.label, setting.paper_scale, holds,
                     f"{_listed(setting, rows)}; without {setting.told(*bare)}; full precision "
                     f"{setting.told(*BASE)}")


def _listed(setting: Setting, rows: list[tuple[str, str]]) -> str:
    return ", ".join(f"{model_name(*row)} {setting.told(*row)}" for row in rows)


def close(view: View, quantizer: str, baseline_normalized: bool) -> Answers:
    """Normalized, the quantizer ends close to full precision.

    Args:
        view: the records.
        quantizer: the one judged.
        baseline_normalized: whether full precision has the same normalization, or none.
    """
    pairs = [((quantizer, n), ("full_precision", n if baseline_normalized else "none"))
             for n in NORMALIZED]
    for setting in view.settings(images=True):
        known = [pair for pair in pairs if set(pair) <= set(setting.means)]
        ratios = np.array([setting.means[row] / setting.means[base] for row, base in known])
        near = ratios >= 1 - CLOSE if setting.metric == "accuracy" else ratios <= 1 + CLOSE
        if known:
            yield Answer(
                setting.label, setting.paper_scale, bool(near.all()),
                "; ".join(f"{model_name(*row)} {setting.told(*row)} against {setting.told(*base)}"
                          for row, base in known))


def explodes(view: View, quantizer: str, expected: bool, cell: str = "lstm",
             normalizers: tuple[str, ...] = ("none",), **wanted) -> Answers:
    """The gradient explodes, or does not.

    Args:
        view: the records.
        quantizer: of the networks judged.
        expected: what the claim says: that it explodes (True) or that it does not.
        cell: of the networks judged.
        normalizers: of the networks judged.
        wanted: other settings that the networks must have.
    """
    for name, scale, rates in view.growth(quantizer, list(normalizers), cell=cell, **wanted):
        yield Answer(name, scale, bool(((rates > EXPLODES) == expected).all()),
                     ", ".join(f"{model_name(quantizer, n)} ×{rate:.3f} a step"
                               for n, rate in rates.items()))


def slower(view: View) -> Answers:
    """The ternarized LSTM's gradient grows more slowly than the binarized one's."""
    binary = {name: rates["none"]
              for name, _, rates in view.growth("binary_connect", ["none"], cell="lstm")}
    for name, scale, rates in view.growth("ter_connect", ["none"], cell="lstm"):
        if name in binary:
            yield Answer(name, scale, bool(rates["none"] < binary[name]),
                         f"TC ×{rates['none']:.3f}, BC ×{binary[name]:.3f} a step")


def sizes(view: View) -> Answers:
    """The printed sizes follow from the formula of section 4."""
    printed = frames.published()
    exact, wrong = 0, []
    for row in printed.itertuples():
        size = round_half_up(size_kb(_network(row), row_scales=False))
        exact += size == row.size_kb
        if size != row.size_kb:
            wrong.append(f"{model_name(row.quantizer, row.normalizer)} {row.dataset} "
                         f"d = {row.hidden}: {row.size_kb} printed, {size}")
    yield Answer("the formula of section 4", True, exact >= EXACT * len(printed),
                 f"{exact} of {len(printed)} to the kilobyte; misprinted: {'; '.join(wrong)}")


def _network(row, quantizer: str = "", normalizer: str = "") -> ExperimentConfig:
    """The paper's network of a published ``row``, with its own quantizer or another one."""
    return ExperimentConfig(
        profile="paper", dataset=row.dataset, hidden_size=row.hidden, num_layers=row.layers,
        quantizer=quantizer or row.quantizer, normalizer=normalizer or row.normalizer)


def fraction(view: View) -> Answers:
    """Normalized 1-bit LSTMs take a small part of full precision's size."""
    for row in frames.published().drop_duplicates(["dataset", "hidden", "layers"]).itertuples():
        largest = max(size_kb(_network(row, "binary_connect", n)) for n in NORMALIZED)
        full = size_kb(_network(row, *BASE))
        plural = "s" * (row.layers > 1)
        yield Answer(f"{row.dataset}, d = {row.hidden}, {row.layers} layer{plural}", True,
                     bool(largest <= SMALL * full), f"at most {largest:.0f} of {full:.0f} KB")


def separate(view: View) -> Answers:
    """Separate statistics of batch normalization are no better than shared ones."""
    for setting in view.settings():
        for quantizer in ("full_precision", "binary_connect", "ter_connect"):
            pair = [(quantizer, f"batch_{kind}") for kind in ("separate", "shared")]
            if not set(pair) <= set(setting.means):
                continue
            alone, shared = (setting.means[row] for row in pair)
            margin = verdicts.TOLERANCE[setting.metric] * (shared if setting.metric == "ppl" else 1)
            told = [f"{setting.told(*row)} ({setting.size_kb[row]:.0f} KB)" for row in pair]
            yield Answer(setting.label, setting.paper_scale,
                         bool(np.isnan(alone) or alone >= shared - margin),
                         f"{SHORT[quantizer]}: separate {told[0]}, shared {told[1]}")


def alpha(view: View) -> Answers:
    """The scaling parameter of the recurrent matrix is smaller than 1."""
    for record in view.records:
        config = ExperimentConfig(**record["config"])
        if config.quantizer in ("bwn", "lab"):
            values = [a for epoch in record["epochs"] for layer in epoch["alpha"] for a in layer
                      if a is not None]
            yield Answer(label(config, record["data"]["sha256"]), config.at_paper_scale,
                         max(values) < 1,
                         f"{model_name(config.quantizer, config.normalizer)} {min(values):.3g} to "
                         f"{max(values):.3g}")


def gains(view: View) -> Answers:
    """The gains of the normalized, binarized LSTM grow only slightly."""
    chosen = view.epochs[(view.epochs["quantizer"] == "binary_connect") & view.epochs["g"].notna()]
    for (name, normalizer, _), run in chosen.groupby(["label", "normalizer", "seed"], sort=False):
        first, most = run["g"].iloc[0], run["g"].max()
        yield Answer(name, run["config"].iloc[0].at_paper_scale, bool(most <= SLIGHTLY * first),
                     f"{model_name('binary_connect', normalizer)}: {first:.2f} → {most:.2f}")


def propositions(view: View) -> Answers:
    """The propositions hold on every trained network."""
    for name, group in view.gradients.dropna(subset=["ratio"]).groupby("label", sort=False):
        numbers = ", ".join(sorted(set(group["proposition"])))
        yield Answer(
            name, group["config"].iloc[0].at_paper_scale, bool((group["ratio"] <= 1 + 1e-9).all()),
            f"{len(group)} networks ({numbers}): largest left/right side "
            f"{group['ratio'].max():.3f}")


def necessary(view: View) -> Answers:
    """Where the gradient explodes, lambda_1 is above 1."""
    growing = view.gradients[
        (view.gradients["rate"] > EXPLODES) & view.gradients["lambda_1"].notna()]
    for name, group in growing.groupby("label", sort=False):
        yield Answer(
            name, group["config"].iloc[0].at_paper_scale, bool((group["lambda_1"] > 1).all()),
            f"{len(group)} exploding networks, λ₁ at least {group['lambda_1'].min():.2f}")


def raises_lambda(view: View) -> Answers:
    """Quantization raises lambda_1 of the unnormalized LSTM."""
    epochs = view.epochs.dropna(subset=["lambda_1_after"])
    lstm = np.array([config.cell == "lstm" for config in epochs["config"]], dtype=bool)
    chosen = epochs[lstm & epochs["quantizer"].isin(["binary_connect", "ter_connect"])
                    & (epochs["normalizer"] == "none")]
    for (name, quantizer), group in chosen.groupby(["label", "quantizer"], sort=False):
        before, after = group["lambda_1_before"], group["lambda_1_after"]
        told = [f"{before.iloc[end]:.2f} → {after.iloc[end]:.2f}" for end in (0, -1)]
        yield Answer(
            name, group["config"].iloc[0].at_paper_scale, bool((after > before).all()),
            f"{model_name(quantizer, 'none')}: {told[0]} at first, {told[1]} at last")


def lower_bounds(view: View) -> Answers:
    """The norms of quantized matrices are at least their lower bounds."""
    for record in view.records:
        config = ExperimentConfig(**record["config"])
        after = [epoch["spectral"]["after"] for epoch in record["epochs"] if epoch["spectral"]]
        ratios = [norm / bound for side in after if "bounds" in side
                  for norm, bound in zip(side["norms"], side["bounds"], strict=True)
                  if norm is not None and bound]
        if ratios and config.normalizer == "none":
            yield Answer(label(config, record["data"]["sha256"]), config.at_paper_scale,
                         min(ratios) >= 1 - 1e-5,
                         f"{model_name(config.quantizer, 'none')} {min(ratios):.2f} to "
                         f"{max(ratios):.2f} times the bound")


def scale_helps(view: View) -> Answers:
    """Without normalization, a scaling parameter is better than none."""
    bare = ("binary_connect", "none")
    for setting in view.settings():
        means = setting.means
        rows = [(q, "none") for q in ("bwn", "lab") if (q, "none") in means]
        if bare in means and rows:
            holds = all(not np.isnan(means[row]) and not means[row] >= means[bare] for row in rows)
            yield Answer(setting.label, setting.paper_scale, holds,
                         f"{_listed(setting, rows)}; BC {setting.told(*bare)}")


def _statistics(view: View) -> dict[tuple[str, bool], dict[tuple[str, float, float], float]]:
    """Accuracy by normalizer, initial gain and state noise, of the binarized classifier; a dict a
    data set."""
    runs = view.results[
        (view.results["metric"] == "accuracy") & (view.results["quantizer"] == "binary_connect")]
    found: dict = {}
    for run in runs.itertuples():
        plain = dataclasses.replace(run.config, initial_gain=None, state_noise=None)
        key = (run.normalizer, run.config.initial_gain, run.config.state_noise)
        found.setdefault((label(plain, ""), plain.at_paper_scale), {})[key] = (
            np.nan if run.diverged else run.mean)
    return found


def shared_fails(view: View) -> Answers:
    """On images, batch (shared) fails by the best of layer and batch (separate)."""
    for (dataset, scale), runs in _statistics(view).items():
        others = [
            v for (n, gain, noise), v in runs.items()
            if n in ("layer", "batch_separate") and (gain, noise) == (0.1, 0.1) and not np.isnan(v)]
        shared = runs.get(("batch_shared", 0.0, 0.1))
        if others and shared is not None:
            yield Answer(dataset, scale, verdicts.fails("accuracy", shared, max(others)),
                         f"batch (shared) {shared:.1f} %, best of layer and batch (separate) "
                         f"{max(others):.1f} %")


def because_shared(view: View) -> Answers:
    """Shared statistics fail by separate ones whatever the initial gain and the state noise."""
    for (dataset, scale), runs in _statistics(view).items():
        pairs = {(gain, noise): (value, runs["batch_separate", gain, noise])
                 for (n, gain, noise), value in sorted(runs.items())
                 if n == "batch_shared" and ("batch_separate", gain, noise) in runs}
        if len(pairs) > 1:  # a single pair varies nothing
            yield Answer(
                dataset, scale, all(verdicts.fails("accuracy", *pair) for pair in pairs.values()),
                "; ".join(f"gains {gain or 'U(0, 1)'}, noise {noise}: shared {shared:.1f} %, "
                          f"separate {alone:.1f} %"
                          for (gain, noise), (shared, alone) in pairs.items()))
