"""The parts of a profile's page, as HTML that loads nothing: the finding, the scorecard, tables,
figures and runs.

``records``: those of a profile, as :func:`qlstm.study.records.load_all` returns them. ``folder``:
its folder below ``reports``, where the report notebooks have left tables and figures.
"""

import base64
import io
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from qlstm import data
from qlstm.report.figures import CAPTIONS, NAMES, main_result, main_sentence
from qlstm.report.frames import frame
from qlstm.report.main_result import settings as main_settings
from qlstm.report.names import NORMALIZER_WORDS, QUANTIZER_TITLES, UNKNOWN, in_parts, number
from qlstm.report.scorecard import counts
from qlstm.report.tables import TITLES
from qlstm.study.records import planned
from qlstm.study.tasks import METRICS

SCALE = {
    "smoke": "A check that everything works, minutes on two cores: tiny networks, hardly trained. "
             "Its numbers mean nothing.",
    "quick": "Reduced scale: small networks, few epochs, data that need no download. It is to show "
             "the paper's effect, not its numbers.",
    "paper": "The settings of the paper's appendix, as far as its runs go; reduced ones are "
             "marked."}
"""What each profile is, in a line."""
FIGURES = NAMES | {
    "theory": "λ₁ and the growth of the gradient",
    "lambda_by_epoch": "λ₁ by epoch, before and after quantization",
    "gains_and_lambda": "Gains g* and λ₁ of the normalized networks by epoch",
    "statistics": "Batch normalization on images: statistics, initial gain and state noise"}
"""The figures of the page by the name of their files, with the alternative text."""
TABLES = {name: title for name, (title, _) in TITLES.items()} | {
    "statistics": "Batch normalization on images: statistics, initial gain and state noise",
    "gru": "The GRU beside the LSTM", "run_time": "Run time",
    "paired_tests": "Do the normalizers differ? Paired tests over seeds"}
"""The tables of the page by the name of their files."""
STANDINGS = {"everywhere": ("●", "holds", "Hold in every setting"),
             "partly": ("◐", "partly", "Hold in some settings"),
             "nowhere": ("○", "against", "Hold in none"),
             "not tested": ("–", "untested", "Not tested at this scale")}
"""How a claim can stand: its mark, the class of its row, and what is written above such rows."""
OF_REVIEWERS = ["lambda_by_epoch", "gains_and_lambda", "statistics", "gru", "run_time",
                "paired_tests"]

STYLE = """<style>
.settings { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; align-items: flex-start; }
.settings table, table.claims, table.runs { border-collapse: collapse; font-size: .85rem;
  line-height: 1.35; margin: .5rem 0; max-width: 100%; }
.settings caption { text-align: left; font-weight: 600; padding-bottom: .4rem; }
.settings caption small, .quiet { color: #555; font-weight: 400; }
.settings :is(th, td), table.claims tr :is(th, td),
  table.runs tr :is(th, td) { padding: .2rem .5rem;
  text-align: left; vertical-align: top; border: 0; border-bottom: 1px solid #e3e3e3;
  white-space: normal; overflow-wrap: break-word; }
.settings table.results :is(th, td):not(:last-child) { text-align: left; }
.settings table.results :is(th, td):last-child { text-align: right; }
tr.fails td { background: #f8d7da; color: #7c000b; }
table.claims tr.holds td:first-child { color: #0a5c2b; font-weight: 600; }
table.claims tr.partly td:first-child { color: #7a4b00; font-weight: 600; }
table.claims tr.against td:first-child { color: #8c1d18; font-weight: 600; }
table.claims tr.untested td:first-child { color: #555; }
table.claims td:first-child { min-width: 6.5rem; width: 9rem; overflow-wrap: normal; }
figure.report { margin: 1rem 0; }
figure.report img { max-width: 100%; height: auto; }
@media (max-width: 600px) { .settings table, table.runs { font-size: .75rem; }
  .settings tr :is(th, td), table.runs tr :is(th, td) { padding: .15rem .25rem; } }
details { margin: .6rem 0; } summary { cursor: pointer; }
</style>
"""
"""What the parts look like, wherever they stand."""


