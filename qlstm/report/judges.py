"""What the records say on each claim of the paper: a function a claim, an answer a setting.

``view``: the records of a profile, as a :class:`View`. ``quantizer``: the one that the claim speaks
of. ``cell``: ``lstm`` or ``gru``.

A claim speaks only of settings within its conditions (:mod:`qlstm.report.evidence`); of others the
answer says why they are not judged. A condition never asks how the claim itself turns out, but for
gradients at initialization, sizes, full precision. Thresholds were written before the first run was
looked at, but for what explodes, which was 1.1 a step until 2026-11-26
(:data:`qlstm.report.evidence.EXPLODES` says why); conditions are of that day (:mod:`.claims`).
Failing to train is rules 2 and 5 of :mod:`qlstm.report.verdicts`.
"""

import dataclasses

import numpy as np

from qlstm import data
from qlstm.report import frames, verdicts
from qlstm.report.evidence import (
    BASE,
    EXPLODES,
    Answer,
    Answers,
    Setting,
    View,
    learned,
    of_papers_size,
    times,
    too_small,
    with_unit,
)
from qlstm.report.names import NORMALIZER_WORDS, SHORT, label, model_name
from qlstm.study.config import ExperimentConfig
from qlstm.study.sizes import round_half_up, size_kb

CLOSE = 0.05
"""Within 5 % of full precision: of its BPC or perplexity, of its accuracy in percent."""
SLIGHTLY = 1.5
"""g_* grows only slightly: by at most half over the whole training."""
SMALL = 1 / 20
"""A fraction of the size: at most a twentieth."""
EXACT = 0.95
"""Sizes as printed: at least so many of them to the kilobyte."""

OPEN, NONE_LEARNED = "a longer training could turn it", "none of the others learned"

NORMALIZED = ["weight", "layer", "batch_shared"]
ON_IMAGES = ["weight", "layer", "batch_separate"]
"""What the paper's claims on normalization speak of; on images batch (shared) fails in the paper
too."""


def _answer(setting: Setting, holds: bool | None, evidence: str, quantizer: str) -> Answer:
    """The answer of a setting on a claim on training, if it is within its conditions."""
    because = setting.outside(quantizer) or (OPEN if holds is None else "")
    return Answer(
        setting.label, setting.paper_scale, None if because else bool(holds), evidence, because)


def _normalized(setting: Setting, quantizer: str) -> list[tuple[str, str]]:
    names = ON_IMAGES if setting.metric == "accuracy" else NORMALIZED
    return [(quantizer, name) for name in names if (quantizer, name) in setting.means]


def unnormalized_fails(view: View, quantizer: str) -> Answers:
    """Without normalization, the quantizer fails to train."""
    bare = (quantizer, "none")
    for setting in view.settings(images=True):
        if {BASE, bare} <= set(setting.means):
            yield _answer(setting, setting.failed(bare),
                          f"{setting.told(*bare)}, full precision {setting.told(*BASE)}", quantizer)


def normalized_trains(view: View, quantizer: str, cell: str = "lstm") -> Answers:
    """With each normalization that was run, the quantizer does not fail and is better than
    without."""
    bare = (quantizer, "none")
    for setting in view.settings(cell, images=True):
        rows = _normalized(setting, quantizer)
        if not rows or not {BASE, bare} <= set(setting.means):
            continue
        failed = {row: setting.failed(row) for row in rows}
        trains = [None if failed[row] is None else not failed[row] and setting.better(row, bare)
                  for row in rows]
        yield _answer(
            setting, _every(trains),
            f"{_listed(setting, failed)}; without {setting.told(*bare)}; full precision "
            f"{setting.told(*BASE)}", quantizer)


def _every(answers: list[bool | None]) -> bool | None:
    """Whether all are true: one that is false decides, otherwise one that is open leaves it
    open."""
    return False if False in answers else None if None in answers else True


def _listed(setting: Setting, failed: dict[tuple[str, str], bool | None]) -> str:
    return ", ".join(f"{model_name(*row)} {setting.told(*row)}"
                     + (" (open: still learning)" if state is None else "")
                     for row, state in failed.items())


