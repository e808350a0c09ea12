"""The whole grid of a table, and the notes below it.

``table``: the long form, as :func:`qlstm.report.tables.results` returns it.
"""

import pandas as pd

from qlstm.report.names import (
    DIVERGED,
    NORMALIZER_TITLES,
    NORMALIZER_WORDS,
    NOT_AT_HAND,
    NOT_RUN,
    QUANTIZER_TITLES,
    UNKNOWN,
)
from qlstm.study.sizes import round_half_up
from qlstm.study.tasks import METRICS


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """A long table as people read it: a row for each quantizer and normalizer, columns for each
    setting.

    What has been run stands first. A reduced setting is headed "reduced" with a number that
    :func:`notes` explains. Marks: ``·`` not run; ``N/A`` diverged, or printed so by the authors;
    ``–`` the paper's number is not at hand.
    """
    table = table.assign(
        bits=["" if pd.isna(bits) else f"{bits:.0f}" for bits in table["bits"]],
        quantization=[QUANTIZER_TITLES.get(q, q) for q in table["quantizer"]],
        normalization=[NORMALIZER_TITLES.get(n, n) for n in table["normalizer"]],
    ).set_index(["bits", "quantization", "normalization"])
    groups = list(zip(_headings(table), table.groupby("label", sort=False), strict=True))
    groups.sort(key=_not_run)
    columns = {(heading, name): cells for heading, (_, rows) in groups
               for name, cells in _columns(rows).items()}
    return pd.DataFrame(columns, index=table.index.unique()).fillna(NOT_RUN)


def _not_run(group) -> bool:
    _, (_, rows) = group
    return rows["seeds"].isna().all()