def pictures(records: list[dict]) -> dict[str, Figure]:
    """The main figure (:func:`qlstm.report.figures.main_result`) by the names of its files: for a
    wide screen, and for a narrow one; {} where there is no run that it could show."""
    if not main_settings(records):
        return {}
    return {"main_result": main_result(records, 3), "main_result_narrow": main_result(records, 1)}


def finding(records: list[dict], shown: dict[str, Figure]) -> str:
    """The main figure as :func:`pictures` has it, ``shown`` by the width of the screen, and the
    sentence below it, which stands alone where there is no figure."""
    if not records:
        return f"{STYLE}<p><strong>No runs yet: <code>make reproduce</code>.</strong></p>"
    sentence = main_sentence(records)
    if not shown:
        return f"{STYLE}<p><strong>{escape(sentence)}</strong></p>"
    return (f'{STYLE}<figure class="report"><picture><source media="(max-width: 700px)" '
            f'srcset="{_inlined(_png(shown["main_result_narrow"]))}"><img '
            f'src="{_inlined(_png(shown["main_result"]))}" alt="Test metric by normalization for '
            f'full precision, BinaryConnect and TerConnect. {escape(sentence)}">'
            f"</picture><figcaption><strong>{escape(sentence)}</strong></figcaption></figure>")


def _png(figure: Figure) -> bytes:
    """The ``figure`` as a file."""
    written = io.BytesIO()
    figure.savefig(written, format="png", bbox_inches="tight", dpi=160)
    return written.getvalue()


