"""Tables as people read them, the notes below them, and their files.

``table``: the long form, as :func:`qlstm.report.tables.results` returns it (where another function
has made it, that is said).
"""

from html import escape
from pathlib import Path

import pandas as pd
from pandas.io.formats.style import Styler

from qlstm.report.names import (
    DIVERGED,
    NORMALIZER_TITLES,
    NORMALIZER_WORDS,
    NOT_AT_HAND,
    NOT_RUN,
    QUANTIZER_TITLES,
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
        sizes = rows["size_kb"].map(round_half_up, na_action="ignore")
        return ours | {"our KB": _numbers(sizes, "{:.0f}", NOT_RUN)} | disk
    return {f"paper {unit}": rows.apply(_printed, axis=1),
            **(ours | {"verdict": rows["verdict"]} if run else {}),
            "paper KB": _numbers(rows["paper_kb"], "{:.0f}", NOT_AT_HAND),
            "our KB": _numbers(rows["computed_kb"], "{:.0f}", NOT_RUN), **disk}


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
    f"{NOT_RUN} not run; {DIVERGED} the loss became NaN or infinite (or no number printed by the "
    f"authors); {NOT_AT_HAND} the paper's number is not at hand. KB: recurrent layers only, 1024 "
    "bytes (qlstm.size_kb); on disk: the same tensors in the packed file (qlstm.save_packed). "
    "Verdicts by the rule in qlstm/report/verdicts.py, at the paper's scale only.")
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
    lines += [_on_seeds(heading, name, rows)
              for heading, (name, rows) in zip(_headings(table), groups, strict=True)
              if rows["seeds"].notna().any()]
    absent = [name for name, rows in groups if rows["seeds"].isna().all()]
    if absent:
        lines.append(f"Not run here at the paper's scale: {'; '.join(absent)}; their columns are "
                     "the paper's.")
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


def _on_seeds(heading: str, name: str, rows: pd.DataFrame) -> str:
    """How many seeds stand behind a setting's numbers, and which rows have none."""
    least, most = int(rows["seeds"].min()), int(rows["seeds"].max())
    count = f"{least}" if least == most else f"{least} to {most}"
    spread = (f"mean ± 95 % t-interval over {count} seeds" if most > 1
              else "one seed, so no interval")
    number = f"[{heading.rpartition('[')[2]} " if heading != name else ""
    left = [f"{QUANTIZER_TITLES.get(quantizer, quantizer)} "
            f"({', '.join(NORMALIZER_WORDS.get(n, n) for n in missing['normalizer'])})"
            for quantizer, missing in rows[rows["seeds"].isna()].groupby("quantizer", sort=False)]
    return (f"{number}{name}: {spread}."
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


def table_1_wide(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as people read it: a row a quantizer and epoch, "before → after" by gate (lowest
    seed).

    Args:
        table: of :func:`qlstm.report.tables.table_1`.
    """
    order = [*QUANTIZER_TITLES, *(q for q in table["quantizer"].unique()
                                  if q not in QUANTIZER_TITLES)]
    rows = table.assign(
        setting=table["label"], quantization=table["quantizer"].replace(QUANTIZER_TITLES),
        order=pd.Categorical(table["quantizer"], categories=order))
    rows = rows.sort_values(["setting", "order"], kind="stable")
    rows = rows[rows["seed"] == rows.groupby(["setting", "quantization"])["seed"].transform("min")]
    keys = ["setting", "quantization", "epoch"]
    return rows.groupby(keys, sort=False)[list(rows.columns)].apply(_spectral_row)


def _spectral_row(gates: pd.DataFrame) -> pd.Series:
    """The norms of all gates of a network in a row."""

    def pair(row, name=""):
        return f"{row[f'{name}before']:.2f} → {row[f'{name}after']:.2f}"

    cells = {f"‖W_h{row['gate']}‖": pair(row) for _, row in gates.iterrows()}
    bound, first = gates["bound"].min(), gates.iloc[0]
    return pd.Series(cells | {
        "lower bound": NOT_AT_HAND if pd.isna(bound) else f"{bound:.2f}",
        "λ₁": pair(first, "lambda_1_"), "λ₂": pair(first, "lambda_2_")})


def styled(table: pd.DataFrame) -> Styler:
    """The readable table as a pandas Styler, which gives HTML and LaTeX."""
    return _of_results(wide(table))


def _of_results(readable: pd.DataFrame) -> Styler:
    return readable.style.set_table_attributes('class="results"')


def save(table: pd.DataFrame, directory: Path, name: str, readable: pd.DataFrame | None = None,
         remarks: list[str] | None = None):
    """Write a table as ``name.csv`` (long form, full precision) and ``name.{md,tex,html}`` (as
    people read it).

    Args:
        table: the long form.
        directory: the folder, made where it is not there.
        name: of the files, without an ending.
        readable: what people read; of :func:`qlstm.report.tables.results` it is made here.
        remarks: the notes below it; of :func:`qlstm.report.tables.results` they are made here.
    """
    directory.mkdir(parents=True, exist_ok=True)
    readable = wide(table) if readable is None else readable
    remarks = notes(table) if remarks is None else remarks

    def write(ending, text):
        (directory / f"{name}.{ending}").write_text(text, encoding="utf-8")

    table.to_csv(directory / f"{name}.csv", index=False)
    flat = readable.copy()
    flat.columns = [": ".join(c) if isinstance(c, tuple) else c for c in flat.columns]
    markdown = flat.reset_index().to_markdown(index=False, disable_numparse=True)
    write("md", f"{markdown}\n\n" + "\n".join(f"- {line}" for line in remarks) + "\n")
    items = "".join(f"<li>{escape(line)}</li>" for line in remarks)
    write("html", f"{_of_results(readable).to_html(table_uuid=name)}"
                  f'<ul class="notes">{items}</ul>\n')
    plain = readable.map(_latex).rename(columns=_latex).rename(index=_latex)
    write("tex", plain.style.to_latex(hrules=True, multicol_align="c"))


_LATEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "–": "--", "→": r"$\to$", "‖": r"$\|$",
          "λ₁": r"$\lambda_1$", "λ₂": r"$\lambda_2$", "±": r"$\pm$"}


def _latex(text) -> str:
    for mark, command in _LATEX.items():
        text = str(text).replace(mark, command)
    return text
