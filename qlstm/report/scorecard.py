"""The scorecard: each claim of the paper as one sentence, the evidence in the records, and whether
it holds.

A claim is judged setting by setting (data, size, cell and scale; one label of
:func:`qlstm.report.tables.frame`) and holds if it holds in every setting that says anything. Where
runs at the paper's scale say something, the reduced ones are not asked. The rules and thresholds
below were written before the first run was looked at; what counts as failing to train is rule 2 of
:mod:`qlstm.report.verdicts`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from qlstm.report import tables, verdicts
from qlstm.report.figures import model_name
from qlstm.study.config import SPECIAL, ExperimentConfig
from qlstm.study.profiles import VARIANTS, defaults
from qlstm.study.sizes import size_kb

HOLDS, FALSE, UNTESTED = "holds", "does not hold", "not tested at this scale"
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

Answers = Iterator[tuple[str, bool, bool | None, str]]
"""Of each setting: its label, whether it is at the paper's scale, whether the claim holds there,
the evidence."""


class View:
    """``records`` as the claims read them; None: no record at all."""

    def __init__(self, records: list[dict]):
        self.records = records
        self.results = tables.over_seeds(tables.frame(records))
        self.gradients = tables.gradients(records)
        self.epochs = tables.by_epoch(records)

    def settings(
        self, cell: str | None = "lstm", task: str | None = None
    ) -> Iterator[tuple[str, bool, dict, str]]:
        """Each setting of a ``cell`` and ``task`` (None: of any): label, whether at the paper's
        scale, mean test metric by row (NaN: diverged), metric."""
        for label, group in self.results.groupby("label", sort=False):
            config = group["config"].iloc[0]
            usual = all(
                getattr(c, name) == c.usual(name) for c in group["config"] for name in SPECIAL)
            if config.cell != cell or task not in (None, config.task) or not usual:
                continue
            means = {(row.quantizer, row.normalizer): np.nan if row.diverged else row.mean
                     for row in group.itertuples()}
            yield label, bool(group["paper_scale"].iloc[0]), means, group["metric"].iloc[0]

    def growth(
        self, quantizer: str, normalizers: list[str], **wanted
    ) -> Iterator[tuple[str, bool, pd.Series]]:
        """Each setting with runs of a ``quantizer`` and ``normalizers`` (and what else is
        ``wanted``): label, scale, largest growth a step by row, over moments and seeds."""
        chosen = self.gradients[(self.gradients["quantizer"] == quantizer)
                                & self.gradients["normalizer"].isin(normalizers)]
        fits = [all(getattr(c, name) == value for name, value in wanted.items())
                for c in chosen["config"]]
        for label, group in (
            chosen[np.array(fits, dtype=bool)].dropna(subset=["rate"]).groupby("label", sort=False)
        ):
            rates = group.groupby("normalizer", sort=False)["rate"].max()
            yield label, _of_papers_size(group["config"].iloc[0]), rates


def _of_papers_size(config: ExperimentConfig) -> bool:
    """Whether the network and its minibatch have the paper's sizes: what a gradient's growth
    depends on first."""
    usual = defaults("paper", config.task, config.dataset) | VARIANTS.get(config.variant, {}).get(
        "paper", {})
    return all(getattr(config, name) == usual[name]
               for name in ("hidden_size", "num_layers", "steps", "batch_size"))


def _number(metric: str, value: float) -> str:
    if np.isnan(value):
        return "diverged"
    return {"bpc": f"{value:.2f} BPC", "ppl": f"PPL {value:.1f}", "accuracy": f"{value:.1f} %"}[
        metric]


def _unnormalized_fails(quantizer):
    def test(view: View) -> Answers:
        for label, scale, means, metric in view.settings():
            if metric != "accuracy" and {BASE, (quantizer, "none")} <= set(means):
                value, base = means[quantizer, "none"], means[BASE]
                yield (label, scale, verdicts.fails(metric, value, base),
                       f"{_number(metric, value)}, full precision {_number(metric, base)}")

    return test


def _normalized_trains(quantizer, cell="lstm"):
    def test(view: View) -> Answers:
        for label, scale, means, metric in view.settings(cell):
            rows = [(quantizer, n) for n in NORMALIZED if (quantizer, n) in means]
            if metric == "accuracy" or not rows or not {BASE, (quantizer, "none")} <= set(means):
                continue
            bare = means[quantizer, "none"]
            good = [not verdicts.fails(metric, means[row], means[BASE]) and not means[row] >= bare
                    for row in rows]
            named = ", ".join(f"{model_name(*row)} {_number(metric, means[row])}" for row in rows)
            yield (
                label,
                scale,
                all(good),
                f"{named}; without {_number(metric, bare)}; full precision {_number(metric, means[BASE])}",
            )

    return test


def _close(quantizer, baseline_normalized):
    def test(view: View) -> Answers:
        for label, scale, means, metric in view.settings():
            parts, good = [], []
            for n in NORMALIZED:
                base = ("full_precision", n if baseline_normalized else "none")
                if not {(quantizer, n), base} <= set(means):
                    continue
                ratio = means[quantizer, n] / means[base]
                good.append(ratio >= 1 - CLOSE if metric == "accuracy" else ratio <= 1 + CLOSE)
                parts.append(
                    f"{model_name(quantizer, n)} {_number(metric, means[quantizer, n])} against {_number(metric, means[base])}"
                )
            if parts:
                yield label, scale, all(good), "; ".join(parts)

    return test


def _explodes(quantizer, expected, cell="lstm", normalizers=("none",), **wanted):
    def test(view: View) -> Answers:
        for label, scale, rates in view.growth(quantizer, list(normalizers), cell=cell, **wanted):
            config = next(c for c in view.results.loc[view.results["label"] == label, "config"])
            if config.task == "sequential_image":
                continue
            evidence = ", ".join(
                f"{model_name(quantizer, n)} ×{rate:.3f} a step" for n, rate in rates.items())
            yield label, scale, bool(((rates > EXPLODES) == expected).all()), evidence

    return test


def _slower(view: View) -> Answers:
    for label, scale, ternary in view.growth("ter_connect", ["none"], cell="lstm"):
        for other, _, binary in view.growth("binary_connect", ["none"], cell="lstm"):
            if (other == label
                and view.gradients.loc[view.gradients["label"] == label, "config"].iloc[0].task
                != "sequential_image"):
                yield (label, scale, bool(ternary["none"] < binary["none"]),
                       f"TC ×{ternary['none']:.3f}, BC ×{binary['none']:.3f} a step")


def _sizes(view: View) -> Answers:
    printed = tables.published()
    exact, wrong = 0, []
    for row in printed.itertuples():
        config = ExperimentConfig(profile="paper", dataset=row.dataset, quantizer=row.quantizer,
                                  normalizer=row.normalizer, hidden_size=row.hidden,
                                  num_layers=row.layers)
        size = tables.round_half_up(size_kb(config, row_scales=False))
        exact += size == row.size_kb
        if size != row.size_kb:
            wrong.append(
                f"{model_name(row.quantizer, row.normalizer)} {row.dataset} d = {row.hidden}: {row.size_kb} printed, {size}"
            )
    evidence = f"{exact} of {len(printed)} to the kilobyte; misprinted: " + "; ".join(wrong)
    yield "the formula of section 4", True, exact >= EXACT * len(printed), evidence


def _fraction(view: View) -> Answers:
    printed = tables.published().set_index(
        ["dataset", "hidden", "layers", "quantizer", "normalizer"])["size_kb"]
    for dataset, hidden, layers in printed.index.droplevel(["quantizer", "normalizer"]).unique():

        def size(quantizer, normalizer, model=(dataset, hidden, layers)):
            return size_kb(
                ExperimentConfig(profile="paper", dataset=model[0], hidden_size=model[1],
                                 num_layers=model[2], quantizer=quantizer, normalizer=normalizer)
            )

        largest = max(size("binary_connect", n) for n in NORMALIZED)
        yield (f"{dataset}, d = {hidden}, {layers} layer{'s' * (layers > 1)}", True,
               bool(largest <= SMALL * size(*BASE)),
               f"at most {largest:.0f} of {size(*BASE):.0f} KB")


def _separate(view: View) -> Answers:
    for label, scale, means, metric in view.settings():
        for quantizer in ("full_precision", "binary_connect", "ter_connect"):
            pair = [(quantizer, n) for n in ("batch_shared", "batch_separate")]
            if metric == "accuracy" or not set(pair) <= set(means):
                continue
            shared, separate = (means[row] for row in pair)
            tolerance = verdicts.TOLERANCE[metric] * (shared if metric == "ppl" else 1)
            sizes = view.results[
                (view.results["label"] == label) & (view.results["quantizer"] == quantizer)]
            kb = sizes.set_index("normalizer")["size_kb"]
            yield (
                label,
                scale,
                bool(np.isnan(separate) or separate >= shared - tolerance),
                f"{model_name(quantizer, '')[:-1]}: separate {_number(metric, separate)} ({kb['batch_separate']:.0f} KB), "
                f"shared {_number(metric, shared)} ({kb['batch_shared']:.0f} KB)",
            )


def _alpha(view: View) -> Answers:
    for record in view.records:
        config = ExperimentConfig(**record["config"])
        if config.quantizer in ("bwn", "lab"):
            values = [a for epoch in record["epochs"] for layer in epoch["alpha"] for a in layer
                      if a is not None]
            yield (
                tables.label(config, record["data"]["sha256"]),
                config.at_paper_scale,
                max(values) < 1,
                f"{model_name(config.quantizer, config.normalizer)} {min(values):.3g} to {max(values):.3g}",
            )


def _gains(view: View) -> Answers:
    chosen = view.epochs[(view.epochs["quantizer"] == "binary_connect") & view.epochs["g"].notna()]
    for (label, normalizer, _), run in chosen.groupby(["label", "normalizer", "seed"], sort=False):
        first, most = run["g"].iloc[0], run["g"].max()
        yield (label, run["config"].iloc[0].at_paper_scale, bool(most <= SLIGHTLY * first),
               f"{model_name('binary_connect', normalizer)}: {first:.2f} → {most:.2f}")


def _propositions(view: View) -> Answers:
    for label, group in view.gradients.dropna(subset=["ratio"]).groupby("label", sort=False):
        names = ", ".join(sorted(set(group["proposition"])))
        yield (
            label, group["config"].iloc[0].at_paper_scale, bool((group["ratio"] <= 1 + 1e-9).all()),
            f"{len(group)} networks ({names}): largest left/right side {group['ratio'].max():.3f}")


def _necessary(view: View) -> Answers:
    growing = view.gradients[
        (view.gradients["rate"] > EXPLODES) & view.gradients["lambda_1"].notna()]
    for label, group in growing.groupby("label", sort=False):
        yield (label, group["config"].iloc[0].at_paper_scale, bool((group["lambda_1"] > 1).all()),
               f"{len(group)} exploding networks, λ₁ at least {group['lambda_1'].min():.2f}")


def _raises_lambda(view: View) -> Answers:
    chosen = view.epochs[view.epochs["quantizer"].isin(["binary_connect", "ter_connect"])
                         & (view.epochs["normalizer"] == "none")]
    chosen = chosen[
        np.array([config.cell == "lstm" for config in chosen["config"]], dtype=bool)
    ].dropna(subset=["lambda_1_after"])
    for (label, quantizer), group in chosen.groupby(["label", "quantizer"], sort=False):
        before, after = group["lambda_1_before"], group["lambda_1_after"]
        yield (
            label,
            group["config"].iloc[0].at_paper_scale,
            bool((after > before).all()),
            f"{model_name(quantizer, 'none')}: {before.iloc[0]:.2f} → {after.iloc[0]:.2f} at first, "
            f"{before.iloc[-1]:.2f} → {after.iloc[-1]:.2f} at last",
        )


def _lower_bounds(view: View) -> Answers:
    for record in view.records:
        config = ExperimentConfig(**record["config"])
        ratios = [
            norm / bound
            for epoch in record["epochs"]
            if epoch["spectral"] and "bounds" in epoch["spectral"]["after"]
            for norm, bound in zip(
                    *(epoch["spectral"]["after"][k] for k in ("norms", "bounds")), strict=True)
            if norm is not None and bound
        ]
        if ratios and config.normalizer == "none":
            yield (
                tables.label(config, record["data"]["sha256"]),
                config.at_paper_scale,
                min(ratios) >= 1 - 1e-5,
                f"{model_name(config.quantizer, 'none')} {min(ratios):.2f} to {max(ratios):.2f} times the bound",
            )


def _scale_helps(view: View) -> Answers:
    for label, scale, means, metric in view.settings():
        rows = [(q, "none") for q in ("bwn", "lab") if (q, "none") in means]
        bare = means.get(("binary_connect", "none"))
        if bare is None or not rows or metric == "accuracy":
            continue
        good = [not np.isnan(means[row]) and not means[row] >= bare for row in rows]
        named = ", ".join(f"{model_name(*row)} {_number(metric, means[row])}" for row in rows)
        yield label, scale, all(good), f"{named}; BC {_number(metric, bare)}"


def _statistics(view: View) -> dict[tuple[str, bool], dict[tuple[str, float, float], float]]:
    """Accuracy by normalizer, initial gain and state noise, of the binarized classifier; a dict a
    data set."""
    runs = view.results[
        (view.results["metric"] == "accuracy") & (view.results["quantizer"] == "binary_connect")]
    found: dict = {}
    for run in runs.itertuples():
        key = (run.normalizer, run.config.initial_gain, run.config.state_noise)
        plain = dataclasses.replace(run.config, initial_gain=None, state_noise=None)
        found.setdefault((tables.label(plain, ""), plain.at_paper_scale), {})[key] = (
            np.nan if run.diverged else run.mean)
    return found


def _shared_fails(view: View) -> Answers:
    for (dataset, scale), runs in _statistics(view).items():
        others = [
            v for (n, gain, noise), v in runs.items()
            if n in ("layer", "batch_separate") and (gain, noise) == (0.1, 0.1) and not np.isnan(v)]
        shared = runs.get(("batch_shared", 0.0, 0.1))
        if others and shared is not None:
            yield (
                dataset,
                scale,
                verdicts.fails("accuracy", shared, max(others)),
                f"batch (shared) {shared:.1f} %, best of layer and batch (separate) {max(others):.1f} %",
            )


def _because_shared(view: View) -> Answers:
    for (dataset, scale), runs in _statistics(view).items():
        pairs = [(gain, noise) for n, gain, noise in runs
                 if n == "batch_shared" and ("batch_separate", gain, noise) in runs]
        if len(pairs) < 2:
            continue
        good = [verdicts.fails("accuracy", runs["batch_shared", *p], runs["batch_separate", *p])
                for p in pairs]
        named = "; ".join(
            f"gains {gain or 'U(0, 1)'}, noise {noise}: shared {runs['batch_shared', gain, noise]:.1f} %, "
            f"separate {runs['batch_separate', gain, noise]:.1f} %"
            for gain, noise in sorted(pairs)
        )
        yield dataset, scale, all(good), named


@dataclass(frozen=True)
class Claim:
    """A claim in one sentence, where it is from, its test, and what it takes: ``"any"`` scale,
    ``"quick"`` (not smoke, whose networks are too small and hardly trained) or the ``"paper"``'s
    own (gradients: of its d, T and N, however trained)."""

    name: str
    sentence: str
    source: str
    test: Callable[[View], Answers]
    needs: str = "quick"


CLAIMS = [
    Claim("bc_fails", "Without normalization, BinaryConnect fails to train.", "Tables 2, 3, 5",
          _unnormalized_fails("binary_connect")),
    Claim("tc_fails", "Without normalization, TerConnect fails to train.", "Tables 2, 3, 5",
          _unnormalized_fails("ter_connect")),
    Claim("bc_trains", "With weight, layer or batch (shared) normalization, BinaryConnect trains.",
          "Tables 2, 3, 5", _normalized_trains("binary_connect")),
    Claim("tc_trains", "With weight, layer or batch (shared) normalization, TerConnect trains.",
          "Tables 2, 3, 5", _normalized_trains("ter_connect")),
    Claim(
        "bc_close",
        "Normalized BinaryConnect ends within 5 % of full precision without normalization, or better.",
        "Tables 2, 3, 5",
        _close("binary_connect", False),
        "paper",
    ),
    Claim(
        "tc_close",
        "Normalized TerConnect ends within 5 % of full precision without normalization, or better.",
        "Tables 2, 3, 5", _close("ter_connect", False), "paper"),
    Claim("bc_close_normalized",
          "Normalized BinaryConnect ends within 5 % of full precision with the same normalization.",
          "Tables 2, 5", _close("binary_connect", True), "paper"),
    Claim(
        "scale_helps",
        "Without normalization, a scaling parameter (BWN, LAB) is better than none (BinaryConnect).",
        "section 2.2",
        _scale_helps,
    ),
    Claim("alpha", "The scaling parameter α of W_h* is smaller than 1.", "Figure 4", _alpha, "any"),
    Claim("sizes", "The printed sizes follow from the layer's bits and parameters.",
          "Tables 2, 3, 5", _sizes, "any"),
    Claim(
        "fraction",
        "A normalized 1-bit LSTM (weight, layer, batch shared) takes at most 1/20 of full precision.",
        "Tables 2, 3, 5",
        _fraction,
        "any",
    ),
    Claim(
        "separate",
        "Separate statistics do not pay for their size: batch (separate) is no better than batch (shared).",
        "Tables 2, 3, 5",
        _separate,
    ),
    Claim("raises_lambda", "Quantization raises λ₁ of the unnormalized LSTM.",
          "section 2.2, Table 1", _raises_lambda, "quick"),
    Claim("lower_bounds",
          "‖W_h*‖ is at least its bound: B₁ √d for binary, (1 - sparsity) B₁ √d for ternary codes.",
          "section 2.2", _lower_bounds, "any"),
    Claim("binary_explodes",
          "Characters: the gradient of the unnormalized, binarized LSTM explodes.", "Figures 1, 6",
          _explodes("binary_connect", True, task="char_lm"), "quick"),
    Claim("ternary_explodes",
          "Characters: the gradient of the unnormalized, ternarized LSTM explodes.", "Figures 7, 8",
          _explodes("ter_connect", True, task="char_lm"), "quick"),
    Claim("binary_small",
          "Words, small d: the gradient of the unnormalized, binarized LSTM explodes.",
          "Figure 2, appendix D.2",
          _explodes("binary_connect", True, task="word_lm", variant="small"), "paper"),
    Claim("binary_large",
          "Words, large d: the gradient of the unnormalized, binarized LSTM explodes.",
          "Figure 10, appendix D.2",
          _explodes("binary_connect", True, task="word_lm", variant="large"), "paper"),
    Claim("ternary_small",
          "Words, small d: the gradient of the unnormalized, ternarized LSTM does not explode.",
          "Figure 9, appendix D.2",
          _explodes("ter_connect", False, task="word_lm", variant="small"), "paper"),
    Claim("ternary_large",
          "Words, large d: the gradient of the unnormalized, ternarized LSTM explodes.",
          "Figure 11, appendix D.2",
          _explodes("ter_connect", True, task="word_lm", variant="large"), "paper"),
    Claim(
        "slower",
        "The gradient of the ternarized LSTM explodes more slowly than that of the binarized one.",
        "appendix D.2", _slower, "quick"),
    Claim("full_stable", "The gradient of the full-precision LSTM does not explode.",
          "Figures 1, 2, 6-11", _explodes("full_precision", False), "quick"),
    Claim("bc_stable", "With normalization the gradient of the binarized LSTM does not explode.",
          "Figures 1, 2, 6, 10", _explodes("binary_connect", False, normalizers=NORMALIZED),
          "quick"),
    Claim("tc_stable", "With normalization the gradient of the ternarized LSTM does not explode.",
          "Figures 7-9, 11", _explodes("ter_connect", False, normalizers=NORMALIZED), "quick"),
    Claim("gains", "g_* grows only slightly during training.", "Figure 5", _gains, "paper"),
    Claim("propositions", "Propositions 2.1 and 3.1 to 3.4 hold on every trained network.",
          "sections 2, 3", _propositions, "any"),
    Claim(
        "necessary", "Where the gradient explodes, λ₁ is above 1.", "section 2.1", _necessary, "any"
    ),
    Claim("shared_fails",
          "Sequential MNIST: batch (shared) fails, batch (separate) and layer do not.", "Table 4",
          _shared_fails, "paper"),
    Claim(
        "because_shared",
        "Sequential MNIST: it fails because statistics are shared, whatever the gains and the noise.",
        "reviewers",
        _because_shared,
        "paper",
    ),
    Claim("gru_explodes",
          "A GRU's gradient explodes too when it is binarized without normalization.", "reviewers",
          _explodes("binary_connect", True, cell="gru"), "quick"),
    Claim("gru_trains", "A GRU too is trained by normalization where BinaryConnect alone is worse.",
          "reviewers", _normalized_trains("binary_connect", cell="gru")),
]
"""The paper's claims in its own order, then the reviewers' questions."""


def scorecard(records: list[dict], profile: str) -> pd.DataFrame:
    """What the ``records`` of a ``profile`` say, a row a claim: ``claim``, ``sentence``,
    ``source``, ``verdict`` (holds, does not hold, not tested at this scale), ``scale`` (paper or
    reduced: what the evidence is from) and ``evidence``, setting by setting."""
    view, rows = View(records), []
    for claim in CLAIMS:
        answers = [answer for answer in claim.test(view) if answer[2] is not None]
        at_scale = [answer for answer in answers if answer[1]]
        used = at_scale or answers
        enough = at_scale or claim.needs == "any" or (claim.needs == "quick" and profile != "smoke")
        verdict = UNTESTED
        if used and enough:
            verdict = HOLDS if all(answer[2] for answer in used) else FALSE
        evidence: dict[str, list[str]] = {}
        for label, _, good, text in used:
            evidence.setdefault(label, []).append(
                text if good or not enough else f"{text} (against)")
        lines = [f"{label}: {'; '.join(texts)}" for label, texts in evidence.items()]
        rows.append(
            {"claim": claim.name, "sentence": claim.sentence, "source": claim.source,
             "verdict": verdict, "scale": "" if not used else "paper"
             if at_scale and not any("(reduced" in label for label in evidence) else "reduced",
             "evidence": ". ".join(lines)}
        )
    return pd.DataFrame(rows)
