"""Pages for a browser without server, script or network: one style, notebooks, Markdown, formulas
as MathML."""

import functools
import html
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader

TEMPLATES = Path(__file__).parent / "templates"
CODE_STYLE = "xcode"
"""Pygments' style of code; the colours of its tokens reach a contrast of 4.5 on the style sheet's
``--code``."""
PICTURES = ["image/svg+xml", "image/png", "image/jpeg"]
SHOWN = [*PICTURES, "text/html", "text/markdown", "text/latex", "text/plain"]
"""The kinds of a result that a page can show, the best first; not widgets and scripts, which need a
server."""
WIDGET, WIDGET_STATE = ("application/vnd.jupyter.widget-view+json",
                        "application/vnd.jupyter.widget-state+json")


def render(template: str, **values) -> str:
    """The page of a template.

    Args:
        template: the name of a file in ``templates/``.
        values: what fills it: ``title``, ``body``, ``menu``, ...
    """
    from pygments.formatters import HtmlFormatter

    environment = Environment(loader=PackageLoader("qlstm.report"), autoescape=True,
                              trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    code_style = HtmlFormatter(style=CODE_STYLE, nobackground=True).get_style_defs(".highlight")
    return environment.get_template(template).render(code_style=code_style, **values)


def mathml(tex: str, block: bool = False) -> str:
    """A formula of LaTeX as MathML, which browsers show by themselves.

    Args:
        tex: the formula, without dollars.
        block: whether it stands on a line of its own.

    Returns:
        A ``math`` element. A formula that cannot be converted is shown as it was written, in an
        element of class ``formula-error``.

    Example:
        >>> mathml(r"w^2").replace("\\n", "").replace("  ", "")
        '<math xmlns="http://www.w3.org/1998/Math/MathML"><msup><mi>w</mi><mn>2</mn></msup></math>'
    """
    from docutils.utils.math import MathError
    from docutils.utils.math.latex2mathml import tex2mathml

    # docutils reads \tfrac14 as 14 over what follows
    source = re.sub(r"(\\[td]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", tex)
    try:
        converted = tex2mathml(source, as_block=block)
    except (MathError, IndexError, AttributeError):  # the last: a line break without environment
        return f'<code class="formula-error">{html.escape(tex)}</code>'
    return _typeset(converted.replace("&ApplyFunction;", "\u2061"))


def _typeset(formula: str) -> str:
    """Mend what docutils' MathML leaves out: indices of accented letters, the spaces around bars
    and functions."""
    root = ElementTree.fromstring(
        formula.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', ""))
    for element in root.iter():
        accent = element[-1].text if len(element) else None
        if element.tag == "munderover" and accent in ("ˆ", "~", "¯", "˙", "→"):
            base, index, mark = element
            element.tag, element[:] = "msub", [ElementTree.Element("mover", accent="true"), index]
            element[0].extend([base, mark])
        if element.tag == "mo" and element.text in ("|", "‖"):
            element.attrib |= {"lspace": "0", "rspace": "0"}
        if element.text == "ˆ":
            element.text = "^"  # the circumflex proper sits too low in some fonts
        for place, (before, child) in reversed(list(enumerate(itertools.pairwise(element)))):
            if (child.get("mathvariant") == "normal" and len(child.text) > 1
                and before.tag not in ("mo", "mspace")):
                element.insert(place + 1, ElementTree.Element("mspace", width="0.17em"))
    root.set("xmlns", "http://www.w3.org/1998/Math/MathML")
    return ElementTree.tostring(root, encoding="unicode")


@functools.cache
def _renderer():
    """The class that turns Markdown into HTML; nbconvert takes a second to import, so not at the
    top."""
    from nbconvert.filters.markdown_mistune import IPythonRenderer

    class Renderer(IPythonRenderer):
        def __init__(self, link=None, code_link=None):
            super().__init__(escape=False)
            self._link, self._code_link = link, code_link

        def inline_math(self, body):
            return mathml(body)

        def block_math(self, body):
            return mathml(body, block=True)

        def latex_environment(self, name, body):
            return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", block=True)

        def link(self, text, url, title=None):
            if self._link is not None and not re.match(r"[a-z]+:|#", url):
                url = self._link(url)
            return text if url is None else super().link(text, url, title)

        def heading(self, text, level, **attributes):
            name = re.sub(
                r"\s+", "-",
                html.unescape(re.sub(r"<math.*?</math>|<[^>]*>", "", text, flags=re.S)).strip())
            mark = (f'<a class="anchor-link" href="#{quote(name)}" '
                    'aria-label="Link to this section">¶</a>')
            return f'<h{level} id="{html.escape(name)}">{text}{mark}</h{level}>\n'

        def block_code(self, code, info=None):
            shown = super().block_code(code, info)
            shown = f'<div class="highlight">{shown}</div>' if shown.startswith("<pre>") else shown
            return shown.replace("<div ", '<div tabindex="0" role="group" aria-label="code" ', 1)

        def codespan(self, text):
            url = self._code_link(text) if self._code_link is not None else None
            code = super().codespan(text)
            return code if url is None else f'<a href="{url}">{code}</a>'

        def table(self, text):
            return ('<div class="wide" tabindex="0" role="region" aria-label="table">'
                    f"<table>{text}</table></div>")

    return Renderer


def markdown(text: str, link: Callable | None = None, code_link: Callable | None = None) -> str:
    """The HTML of a text in Markdown, formulas between dollars included.

    Args:
        text: the Markdown.
        link: from a relative address to that of its page, or to None where there is no page (the
            text then stays without a link).
        code_link: from the text of a code span to an address, or to None.
    """
    from nbconvert.filters.markdown_mistune import MarkdownWithMath

    return MarkdownWithMath(renderer=_renderer()(link, code_link)).render(text)


def title_of(text: str) -> str | None:
    """The first heading of a Markdown ``text``, without its marks; None where there is none."""
    heading = re.search(r"^#+\s+(.*)", text, re.M)
    return heading and _plain(heading[1])


def _plain(text: str) -> str:
    """Markdown as words: without marks, and formulas by the names of their letters."""
    text = re.sub(r"\*+([^*]+)\*+", r"\1", text)
    text = re.sub(r"\\(?:hat|tilde|operatorname|mathcal|text)\s*|\\[,;!]", "",
                  re.sub(r"\\[lr]Vert\b", "‖", text))
    return re.sub(r"[`$\\{}]|\]\([^)]*\)|\[", "", text).strip()


def _prepare(notebook):
    """Give every picture a description, and an interactive control what it showed last."""
    import nbformat

    heading, sentence = "Figure", ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = title_of(cell.source) or heading
            text = " ".join(
                line for line in cell.source.splitlines() if not line.startswith(("#", "|", "<")))
            sentence = re.split(
                r"(?<=[.?!:])\s", _plain(re.sub(r"\$\$.*?\$\$", "", text)), maxsplit=1)[0]
            continue
        if cell.cell_type != "code":
            continue
        # a widget is stored without its state
        if "widget" in cell.metadata.get("tags", []) and not cell.outputs:
            cell.outputs = [nbformat.v4.new_output("display_data", {WIDGET: {"model_id": ""}})]
        cell.outputs = [
            shown for output in cell.outputs for shown in _without_widget(output, notebook)]
        for output in cell.outputs:
            for kind in set(output.get("data", {})) & set(PICTURES):
                told = f"{heading if heading[-1] in '.?!' else heading + '.'} {sentence}".strip()
                described = output.setdefault("metadata", {}).setdefault(kind, {})
                described.setdefault("alt", cell.metadata.get("alt") or told)


def _without_widget(output, notebook) -> list:
    """The ``output`` itself; of a widget, a line that says what it is, and the outputs it holds."""
    import nbformat

    if WIDGET not in output.get("data", {}):
        return [output]
    models = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    names, held, waiting = [], [], [output.data[WIDGET]["model_id"]]
    while waiting:
        state = models.get(waiting.pop(0), {}).get("state", {})
        waiting += [child.removeprefix("IPY_MODEL_") for child in state.get("children", [])]
        names += [state["description"]] if state.get("description") else []
        held += [nbformat.from_dict(shown) for shown in state.get("outputs", [])]
    names = f": {', '.join(names)}" if names else ""
    note = f'<p class="widget">Interactive in JupyterLab{html.escape(names)}.</p>'
    return [nbformat.v4.new_output("display_data", {"text/markdown": note}), *held]


def notebook_cells(
    path: Path, link: Callable | None = None, code_link: Callable | None = None
) -> tuple[str, str]:
    """Title and HTML of a notebook with its stored outputs.

    Args:
        path: of the notebook.
        link: as in :func:`markdown`.
        code_link: as in :func:`markdown`.
    """
    import nbformat
    from jinja2 import pass_context
    from nbconvert import HTMLExporter

    class Exporter(HTMLExporter):
        @pass_context
        def markdown2html(self, context, source):
            return markdown(source, link, code_link)

    notebook = nbformat.read(path, as_version=4)
    _prepare(notebook)
    exporter = Exporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)],
                        config={"NbConvertBase": {"display_data_priority": SHOWN}})
    body, _ = exporter.from_notebook_node(notebook)
    titles = (title_of(cell.source) for cell in notebook.cells if cell.cell_type == "markdown")
    return next(filter(None, titles), Path(path).stem), body
