"""Slides for the classes: what ``notebooks/learn/slides.toml`` says, with pictures and tables as
they are stored in the lessons. Each deck is one file, which needs no network and no server."""

import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from qlstm.course import pictures
from qlstm.course.handouts import LEARN
from qlstm.data.storage import write_atomically
from qlstm.errors import LineError, needs, unknown
from qlstm.report import page

CONTENT = LEARN / "slides.toml"
TEMPLATE = Path(__file__).with_name("slides.html.j2")
FIELDS = {"title", "points", "formula", "cell", "picture", "notes", "minutes"}
"""What a slide can have."""
KEYS = "*Arrow keys; S: notes in a window of their own, N: beside the slide, F: full screen*"
KINDS = ["image/png", "text/html", "text/plain"]
"""The kinds of an output that a slide can show, the best first."""


class SlideError(LineError):
    """Slides that cannot be made; one line that names the deck and the slide."""


def write(folder: Path) -> list[Path]:
    """Write one HTML file for each class.

    Args:
        folder: Where to.

    Returns:
        The files.

    Raises:
        MissingError: The package that brings reveal.js is not installed.
        SlideError: The description of a slide is wrong, or names what is not there.
    """
    needs("slides", "nbconvert", "latex2mathml", "sphinx_revealjs")
    written = []
    for deck in decks():
        path = folder / f"{deck['file']}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, html(deck).encode())
        written.append(path)
    return written


def decks(content: Path = CONTENT) -> list[dict[str, Any]]:
    """The decks as they are described: title, file and slides of each.

    Args:
        content: The description, a TOML file.
    """
    try:
        found = tomllib.loads(content.read_text(encoding="utf-8")).get("deck", [])
    except (OSError, ValueError) as error:
        raise SlideError(f"cannot read {content.name}: {error}") from error
    for deck in found:
        _complete(deck, "file", "title", "subtitle", "slides")
    return found


def html(deck: dict[str, Any]) -> str:
    """A deck as one page of HTML.

    Args:
        deck: As :func:`decks` gives it.
    """
    from nbconvert import SlidesExporter

    exporter = SlidesExporter(
        template_file=str(TEMPLATE), filters={"markdown2html": page.markdown})
    assets = Path(find_spec("sphinx_revealjs").origin).parent / "_static" / "revealjs"
    files = {"css": "dist/reveal.css", "script": "dist/reveal.js", "notes": "plugin/notes/notes.js"}
    return exporter.from_notebook_node(notebook(deck), {"files": {
        name: (assets / path).read_text(encoding="utf-8") for name, path in files.items()}})[0]


def notebook(deck: dict[str, Any]) -> NotebookNode:
    """A deck as a notebook of slides, which is executed already.

    Args:
        deck: As :func:`decks` gives it.

    Raises:
        SlideError: The lesson, cell or picture that a slide shows is not there.
    """
    cells = [_cell(f"# {deck['title']}\n\n{deck['subtitle']}\n\n{KEYS}", "slide")]
    for number, slide in enumerate(deck["slides"], start=1):
        try:
            cells += _slide(slide)
        except SlideError as error:
            raise SlideError(f"{deck['file']}, slide {number} ({slide.get('title')}): {error}"
                             ) from error
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": deck["title"]})


def _slide(slide: dict[str, Any]) -> list[NotebookNode]:
    for name in set(slide) - FIELDS:
        raise SlideError(unknown("field", name, sorted(FIELDS)))
    _complete(slide, "title", "notes", "minutes")
    points = "".join(f"- {point}\n" for point in slide.get("points", []))
    formula = f"$${slide['formula']}$$" if "formula" in slide else ""
    cells = [_cell(f"## {slide['title']}\n\n{points}\n\n{formula}", "slide")]
    if shown := _shown(slide):
        cells.append(nbformat.v4.new_code_cell(
            outputs=[shown], metadata={"slideshow": {"slide_type": "-"}}))
    notes = f"{slide['notes']}\n\n{slide['minutes']} minutes"
    return [*cells, _cell(notes, "notes")]


def _complete(table, *names):
    if missing := [name for name in names if name not in table]:
        raise SlideError(f"{table.get('title', 'a deck or slide')} has no {', '.join(missing)}")


def _cell(text, kind):
    return nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def _shown(slide):
    """What a slide shows below its points: an output of a lesson's cell, a diagram, or nothing."""
    if "picture" in slide:
        if slide["picture"] not in pictures.__all__:
            raise SlideError(unknown("picture", slide["picture"], pictures.__all__))
        data, metadata = getattr(pictures, slide["picture"])()._repr_mimebundle_()
        return nbformat.v4.new_output("display_data", data, metadata=metadata)
    if "cell" not in slide:
        return None
    name, _, number = slide["cell"].partition(" ")
    path = LEARN / f"{name}.ipynb"
    if not path.is_file():
        raise SlideError(f"there is no {path.name}")
    cell = next((cell for cell in page.read(path).cells if cell.id == number), {})
    for kind in KINDS:
        for output in cell.get("outputs", []):
            data = output.get("data") or {"text/plain": output.get("text")}
            if content := data.get(kind):
                return nbformat.v4.new_output(
                    "display_data", {kind: content}, metadata={kind: {"alt": cell.metadata.alt}})
    raise SlideError(f"{path.name} has no cell {number} with an output that can be shown")
