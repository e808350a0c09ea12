"""Tables to read: one setting at a time, only what was run; and their files.

``table``: the long form, as :func:`qlstm.report.tables.results` returns it. ``sections``: what is
shown, a :class:`Section` a setting.
"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from qlstm.report import verdicts
from qlstm.report.names import (
    DIVERGED,
    NORMALIZER_WORDS,
    NOT_AT_HAND,
    NOT_RUN,
    QUANTIZER_TITLES,
    in_parts,
    number,
)
from qlstm.report.render import measured, whole
from qlstm.study.tasks import METRICS

ABSENT = {NOT_RUN, NOT_AT_HAND, "", "nan", "None"}
"""Cells that say nothing."""


@dataclass
class Section:
    """A table of one setting, a few narrow columns of text.

    Attributes:
        title: the setting.
        scale: what is smaller than in the paper, "" if nothing is.
        cells: the rows, all text.
        failed: numbers of the rows that failed to train.
    """

    title: str
    scale: str
    cells: pd.DataFrame
    failed: list[int] = field(default_factory=list)


def of_results(table: pd.DataFrame, everything: bool = False) -> list[Section]:
    """Tables 2 to 5: a section a setting, a row a quantizer and normalizer.

    Args:
        table: the long form.
        everything: whether to show rows and settings that were not run, with the paper's numbers.
    """
    found = []
    for name, rows in table.groupby("label", sort=False):
        chosen = rows if everything else rows[rows["seeds"].notna()]
        if len(chosen):
            base = rows[(rows["quantizer"] == "full_precision") & (rows["normalizer"] == "none")]
            baseline = base["ours"].iloc[0] if len(base) else None
            fails = [_fails(row, baseline) for row in chosen.itertuples()]
            found.append(Section(
                *in_parts(name), _columns(chosen, fails, everything),
                [k for k, lost in enumerate(fails) if lost]))
    return found


def _fails(row, baseline: float | None) -> bool:
    ours = None if row.diverged else row.ours
    return not math.isnan(row.seeds) and bool(verdicts.fails(row.metric, ours, baseline))


def _columns(rows: pd.DataFrame, fails: list[bool], everything: bool) -> pd.DataFrame:
    unit = METRICS[rows["metric"].iloc[0]].title
    printed, run = rows["in_paper"].any(), rows["seeds"].notna().any()
    cells = pd.DataFrame({
        "quantization": [QUANTIZER_TITLES.get(q, q) for q in rows["quantizer"]],
        "normalization": [NORMALIZER_WORDS.get(n, n) for n in rows["normalizer"]]})
    if printed:
        cells[f"paper's {unit}"] = [_printed(row) for row in rows.itertuples()]
    if run:
        cells[f"our {unit}"] = [
            _ours(row, lost) for (_, row), lost in zip(rows.iterrows(), fails, strict=True)]
    if printed and run and not everything:
        cells["verdict"] = list(rows["verdict"])
        cells["seeds"] = list(rows["devices"])
    if everything and printed:
        cells["paper's KB"] = [whole(size, math.nan) for size in rows["paper_kb"]]
    sizes = rows["size_kb"] if not everything else rows["computed_kb"].fillna(rows["size_kb"])
    cells["KB"] = [whole(*row) for row in zip(sizes, rows["seeds"], strict=True)]
    return cells


def _printed(row) -> str:
    if not row.in_paper:
        return NOT_AT_HAND
    return DIVERGED if pd.isna(row.paper) else number(row.metric, row.paper, row.paper > 1000)


def _ours(row: pd.Series, fails: bool) -> str:
    """A result: mean and interval; of a failed training "fails" and the range over its seeds."""
    if not fails:
        return measured(row)
    if row["diverged"] == row["seeds"]:
        return "diverges"
    ends = [number(row["metric"], end, failed=True) for end in (row["least"], row["most"])]
    lost = f", {row['diverged']:.0f} of {row['seeds']:.0f} diverge" if row["diverged"] else ""
    return f"fails ({' to '.join(dict.fromkeys(ends))}{lost})"


def of_frame(readable: pd.DataFrame) -> list[Section]:
    """A section for each value of the first index level of a table.

    Args:
        readable: what is shown; the first level of its index is the setting. Columns in which a
            setting has nothing are left out there.
    """
    found = []
    for name, rows in readable.groupby(level=0, sort=False):
        rows = rows.dropna(axis=1, how="all").reset_index().drop(columns=rows.index.names[0])
        found.append(Section(*in_parts(str(name)), rows.map(_text)))
    return found


def _text(value) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return NOT_RUN
        return f"{value:.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"
    return str(value)


def empty_share(sections: Iterable[Section]) -> float:
    """The share of cells that say nothing: a mark for "not run" or "not at hand", or no text."""
    cells = [cell for section in sections for cell in section.cells.to_numpy().ravel()]
    return sum(cell in ABSENT for cell in cells) / len(cells) if cells else 0.0


def html(sections: list[Section], remarks: Iterable[str] = (),
         folded: list[Section] | None = None) -> str:
    """The tables as HTML, a ``<table>`` a setting; notes and ``folded`` tables can be opened.

    Args:
        sections: what is shown.
        remarks: notes below.
        folded: what can be opened: all rows of the paper's table.
    """
    text = f'<div class="settings">{"".join(map(_table, sections))}</div>'
    if folded:
        text += ('<details><summary>All rows of the paper\'s table, with its numbers and what is '
                 f'not run</summary><div class="settings">{"".join(map(_table, folded))}</div>'
                 "</details>")
    if items := "".join(f"<li>{escape(line)}</li>" for line in remarks):
        text += f'<details><summary>Notes</summary><ul class="notes">{items}</ul></details>'
    return text + "\n"


def _table(section: Section) -> str:
    scale = f"<br><small>reduced: {escape(section.scale)}</small>" if section.scale else ""
    heads = "".join(f'<th scope="col">{_cell(name)}</th>' for name in section.cells.columns)
    rows = []
    for k, (_, row) in enumerate(section.cells.iterrows()):
        lost = ' class="fails"' if k in section.failed else ""
        rows.append(f"<tr{lost}>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>")
    return (f'<table class="results"><caption>{escape(section.title)}{scale}</caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>")


def _cell(text: str) -> str:
    """Text for a narrow column: long words say where they may be cut."""
    for word in ("Binary|Connect", "Ter|Connect", "quanti|zation", "normali|zation", "sepa|rate"):
        text = text.replace(word.replace("|", ""), word.replace("|", "\u00ad"))
    return escape(text)


def markdown(sections: list[Section], remarks: Iterable[str] = (),
             folded: list[Section] | None = None) -> str:
    """The tables as Markdown; ``remarks`` and ``folded`` are those of :func:`html`."""

    def each(shown):
        return [f"**{s.title}**{f' (reduced: {s.scale})' if s.scale else ''}\n\n"
                + s.cells.to_markdown(index=False, disable_numparse=True) for s in shown]

    parts = each(sections)
    if folded:
        parts += ["<details><summary>All rows of the paper's table, with its numbers and what is "
                  "not run</summary>", *each(folded), "</details>"]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in remarks)]).rstrip() + "\n"


_LATEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "·": r"$\cdot$", "–": "--",
          "→": r"$\to$", "‖": r"$\|$", "λ₁": r"$\lambda_1$", "λ₂": r"$\lambda_2$",
          "±": r"$\pm$"}


def _latex(text) -> str:
    for mark, command in _LATEX.items():
        text = str(text).replace(mark, command)
    return text


def latex(sections: list[Section]) -> str:
    """The tables as LaTeX (booktabs), a ``tabular`` a setting."""
    return "\n".join(
        f"% {s.title}{f' (reduced: {s.scale})' if s.scale else ''}\n"
        + s.cells.map(_latex).rename(columns=_latex).style.hide().to_latex(hrules=True)
        for s in sections)


def save(table: pd.DataFrame, directory: Path, name: str, sections: list[Section] | None = None,
         remarks: Iterable[str] = (), folded: list[Section] | None = None):
    """Write a table as ``name.csv`` (long form, every number in full precision) and
    ``name.{md,tex,html}`` (as people read it).

    Args:
        table: the long form.
        directory: the folder, made where it is not there.
        name: of the files, without an ending.
        sections: what people read; None: the CSV alone is written.
        remarks: the notes below.
        folded: in HTML and Markdown, what can be opened.
    """
    directory.mkdir(parents=True, exist_ok=True)
    table.to_csv(directory / f"{name}.csv", index=False)
    if sections is not None:
        texts = {"md": markdown(sections, remarks, folded), "tex": latex(sections),
                 "html": html(sections, remarks, folded)}
        for ending, text in texts.items():
            (directory / f"{name}.{ending}").write_text(text, encoding="utf-8")


def spectra(table: pd.DataFrame) -> list[Section]:
    """Table 1, a section a setting: the largest norm of the four gates, λ₁ and λ₂, before → after
    quantization (lowest seed).

    Args:
        table: of :func:`qlstm.report.tables.table_1`.
    """
    found = []
    for name, rows in table.groupby("label", sort=True):
        cells = []
        for quantizer, epoch in itertools.product(QUANTIZER_TITLES, sorted(set(rows["epoch"]))):
            gates = rows[(rows["quantizer"] == quantizer) & (rows["epoch"] == epoch)]
            if gates.empty:
                continue
            gates = gates[gates["seed"] == gates["seed"].min()]
            ends = {"largest ‖W_h*‖": ("before", "after"),
                    "λ₁": ("lambda_1_before", "lambda_1_after"),
                    "λ₂": ("lambda_2_before", "lambda_2_after")}
            cells.append({"quantization": QUANTIZER_TITLES[quantizer], "epoch": f"{epoch}"} | {
                head: " → ".join(_text(float(gates[side].max())) for side in sides)
                for head, sides in ends.items()})
        if cells:
            found.append(Section(*in_parts(name), pd.DataFrame(cells)))
    return found