def close(view: View, quantizer: str, baseline_normalized: bool) -> Answers:
    """Normalized, the quantizer ends close to full precision.

    Args:
        view: the records.
        quantizer: the one judged.
        baseline_normalized: whether full precision has the same normalization, or none.
    """
    for setting in view.settings(images=True):
        pairs = [(row, ("full_precision", row[1] if baseline_normalized else "none"))
                 for row in _normalized(setting, quantizer)]
        known = [pair for pair in pairs if pair[1] in setting.means]
        ratios = np.array([setting.means[row] / setting.means[base] for row, base in known])
        near = ratios >= 1 - CLOSE if setting.metric == "accuracy" else ratios <= 1 + CLOSE
        if known:
            yield Answer(
                setting.label, setting.paper_scale, bool(near.all()),
                "; ".join(f"{model_name(*row)} {setting.told(*row)} against {setting.told(*base)}"
                          for row, base in known))


def explodes(view: View, quantizer: str, expected: bool, cell: str = "lstm",
             normalizers: tuple[str, ...] = ("none",), **wanted) -> Answers:
    """The gradient explodes, or does not, at any recorded moment of training.

    Args:
        view: the records.
        quantizer: of the networks judged.
        expected: what the claim says: that it explodes (True) or that it does not.
        cell: of the networks judged.
        normalizers: of the networks judged. With some, they are judged where the gradient explodes
            without any.
        wanted: other settings that the networks must have.
    """
    bare = {name: growth["none"]
            for name, _, growth in view.growth(quantizer, ["none"], cell=cell, **wanted)}
    trained = {name: growth for name, _, growth in view.growth(
        quantizer, list(normalizers), "best", cell=cell, **wanted)}
    for name, config, growth in view.growth(quantizer, list(normalizers), cell=cell, **wanted):
        because = too_small(config)
        if "none" not in normalizers and not because:
            if name not in bare:
                because = "not run without normalization"
            elif not bare[name] > EXPLODES:
                because = f"without normalization it does not explode ({times(bare[name])})"
        holds = bool(((growth > EXPLODES) == expected).all())
        after = trained.get(name, {})
        told = ", ".join(f"{model_name(quantizer, n)} {times(g)}{_no_longer(g, after.get(n, g))}"
                         for n, g in growth.items())
        yield Answer(name, of_papers_size(config), None if because else holds,
                     f"{told} over {config.steps - 1} steps", because)


def _no_longer(growth: float, after: float) -> str:
    """What is left ``after`` training of a ``growth`` that was an explosion; "" else."""
    ended = growth > EXPLODES and not after > EXPLODES
    return f" (after training {times(after)})" if ended else ""


def slower(view: View) -> Answers:
    """At initialization the ternarized LSTM's gradient grows more slowly than the binarized
    one's."""
    binary = {name: growth["none"] for name, _, growth in view.growth(
        "binary_connect", ["none"], "initial", cell="lstm")}
    for name, config, growth in view.growth("ter_connect", ["none"], "initial", cell="lstm"):
        if name in binary:
            either = max(growth["none"], binary[name]) > EXPLODES
            because = too_small(config) or ("" if either else "neither explodes")
            yield Answer(name, of_papers_size(config),
                         None if because else bool(growth["none"] < binary[name]),
                         f"TC {times(growth['none'])}, BC {times(binary[name])} over "
                         f"{config.steps - 1} steps", because)


