"""``make site``: lessons, results and API as pages to read without a server or a network.

Here the sources are collected, each at the place that it has in the repository or in ``reports``,
so that links between them hold; Sphinx (``docs/conf.py``) makes the pages.
"""

import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import qlstm
from qlstm.data.storage import ROOT, files, lessons, pages
from qlstm.errors import ConfigError, needs, unknown
from qlstm.report import figures, page
from qlstm.study import records
from qlstm.study.records import reports
from qlstm.study.tasks import PROFILES

NOTEBOOKS = [f"notebooks/{folder}/*.ipynb" for folder in ("run", "report", "explore")]
GUIDES = ["notebooks/*.md", "notebooks/*/*.md", "data/README.md", "reports/README.md",
          "CONTRIBUTING.md", "Containerfile", "notebooks/learn/slides.toml"]
NOT_PUBLIC = re.compile(r"qlstm\.(course|workflow|__main__)|.*\.triton_")
"""Modules that are not in the reference: commands, exercises, and the insides of the kernels."""
OVERVIEW = "notebooks/report/overview.ipynb"
FILES = ["figures/*", "tables/*", "scorecard.csv", "runs/*/record.json", "runs/*/notebook.html",
         "notebooks/learn/*.html"]
"""What the results of a profile may link to, as patterns in its folder."""
FINDING = ["figures/main_result.png", "figures/main_result_narrow.png"]
"""The main figure, which a checkout has without its page."""


def collect(folder: Path, profiles: list[str], first: str = ""):
    """Write the sources of the site.

    Args:
        folder: where; it does not exist yet.
        profiles: names of the profiles whose results are shown.
        first: that of the one whose main figure is, if any; it may have no page.
    """
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns(".*"))
    for path in files(ROOT, *GUIDES):
        _copy(path, folder / path.relative_to(ROOT))
    for path in [*lessons(), *pages(), *files(ROOT, *NOTEBOOKS)]:
        _notebook(path, folder / path.relative_to(ROOT))
    modules = [module.name for module in pkgutil.walk_packages(qlstm.__path__, "qlstm.")
               if not NOT_PUBLIC.match(module.name)]
    (folder / "api").mkdir()
    for name in modules:
        (folder / "api" / f"{name}.rst").write_text(
            f"{name}\n{'=' * len(name)}\n\n.. automodule:: {name}\n")
    _fill(folder / "api.rst", {"MODULES": "\n   ".join(modules)})
    for profile in profiles:
        copy_files(profile, folder)
        for path in files(reports() / profile / "notebooks", "[er]*/*.ipynb"):
            place = folder / path.relative_to(reports())
            _notebook(path, folder / profile / "index.ipynb" if path.match(OVERVIEW) else place,
                      hidden="remove-input" if path.match(OVERVIEW) else "hide-input")
    if first:
        copy_files(first, folder, FINDING)
    doors = [f"- [Results of profile {name}]({name}/index.ipynb): tables, figures, claims"
             for name in profiles]
    _fill(folder / "index.md", {
        "FINDING": _finding(first, profiles), "DOORS": "\n".join(doors),
        "RESULTS": "\n".join(f"Profile {name} <{name}/index>" for name in profiles)})


def copy_files(profile: str, folder: Path, patterns: list[str] = FILES):
    """Copy what the results of a ``profile`` link to, files of these ``patterns``, into a
    ``folder``."""
    for path in files(reports() / profile, *patterns):
        _copy(path, folder / path.relative_to(reports()))


def _copy(source: Path, target: Path):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _fill(path: Path, values: dict[str, str]):
    text = path.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(name, value)
    path.write_text(text, encoding="utf-8")


def _notebook(source: Path, target: Path, hidden: str | None = None):
    """Copy a notebook; ``hidden`` is myst-nb's tag of what becomes of its code."""
    import nbformat

    notebook = page.read(source)
    notebook.cells = [cell for cell in notebook.cells
                      if "colab" not in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        tags = cell.metadata.setdefault("tags", [])
        tags += ["hide-cell"] * ("solution" in tags) + [hidden] * (hidden is not None)
        for output in cell.get("outputs", []):
            for kind in {"text/html", "text/markdown"} & set(output.get("data", {})):
                output.data[kind] = page.to_pages(output.data[kind], r"""(?:href=["']|\]\()""")
    if hidden == "remove-input":
        notebook.cells.append(nbformat.v4.new_markdown_cell(
            "## All reports\n\n```{toctree}\n:maxdepth: 1\n:glob:\nnotebooks/*/*\n```"))
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


def _finding(first: str, profiles: list[str]) -> str:
    """The main figure of the profile ``first``, and its sentence, in Markdown; a link to its
    results if it is one of those that are shown (``profiles``)."""
    if not first:
        return "No results yet: `make reproduce` makes some, and `make site` shows them here."
    sentence = figures.main_sentence(records.load_all(first))
    picture = f"""<picture>
<source media="(max-width: 700px)" srcset="{first}/figures/main_result_narrow.png">
<img src="{first}/figures/main_result.png" alt="{sentence}">
</picture>"""
    if first in profiles:
        picture = f'<a href="{first}/index.html">{picture}</a>'
    return f"{picture}\n\n**{sentence}** (Profile `{first}`.)"


def with_results() -> list[str]:
    """The profiles whose page is made: it is written when its overview is there in full."""
    return [name for name in reversed(PROFILES)
            if all((reports() / name / file).exists() for file in (OVERVIEW, "index.html"))]


def with_finding(profiles: Iterable[str]) -> str:
    """The first of the ``profiles`` that has records and the main figure; empty if none has."""
    return next((name for name in profiles if (reports() / name / FINDING[0]).exists()
                 and any((reports() / name).glob("runs/*/record.json"))), "")


def main(arguments: list[str]) -> int:
    """``python -m qlstm site [PROFILE ...]``: write ``reports/site``.

    Args:
        arguments: of the command line: names of profiles; none: all that have results.

    Returns:
        The exit status: 2 for a profile that is unknown or has no results, or where Sphinx fails.
    """
    needs("site", "sphinx", "myst_nb", "sphinx_book_theme")
    made, site = with_results(), reports() / "site"
    try:
        for name in arguments:
            if name not in PROFILES:
                raise ConfigError(unknown("profile", name, PROFILES))
            if name not in made:
                raise ConfigError(
                    f"profile {name} has no results yet: make reproduce PROFILE={name}")
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            first = with_finding(arguments or reversed(PROFILES))
            collect(source, arguments or made, first)
            # built there, for myst-nb writes beside the site too
            done = subprocess.run([sys.executable, "-m", "sphinx", "-q", source, f"{folder}/site"])
            if done.returncode:
                return done.returncode  # Sphinx has said why
            shutil.rmtree(site, ignore_errors=True)
            shutil.copytree(f"{folder}/site", site, ignore=shutil.ignore_patterns(".doctrees"))
    except (ConfigError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for profile in arguments or made:
        copy_files(profile, site)
    if first:
        copy_files(first, site, FINDING)
    print(f"Open {os.path.relpath(site / 'index.html')}")
    return 0
