"""An executed notebook as one page for a browser, which needs no server, script or network."""

import re
from pathlib import Path

TEMPLATE = Path(__file__).with_name("page.html.j2")
CODE_STYLE = "xcode"
"""Pygments' style of code; its colours reach a contrast of 4.5 on the ground of code."""
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN = ["image/png", "image/jpeg", "text/html", "text/markdown", "text/plain"]
"""The kinds of a result that a page can show, the best first; not widgets and scripts, which need a
server."""


def html(path: Path, code: bool = True) -> str:
    """The page of a notebook; links to notebooks lead to their pages.

    Args:
        path: of the notebook, with its outputs.
        code: whether to show the code of its cells.
    """
    from nbconvert import HTMLExporter  # it takes a second, so not at the top
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(
        template_name="basic", template_file=str(TEMPLATE), filters={"markdown2html": markdown},
        exclude_input=not code, exclude_input_prompt=True, exclude_output_prompt=True,
        config={"NbConvertBase": {"display_data_priority": SHOWN}})
    style = HtmlFormatter(style=CODE_STYLE, nobackground=True).get_style_defs(".highlight")
    return to_pages(exporter.from_notebook_node(read(path), {"code_style": style})[0])


def markdown(text: str) -> str:
    """Markdown, with formulas between dollars, as HTML.

    Args:
        text: the Markdown.
    """
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body):
            return mathml(body)

        def block_math(self, body):
            return mathml(body, "block")

    return MarkdownWithMath(renderer=Renderer(escape=False)).render(text)


def to_pages(text: str, opening: str = """href=["']""") -> str:
    """Lead links to notebooks to their pages.

    Args:
        text: HTML, or Markdown.
        opening: what stands before an address, as a regular expression.
    """
    return re.sub(rf"""({opening}(?![a-z]+:)[^"'#)]+)\.ipynb""", r"\1.html", text)


def mathml(tex: str, display: str = "inline") -> str:
    """A formula of LaTeX as MathML, which browsers show by themselves.

    Args:
        tex: the formula, without dollars.
        display: ``inline``, or ``block`` for a line of its own.
    """
    from latex2mathml.converter import convert

    # HTML knows the name space by itself; in a heading nbconvert would put it before every name
    return convert(tex, display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "")


def read(path: Path):
    """A notebook in which every picture is described, and every widget a line that says so.

    Args:
        path: of the notebook.

    Returns:
        The notebook's node; its metadata ``title`` is its first heading. What the pictures of a
        cell show is in the cell's metadata ``alt``: what they say of themselves, else what the
        author gave, else the heading and the sentence before.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    notebook.metadata.title = next(filter(None, map(_heading, texts)), Path(path).stem)
    heading, sentence = notebook.metadata.title, ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = _heading(cell.source) or heading
            sentence = _first_sentence(cell.source)
        elif cell.cell_type == "code":
            ended = heading if heading[-1] in ".?!" else f"{heading}."
            cell.metadata.setdefault("alt", f"{ended} {sentence}".strip())
            shown = [output.get("metadata", {}).get("image/png", {}) for output in cell.outputs]
            own = [details["alt"] for details in shown if "alt" in details]
            cell.metadata.alt = " ".join(own) or cell.metadata.alt
            cell.metadata.mystnb = {"image": {"alt": cell.metadata.alt}}  # where Sphinx looks
            if "widget" in cell.metadata.get("tags", []) and not cell.outputs:
                cell.outputs = [nbformat.v4.new_output("display_data", {WIDGET: {}})]
            for output in cell.outputs:
                if WIDGET in output.get("data", {}):
                    output.data = {"text/markdown": "*Interactive in JupyterLab.*"}
    return notebook


def _heading(text: str) -> str | None:
    found = re.search(r"^#+\s+(.*)", text, re.M)
    return found and _plain(found[1])


def _first_sentence(text: str) -> str:
    words = _plain(re.sub(r"(?m)^[#|<].*$", "", re.sub(r"(?s)\$\$.*?\$\$", "", text)))
    return re.split(r"(?<=[.?!:])\s", words, maxsplit=1)[0]


def _plain(text: str) -> str:
    """Markdown as words: without marks, and formulas by the names of their letters."""
    text = re.sub(r"\\(?:hat|tilde|operatorname|mathcal|text)\s*|\\[,;!]|\*", "", text)
    return re.sub(r"[`$\\{}]|\]\([^)]*\)|\[", "", re.sub(r"\\[lr]Vert\b", "‖", text)).strip()
