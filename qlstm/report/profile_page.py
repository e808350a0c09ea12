"""The page of a profile: scorecard, tables, figures, lessons and runs, to read in a browser without
a server.

``arguments``: of the command line.
"""

import json
from pathlib import Path

from qlstm.data.storage import write_atomically
from qlstm.report import pages, tables
from qlstm.report.figures import CAPTIONS, NAMES
from qlstm.report.scorecard import scorecard
from qlstm.report.tables import NORMALIZER_TITLES, QUANTIZER_TITLES
from qlstm.study import records
from qlstm.study.config import ExperimentConfig
from qlstm.study.records import reports
from qlstm.study.tasks import METRICS

SCALE = {
    "smoke": "A check that everything works, minutes on two cores: tiny networks, hardly trained. Its numbers mean nothing.",
    "quick": "Reduced scale: small networks, few epochs, a text that needs no download. It shows the paper's effect, not its numbers.",
    "paper": "The settings of the paper's appendix, as far as the runs below go; reduced ones are marked.",
}


FIGURES = {**NAMES, "theory": "λ₁ and the growth of the gradient",
           "lambda_by_epoch": "λ₁ by epoch, before and after quantization",
           "gains_and_lambda": "Gains g* and λ₁ of the normalized networks by epoch",
           "statistics": "Batch normalization on images: statistics, initial gain and state noise"}
"""The figures of the page, by the name of their files, with the alternative text."""
TABLES = {"table_1": "Table 1: spectral norms, before and after quantization",
          "table_2": "Table 2: character-level language models",
          "table_3": "Table 3: word-level language models", "table_4": "Table 4: sequential MNIST",
          "table_5": "Table 5: two layers, word-level",
          "statistics": "Sequential MNIST: statistics, initial gain and state noise, one by one",
          "gru": "The GRU beside the LSTM", "run_time": "Run time"}
"""The tables of the page, by the name of their files."""
OF_REVIEWERS = ["lambda_by_epoch", "gains_and_lambda", "statistics", "gru", "run_time"]


def page(profile: str, root: Path | None = None, menu: list[tuple[str, str]] | None = None,
         lessons: list[tuple[str, str]] | None = None) -> str:
    """The HTML of ``reports/<profile>/index.html``, from the records and what the report notebooks
    have made.

    ``root``: the folder of all profiles. On a site, ``menu`` has names and addresses of its main
    pages, and ``lessons`` addresses and titles; else the page stands alone and shows the lessons
    that were executed for this ``profile``.
    """
    folder = (root or reports()) / profile
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    found = records.load_all(profile, root)
    runs = [
        {"id": r["run_id"],
         "label": tables.label(ExperimentConfig(**r["config"]), r["data"]["sha256"]),
         "name": f"{QUANTIZER_TITLES.get(r['config']['quantizer'], r['config']['quantizer'])}, "
         f"{NORMALIZER_TITLES.get(r['config']['normalizer'], r['config']['normalizer'])}",
         "seed": r["config"]["seed"], "result": "N/A (diverged)" if r["diverged"]
         else f"{r['test_metric']:.3f} {METRICS[r['metric']].title}", "best": r["best_epoch"],
         "size": f"{r['size_kb']:.1f}", "seconds": round(r["seconds"]),
         "notebook": (folder / "runs" / r["run_id"] / "notebook.html").exists()}
        for r in found
    ]

    def notebook(name):
        return "reviewers" if name in OF_REVIEWERS else name

    shown_tables = [
        {"file": name, "title": title, "notebook": notebook(name),
         "html": (folder / "tables" / f"{name}.html").read_text(encoding="utf-8")}
        for name, title in TABLES.items()
        if (folder / "tables" / f"{name}.html").exists()
    ]
    shown_figures = [
        {"file": name, "name": title, "notebook": notebook(name),
         "caption": CAPTIONS.get(name, title + ".")}
        for name, title in FIGURES.items()
        if (folder / "figures" / f"{name}.png").exists()
    ]
    if lessons is None:
        lessons = [(f"notebooks/learn/{path.name}", path.stem[3:].replace("_", " "))
                   for path in sorted((folder / "notebooks" / "learn").glob("*.html"))]
    card = scorecard(found, profile)
    if found:
        write_atomically(folder / "scorecard.csv", card.to_csv(index=False).encode())
    return pages.render(
        "report.html.jinja",
        menu=menu,
        here="index.html",
        profile=profile,
        scale=SCALE[profile],
        runs=runs,
        failures=plan["failures"],
        tables=shown_tables,
        claims=card.to_dict("records") if found else [],
        figures=shown_figures,
        counts=card["verdict"].value_counts().to_dict() if found else {},
        theory=(folder / "notebooks" / "report" / "theory.html").exists(),
        lessons=lessons,
        explore=(folder / "notebooks" / "explore" / "explore_runs.html").exists(),
        environments=sorted(
            {", ".join(f"{k} {v}" for k, v in r["environment"].items() if k != "system")
             for r in found}
        ),
    )


def main(arguments: list[str]) -> int:
    """``python -m qlstm page PROFILE``: write the page."""
    (profile,) = arguments
    write_atomically(reports() / profile / "index.html", page(profile).encode())
    return 0