def _columns(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns of one setting."""
    unit, run = METRICS[rows["metric"].iloc[0]].title, rows["seeds"].notna().any()
    ours = {f"our {unit}": rows.apply(measured, axis=1)}
    disk = {"on disk KB": _numbers(rows["packed_kb"], "{:.1f}", NOT_RUN)} if run else {}
    if not rows["paper_scale"].iloc[0]:
        return ours | {"our KB": [whole(row.size_kb, row.seeds) for row in rows.itertuples()]
                       } | disk
    return {f"paper {unit}": rows.apply(_printed, axis=1),
            **(ours | {"verdict": rows["verdict"]} if run else {}),
            "paper KB": _numbers(rows["paper_kb"], "{:.0f}", NOT_AT_HAND),
            "our KB": _numbers(rows["computed_kb"], "{:.0f}", NOT_RUN), **disk}


def whole(size: float, seeds: float) -> str:
    """A ``size`` in whole KB; NaN: not run, or where there are ``seeds``, unknown."""
    if not pd.isna(size):
        return f"{round_half_up(size)}"
    return NOT_RUN if pd.isna(seeds) else UNKNOWN


def _numbers(values: pd.Series, pattern: str, missing: str) -> pd.Series:
    return values.map(pattern.format, na_action="ignore").astype(object).fillna(missing)


def _headings(table: pd.DataFrame) -> list[str]:
    """Short column headings: the setting, and for a reduced one "reduced" with a number."""
    headings, number = [], 0
    for name, rows in table.groupby("label", sort=False):
        if rows["paper_scale"].iloc[0]:
            headings.append(name)
        else:
            number += 1
            headings.append(f"{name.partition(' (reduced: ')[0]}, reduced [{number}]")
    return headings


def _printed(row: pd.Series) -> str:
    if not row["in_paper"]:
        return NOT_AT_HAND
    digits = METRICS[row["metric"]].digits
    return DIVERGED if pd.isna(row["paper"]) else f"{row['paper']:.{digits}f}"


def measured(row: pd.Series) -> str:
    """A result of ours as people read it: the mean, its interval and how many seeds diverged.

    Args:
        row: has ``ours`` (mean over seeds), ``half_width``, ``seeds``, ``diverged`` and ``metric``.

    Example:
        >>> measured(pd.Series({"ours": 1.55, "half_width": 0.124, "seeds": 4, "diverged": 1,
        ...                     "metric": "bpc"}))
        '1.55 ± 0.12 (1 of 4 diverged)'
    """
    if pd.isna(row["seeds"]):
        return NOT_RUN
    if pd.isna(row["ours"]):
        return DIVERGED
    digits = METRICS[row["metric"]].digits
    interval = "" if pd.isna(row["half_width"]) else f" ± {row['half_width']:.{digits}f}"
    lost = f" ({row['diverged']:.0f} of {row['seeds']:.0f} diverged)" if row["diverged"] else ""
    return f"{row['ours']:.{digits}f}{interval}{lost}"


MARKS = (
    "A row fails if a seed diverged or if it is more than 20 % worse than full precision without "
    f"normalization (accuracy: 10 points). {NOT_RUN} not run; {DIVERGED} printed so by the "
    f"authors; {NOT_AT_HAND} the paper's number is not at hand. KB: recurrent layers only, 1024 "
    "bytes (qlstm.size_kb). Verdicts by the rule in qlstm/report/verdicts.py, at the paper's scale "
    "only. The CSV file has every number, and the sizes on disk.")
PLAIN_SGD = (
    "Words train by plain SGD, which has no second moment: LAB and LAT use D = 1, where they "
    "reduce to BWN and to ternary least squares.")
SUSPECT = (
    "The paper prints 113.8 for unnormalized TerConnect at both d = 300 and d = 650: suspected "
    "misprint.")


def notes(table: pd.DataFrame) -> list[str]:
    """What a reader must know beside the table: marks, scale, seeds, and the rows that have not
    been run."""
    groups = list(table.groupby("label", sort=False))
    lines = [MARKS]
    lines += [_on_seeds(name, rows) for name, rows in groups if rows["seeds"].notna().any()]
    absent = [name for name, rows in groups if rows["seeds"].isna().all()]
    if absent:
        lines.append(f"Not run here at the paper's scale: {'; '.join(absent)}.")
    if table["metric"].eq("ppl").any():
        lines.append(PLAIN_SGD)
    lines += [
        f"Misprint in the paper's sizes: {QUANTIZER_TITLES[row.quantizer]}, "
        f"{NORMALIZER_WORDS[row.normalizer]}, {row.label}: {row.paper_kb:.0f} printed, "
        f"{row.computed_kb:.0f} by the formula."
        for row in misprints(table).itertuples()]
    if len(table[(table["paper"] == 113.8) & (table["quantizer"] == "ter_connect")]) > 1:
        lines.append(SUSPECT)
    return lines


def _on_seeds(name: str, rows: pd.DataFrame) -> str:
    """How many seeds stand behind a setting's numbers, and which rows have none."""
    least, most = int(rows["seeds"].min()), int(rows["seeds"].max())
    count = f"{least}" if least == most else f"{least} to {most}"
    spread = (f"mean ± 95 % t-interval over {count} seeds" if most > 1
              else "one seed, so no interval")
    left = [f"{QUANTIZER_TITLES.get(quantizer, quantizer)} "
            f"({', '.join(NORMALIZER_WORDS.get(n, n) for n in missing['normalizer'])})"
            for quantizer, missing in rows[rows["seeds"].isna()].groupby("quantizer", sort=False)]
    return (f"{name}: {spread}."
            + (f" Left to PROFILE=paper: {'; '.join(left)}." if left else ""))


def misprints(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose printed size the formula of section 4 does not give."""
    return table[table["in_paper"] & (table["paper_kb"] != table["computed_kb"])]


TABLE_1_NOTES = [
    "Each pair: before → after quantization, the same network with its latent and with its "
    "quantized weights. λ₁ and λ₂: medians over time steps and samples of a minibatch, with the "
    "c_{t-1} of each step (Proposition 2.1).",
    "Lower bound of the quantized matrix's norm: B₁ √d for binary codes, (1 - sparsity) B₁ √d for "
    "ternary ones, B₁ the smallest positive level; the smallest of the four gates.",
    "The paper's Table 1 is not at hand; this one is reconstructed from its propositions and its "
    "reviews.",
]
"""What a reader of Table 1 must know."""
