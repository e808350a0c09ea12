"""The page of a profile: scorecard, tables, figures, lessons and runs, to read in a browser without
a server."""

import json
from pathlib import Path

from qlstm.data.storage import write_atomically
from qlstm.report import pages
from qlstm.report.figures import CAPTIONS, NAMES
from qlstm.report.names import NORMALIZER_TITLES, QUANTIZER_TITLES, label
from qlstm.report.scorecard import scorecard
from qlstm.study import records
from qlstm.study.config import ExperimentConfig
from qlstm.study.records import reports
from qlstm.study.tasks import METRICS

SCALE = {
    "smoke": "A check that everything works, minutes on two cores: tiny networks, hardly trained. "
             "Its numbers mean nothing.",
    "quick": "Reduced scale: small networks, few epochs, a text that needs no download. It shows "
             "the paper's effect, not its numbers.",
    "paper": "The settings of the paper's appendix, as far as the runs below go; reduced ones are "
             "marked."}

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
    """The HTML of a profile's page, from the records and what the report notebooks have made.

    Args:
        profile: its name.
        root: the folder of all profiles; None: ``reports``.
        menu: on a site, names and addresses of its main pages.
        lessons: on a site, addresses and titles of the lessons. None: the page stands alone and
            shows the lessons that were executed for this profile.
    """
    folder = (root or reports()) / profile
    found = records.load_all(profile, root)
    if lessons is None:
        lessons = [(f"notebooks/learn/{path.name}", path.stem[3:].replace("_", " "))
                   for path in sorted((folder / "notebooks" / "learn").glob("*.html"))]
    card = scorecard(found, profile)
    if found:
        write_atomically(folder / "scorecard.csv", card.to_csv(index=False).encode())
    environments = {", ".join(f"{name} {value}" for name, value in record["environment"].items()
                              if name != "system") for record in found}
    return pages.render(
        "report.html.jinja", menu=menu, here="index.html", profile=profile, scale=SCALE[profile],
        runs=[_run(record, folder) for record in found],
        failures=json.loads((folder / "plan.json").read_text(encoding="utf-8"))["failures"],
        tables=[{"html": path.read_text(encoding="utf-8"), **shown}
                for path, shown in _made(folder / "tables", TABLES, "html")],
        figures=[{"caption": CAPTIONS.get(shown["file"], shown["title"] + "."), **shown}
                 for _, shown in _made(folder / "figures", FIGURES, "png")],
        claims=card.to_dict("records") if found else [],
        counts=card["verdict"].value_counts().to_dict() if found else {},
        theory=(folder / "notebooks" / "report" / "theory.html").exists(), lessons=lessons,
        explore=(folder / "notebooks" / "explore" / "explore_runs.html").exists(),
        environments=sorted(environments))


def _made(folder: Path, titles: dict[str, str], ending: str):
    """What there is of the files that have ``titles``, with the notebook that made each."""
    for name, title in titles.items():
        path = folder / f"{name}.{ending}"
        if path.exists():
            notebook = "reviewers" if name in OF_REVIEWERS else name
            yield path, {"file": name, "title": title, "notebook": notebook}


def _run(record: dict, folder: Path) -> dict:
    """The line of a run."""
    config = ExperimentConfig(**record["config"])
    result = ("N/A (diverged)" if record["diverged"]
              else f"{record['test_metric']:.3f} {METRICS[record['metric']].title}")
    return {
        "id": record["run_id"], "label": label(config, record["data"]["sha256"]),
        "name": f"{QUANTIZER_TITLES.get(config.quantizer, config.quantizer)}, "
                f"{NORMALIZER_TITLES.get(config.normalizer, config.normalizer)}",
        "seed": config.seed, "result": result, "best": record["best_epoch"],
        "size": f"{record['size_kb']:.1f}", "seconds": round(record["seconds"]),
        "notebook": (folder / "runs" / record["run_id"] / "notebook.html").exists()}


def main(arguments: list[str]) -> int:
    """``python -m qlstm page PROFILE``: write the page.

    Args:
        arguments: of the command line: the name of a profile.
    """
    (profile,) = arguments
    write_atomically(reports() / profile / "index.html", page(profile).encode())
    return 0
