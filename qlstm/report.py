"""The page of a profile: tables, figures, lessons and runs, to read in a browser without a server."""

import json
import sys
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, select_autoescape
from pandas import isna

from qlstm import records, tables
from qlstm.experiments import ARTEFACTS, ExperimentConfig
from qlstm.paths import reports
from qlstm.records import write_atomically
from qlstm.tables import NORMALIZER_TITLES, QUANTIZER_TITLES

SCALE = {
    "smoke": "A check that everything works, minutes on two cores: tiny networks, hardly trained. Its numbers mean nothing.",
    "quick": "Reduced scale: small networks, few epochs, a text that needs no download. It shows the paper's effect, not its numbers.",
    "paper": "The settings of the paper's appendix, as far as the runs below go; reduced ones are marked.",
}


def findings(found: list[dict]) -> list[str]:
    """What the runs say about the paper's claim, a sentence a setting: with the numbers, whichever way they point."""
    sentences = []
    table = tables.over_seeds(tables.frame(found))
    for label, group in table.groupby("label", sort=False):
        test = group.set_index(["quantizer", "normalizer"])["mean"]
        if ("full_precision", "none") not in test or isna(test["full_precision", "none"]):
            continue
        parts = [f"full precision {test['full_precision', 'none']:.2f} BPC"]
        for quantizer in ("binary_connect", "ter_connect"):
            rows = {n: test[quantizer, n] for n in NORMALIZER_TITLES if (quantizer, n) in test}
            if "none" not in rows:
                continue
            name = QUANTIZER_TITLES[quantizer]
            parts.append(
                f"{name} " + ("diverges" if isna(rows["none"]) else f"{rows['none']:.2f}") + " without normalization"
            )
            normalized = [
                f"{v:.2f} with {NORMALIZER_TITLES[n]}" for n, v in rows.items() if n != "none" and not isna(v)
            ]
            if normalized:
                parts[-1] += ", " + ", ".join(normalized)
        sentences.append(f"{label}: " + "; ".join(parts) + ".")
    return sentences


def page(profile: str, root: Path | None = None) -> str:
    """The HTML of ``reports/<profile>/index.html``, from the records and what the report notebooks have made."""
    folder = (root or reports()) / profile
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    found = records.load_all(profile, root)
    runs = [{"id": r["run_id"], "label": tables.label(ExperimentConfig(**r["config"]), r["data"]["sha256"]),
             "name": f"{QUANTIZER_TITLES.get(r['config']['quantizer'], r['config']['quantizer'])}, "
                     f"{NORMALIZER_TITLES.get(r['config']['normalizer'], r['config']['normalizer'])}",
             "seed": r["config"]["seed"], "result": "N/A (diverged)" if r["diverged"] else f"{r['test_metric']:.3f}",
             "best": r["best_epoch"], "size": f"{r['size_kb']:.1f}", "seconds": round(r["seconds"]),
             "notebook": (folder / "runs" / r["run_id"] / "notebook.html").exists()} for r in found]  # fmt: skip
    figures = [
        name for name in ARTEFACTS if name.startswith("figure") and (folder / "figures" / f"{name}.png").exists()
    ]
    table = folder / "tables" / "table_2.html"
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("qlstm") / "report.html.jinja").read_text(encoding="utf-8"))
    from qlstm.figures import CAPTIONS, NAMES

    return template.render(
        profile=profile, scale=SCALE[profile], findings=findings(found), runs=runs, failures=plan["failures"],
        table=table.read_text(encoding="utf-8") if table.exists() else None,
        notes=tables.notes(tables.table_2(found)) if found else [],
        figures=[{"file": name, "name": NAMES[name], "caption": CAPTIONS[name]} for name in figures],
        lessons=[{"file": path.stem, "name": path.stem[3:].replace("_", " ")}
                 for path in sorted((folder / "notebooks" / "learn").glob("*.html"))],
        explore=(folder / "notebooks" / "explore" / "explore_runs.html").exists(),
        environments=sorted({", ".join(f"{k} {v}" for k, v in r["environment"].items() if k != "system") for r in found}),
    )  # fmt: skip


def main() -> int:
    """``python -m qlstm.report PROFILE``: write the page."""
    profile = sys.argv[1]
    write_atomically(reports() / profile / "index.html", page(profile).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