def _inlined(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def claims(card: pd.DataFrame) -> str:
    """The scorecard, ``card``: how many claims stand how, in words, and below, to be opened, each
    of them."""
    parts = [f"<p>{counts(card)}</p>"]
    for standing, (mark, style, summary) in STANDINGS.items():
        group = card[card["standing"] == standing]
        if len(group):
            rows = "".join(_claim(row, mark, style) for row in group.itertuples())
            parts.append(f"<details><summary>{mark} {summary}: {len(group)}</summary>"
                         f'<table class="claims"><tbody>{rows}</tbody></table></details>')
    return "".join(parts)


def _claim(row, mark: str, style: str) -> str:
    condition = f" Judged where: {escape(row.condition)}." if row.condition else ""
    evidence = escape(row.evidence) or "No run says anything yet."
    return (f'<tr class="{style}"><td>{mark} {row.verdict}</td><td>{escape(row.sentence)} '
            f'<span class="quiet">({escape(row.source)}.{condition})</span>'
            f"<details><summary>evidence{f' ({row.scale} scale)' if row.scale else ''}</summary>"
            f"{evidence}</details></td></tr>")


def tables(folder: Path) -> str:
    """The tables that the report notebooks have made, each under its heading."""
    parts = []
    for name, title in TABLES.items():
        path = folder / "tables" / f"{name}.html"
        if path.exists():
            files = " · ".join(f'<a href="tables/{name}.{ending}">{words}</a>' for ending, words in
                               (("csv", "CSV"), ("md", "Markdown"), ("tex", "LaTeX")))
            parts.append(f'<h3 id="{name}">{escape(title)}</h3>'
                         f"{path.read_text(encoding='utf-8')}"
                         f'<p class="quiet">{files}{_notebook(folder, name)}</p>')
    return "".join(parts) or "<p>None made yet.</p>"


def figures(folder: Path) -> str:
    """The figures that the report notebooks have made, with captions, to be opened."""
    parts = []
    for name, title in FIGURES.items():
        path = folder / "figures" / f"{name}.png"
        if path.exists():
            caption = CAPTIONS.get(name, "")
            parts.append(
                f'<details id="{name}"><summary>{escape(title)}</summary><figure class="report">'
                f'<img src="{_inlined(path.read_bytes())}" alt="{escape(title)}">'
                f'<figcaption>{escape(caption)} '
                f'<a href="figures/{name}.pdf">PDF</a>{_notebook(folder, name)}</figcaption>'
                "</figure></details>")
    return "".join(parts) or "<p>None made yet.</p>"


def _notebook(folder: Path, name: str) -> str:
    """A link to the notebook that made a table or figure, where its page is there."""
    page = f"notebooks/report/{'reviewers' if name in OF_REVIEWERS else name}.html"
    return f' · <a href="{page}">notebook</a>' if (folder / page).exists() else ""


def links(folder: Path) -> str:
    """Links to the pages of lessons, propositions, reviewers' questions and exploration that are
    there."""
    pages = [("notebooks/report/theory.html", "The propositions, checked on every network"),
             ("notebooks/report/reviewers.html", "What the paper's reviewers asked"),
             ("notebooks/explore/explore_runs.html", "Explore the runs")]
    for path in sorted((folder / "notebooks" / "learn").glob("*.html")):
        title = path.stem.replace("_", " ").lstrip("0")
        lesson = f"Lesson {title}" if title[0].isdigit() else f"Lessons: {title.lower()}"
        pages.append((f"notebooks/learn/{path.name}", lesson))
    found = [f'<li><a href="{page}">{escape(title)}</a></li>'
             for page, title in pages if (folder / page).exists()]
    return f"<ul>{''.join(found)}</ul>" if found else ""


def failures(folder: Path) -> str:
    """The runs that ended without a result, with the cause, as the last plan noted them; "" where
    there is none."""
    failed = planned(folder)["failures"]
    if not failed:
        return ""
    items = "".join(f"<li>{escape(_words(run))}: {escape(str(cause))}</li>"
                    for run, cause in failed.items())
    return f"<p><strong>{len(failed)} runs ended without a result.</strong></p><ul>{items}</ul>"


def _words(run_id: str) -> str:
    """A run's id in words."""
    dataset, *settings = run_id.split("-")
    known = QUANTIZER_TITLES | NORMALIZER_WORDS
    parts = [data.title(dataset) if dataset in data.CATALOGUE else dataset]
    for part in settings:
        words = part.replace("seed", "seed ").replace("=", " = ").replace("_", " ")
        parts.append(known.get(part, words))
    return ", ".join(parts)


def runs(records: list[dict], folder: Path) -> str:
    """All runs, a setting each, to be opened."""
    parts = []
    for name, group in frame(records).groupby("label", sort=False):
        setting, scale = in_parts(name)
        title = escape(setting + (f" (reduced: {scale})" if scale else ""))
        rows = "".join(_run(run, folder) for run in group.itertuples())
        unit = METRICS[group["metric"].iloc[0]].title
        heads = "".join(f'<th scope="col">{head}</th>' for head in (
            "quantization", "normalization", "seed", f"test {unit}", "KB", "seconds", "open"))
        parts.append(
            f'<details><summary>{title}: {len(group)}</summary><table class="runs">'
            f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></details>")
    return "".join(parts) or "<p>None yet.</p>"


def _run(run, folder: Path) -> str:
    test = "diverged" if run.diverged else number(run.metric, run.test)
    opened = [f'<a href="runs/{run.run_id}/{file}">{words}</a>' for file, words in
              (("notebook.html", "notebook"), ("record.json", "record"))
              if (folder / "runs" / run.run_id / file).exists()]
    cells = [QUANTIZER_TITLES.get(run.quantizer, run.quantizer),
             NORMALIZER_WORDS.get(run.normalizer, run.normalizer), f"{run.seed}", test,
             UNKNOWN if pd.isna(run.size_kb) else f"{run.size_kb:.0f}", f"{run.seconds:.0f}"]
    return (f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}"
            f"<td>{' · '.join(opened)}</td></tr>")


def environments(records: list[dict]) -> str:
    """What the runs were made with."""
    found = {", ".join(f"{name} {value}" for name, value in record["environment"].items()
                       if name != "system") for record in records}
    lines = "".join(f"<li>{escape(line)}</li>" for line in sorted(found))
    return f"<details><summary>What made these runs</summary><ul>{lines}</ul></details>"