def sizes(view: View) -> Answers:
    """The printed sizes follow from the formula of section 4."""
    printed = frames.published()
    exact, wrong = 0, []
    for row in printed.itertuples():
        size = round_half_up(size_kb(_network(row), row_scales=False))
        exact += size == row.size_kb
        if size != row.size_kb:
            wrong.append(f"{model_name(row.quantizer, row.normalizer)}, {data.title(row.dataset)}, "
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
        network = f"{data.title(row.dataset)}, d = {row.hidden}, {row.layers} layer{plural}"
        yield Answer(network, True, bool(largest <= SMALL * full),
                     f"at most {largest:.0f} of {full:.0f} KB")


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
        config = ExperimentConfig.as_recorded(record["config"])
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
        first, most, config = run["g"].iloc[0], run["g"].max(), run["config"].iloc[0]
        because = "" if config.task == "char_lm" else "no characters"
        yield Answer(name, config.at_paper_scale,
                     None if because else bool(most <= SLIGHTLY * first),
                     f"{model_name('binary_connect', normalizer)}: {first:.2f} → {most:.2f}",
                     because)


def propositions(view: View) -> Answers:
    """The propositions hold on every trained network."""
    for name, group in view.gradients.dropna(subset=["ratio"]).groupby("label", sort=False):
        numbers = ", ".join(sorted(set(group["proposition"])))
        yield Answer(
            name, group["config"].iloc[0].at_paper_scale, bool((group["ratio"] <= 1 + 1e-9).all()),
            f"{len(group)} networks ({numbers}): largest left/right side "
            f"{group['ratio'].max():.3f}")


def raises_lambda(view: View, trained: bool) -> Answers:
    """Quantization raises lambda_1 of the unnormalized LSTM, at initialization or at every epoch
    of its training (``trained``)."""
    epochs = view.epochs.dropna(subset=["lambda_1_after"])
    lstm = np.array([config.cell == "lstm" for config in epochs["config"]], dtype=bool)
    chosen = epochs[lstm & epochs["quantizer"].isin(["binary_connect", "ter_connect"])
                    & (epochs["normalizer"] == "none") & ((epochs["epoch"] > 0) == trained)]
    for (name, quantizer), group in chosen.groupby(["label", "quantizer"], sort=False):
        before, after = group["lambda_1_before"], group["lambda_1_after"]
        told = f"{before.iloc[-1]:.2f} → {after.iloc[-1]:.2f}" + " at last" * trained
        yield Answer(name, group["config"].iloc[0].at_paper_scale, bool((after > before).all()),
                     f"{model_name(quantizer, 'none')}: {told}")


def lower_bounds(view: View) -> Answers:
    """The norms of quantized matrices are at least their lower bounds."""
    for record in view.records:
        config = ExperimentConfig.as_recorded(record["config"])
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
        rows = [(q, "none") for q in ("bwn", "lab") if (q, "none") in setting.means]
        if rows and {BASE, bare} <= set(setting.means):
            kept = [_kept(setting, row, bare) for row in rows]
            told = _listed(setting, dict.fromkeys(rows, True))
            yield _answer(setting, _every(kept), f"{told}; BC {setting.told(*bare)}",
                          "binary_connect")


def _kept(setting: Setting, row: tuple[str, str], other: tuple[str, str]) -> bool | None:
    """Whether the first is the better one, None if as long a training again could turn that."""
    now, (a, b) = setting.better(row, other), (
        verdicts.later(setting.metric, setting.means[key], setting.curves[key])
        for key in (row, other))
    if setting.paper_scale or np.isnan(setting.means[row]) or np.isnan(setting.means[other]):
        return now
    return now if (a < b) == now else None


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
    """On images, by the best of layer and batch (separate), batch (shared) fails and neither of
    the two, as far as they were run, does."""
    for (dataset, scale), runs in _statistics(view).items():
        others = {n: v for (n, gain, noise), v in runs.items()
                  if n in ("layer", "batch_separate") and (gain, noise) == (0.1, 0.1)}
        shared = runs.get(("batch_shared", 0.0, 0.1))
        if others and shared is not None:
            best = max(others.values(), key=lambda v: -1 if np.isnan(v) else v)
            holds = verdicts.fails("accuracy", shared, best) and not any(
                verdicts.fails("accuracy", v, best) for v in others.values())
            because = "" if learned(best) else NONE_LEARNED
            told = ", ".join(f"{NORMALIZER_WORDS[n]} {with_unit('accuracy', v)}"
                             for n, v in [("batch_shared", shared), *others.items()])
            yield Answer(dataset, scale, None if because else holds, told, because)


def because_shared(view: View) -> Answers:
    """Shared statistics fail by separate ones whatever the initial gain and the state noise."""
    for (dataset, scale), runs in _statistics(view).items():
        pairs = {(gain, noise): (value, runs["batch_separate", gain, noise])
                 for (n, gain, noise), value in sorted(runs.items())
                 if n == "batch_shared" and ("batch_separate", gain, noise) in runs}
        if len(pairs) > 1:  # a single pair varies nothing
            because = "" if any(learned(alone) for _, alone in pairs.values()) else NONE_LEARNED
            holds = all(not np.isnan(alone) and verdicts.fails("accuracy", shared, alone)
                        for shared, alone in pairs.values())
            told = "; ".join(f"gains {gain or 'U(0, 1)'}, noise {noise}: shared "
                             f"{with_unit('accuracy', shared)}, separate "
                             f"{with_unit('accuracy', alone)}"
                             for (gain, noise), (shared, alone) in pairs.items())
            yield Answer(dataset, scale, None if because else holds, told, because)
