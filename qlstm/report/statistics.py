"""Statistics over seeds: means with their intervals, and paired tests of normalizers.

``runs``: a DataFrame of :func:`qlstm.report.frames.frame`, a row a run.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # scipy.stats loads itself on first use, which takes a second

from qlstm.report.frames import as_frame
from qlstm.report.names import NORMALIZER_TITLES
from qlstm.study.config import ExperimentConfig

SEEDS_NEEDED = 3
"""Seeds that both sides of a paired test must have: with two, one degree of freedom can hardly show
anything."""


def half_width(values: pd.Series) -> float:
    r"""Half the 95 % t-interval of the mean of ``values``, NaN for fewer than two of them.

    $$ t_{0.975,\, n - 1} \, s / \sqrt{n} $$
    """
    n = len(values)
    if n < 2:
        return np.nan
    # t(0.975, n - 1) s / sqrt(n)
    return scipy.stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)


@dataclass
class Summary:
    """The test metric of a network over seeds.

    Attributes:
        mean: over the seeds that did not diverge; NaN where all did.
        half_width: of the mean's 95 % t-interval; NaN for one seed.
        least, most: the ends of the range over these seeds.
        seeds: how many there are, the diverged ones included.
        diverged: how many of them diverged.
        devices: how many were trained on which processor or GPU.
        size_kb, packed_kb, paper_scale, dataset, metric, config: as in the first of the runs.
    """

    label: str
    quantizer: str
    normalizer: str
    mean: float
    half_width: float
    least: float
    most: float
    seeds: int
    diverged: int
    devices: str
    size_kb: float
    packed_kb: float
    paper_scale: bool
    dataset: str
    metric: str
    config: ExperimentConfig


def over_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t-interval of the test metric over seeds: a :class:`Summary` for each label,
    quantizer and normalizer."""
    rows = []
    for key, group in runs.groupby(["label", "quantizer", "normalizer"], sort=False):
        values, first = group["test"].dropna().astype(float), group.iloc[0]
        rows.append(Summary(
            *key, mean=values.mean(), half_width=half_width(values), least=values.min(),
            most=values.max(), seeds=len(group), diverged=int(group["diverged"].sum()),
            devices=", ".join(f"{n} {name}" for name, n in group["device"].value_counts().items()),
            size_kb=first["size_kb"], packed_kb=first["packed_kb"],
            paper_scale=first["paper_scale"], dataset=first["dataset"],
            metric=first["metric"], config=first["config"]))
    return as_frame(Summary, rows)


@dataclass
class Pair:
    """Two normalizers of one setting and quantizer, compared over the seeds that both have.

    Attributes:
        a, b: the normalizers.
        seeds: common to both; those where one diverged do not count.
        difference: mean of a - b, in the metric's unit.
        half_width: of its 95 % t-interval.
        p: of the paired t-test, two-sided.
        p_holm: after the correction of Holm (1979) over the pairs of one label and quantizer.
        remark: why there is no p.
    """

    label: str
    quantizer: str
    a: str
    b: str
    seeds: int
    difference: float
    half_width: float = np.nan
    p: float = np.nan
    p_holm: float = np.nan
    remark: str = ""


def paired_tests(runs: pd.DataFrame) -> pd.DataFrame:
    """Normalizers of one setting and quantizer compared in pairs, by paired t-tests: a
    :class:`Pair` a row.

    Seeds share initial weights and minibatches as far as the networks do, hence pairs.
    """
    rows = []
    for key, group in runs.groupby(["label", "quantizer"], sort=False):
        tests = group.astype({"test": float}).pivot_table(
            "test", "seed", "normalizer", sort=False, dropna=False)
        names = dict.fromkeys(n for n in [*NORMALIZER_TITLES, *tests.columns] if n in tests)
        family = [_pair(*key, a, b, tests) for a, b in itertools.combinations(names, 2)]
        _correct(family)
        rows += family
    return as_frame(Pair, rows)


def _pair(label: str, quantizer: str, a: str, b: str, tests: pd.DataFrame) -> Pair:
    differences = (tests[a] - tests[b]).dropna()
    pair = Pair(label, quantizer, a, b, len(differences), differences.mean())
    if pair.seeds < SEEDS_NEEDED:
        pair.remark = f"too few seeds: {pair.seeds}, {SEEDS_NEEDED} are needed"
    elif differences.std(ddof=1) == 0:
        pair.remark = "the seeds do not differ"
    else:
        pair.half_width = half_width(differences)
        pair.p = float(scipy.stats.ttest_1samp(differences, 0).pvalue)
    return pair


def _correct(family: list[Pair]):
    """Holm: the i-th smallest of m p-values times m - i + 1, never below the one before."""
    tested = sorted((pair for pair in family if pair.p == pair.p), key=lambda pair: pair.p)
    smallest = 0.0
    for rank, pair in enumerate(tested):
        pair.p_holm = smallest = max(smallest, min(1.0, (len(tested) - rank) * pair.p))
