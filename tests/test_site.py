"""The site and the pages: complete, without network, described, readable."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from made_up import made_up
from pygments.styles import get_style_by_name

from qlstm import ExperimentConfig
from qlstm.data.storage import ROOT
from qlstm.report import pages, site
from qlstm.study import records

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d494844520000000100000001080600000"
        "01f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082")
).decode()


LOADS = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"),
         ("object", "data")}


class Page(HTMLParser):
    """What a page loads, links to and names."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids, self.pictures, self.levels, self.scripts = (
            [], [], [], [], [], 0)
        self.styles = "".join(re.findall(r"<style.*?</style>", text, re.S))
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [value for name, value in attributes if (tag, name) in LOADS]
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.scripts += tag == "script"
        self.pictures += [found] if tag == "img" else []
        self.levels += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []


def faults(folder):
    """Everything that is wrong with the pages below a folder, a line each."""
    found = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))
             if path.parent.name != "tables"}
    for path, page in found.items():
        name = path.relative_to(folder)
        yield from (f"{name} loads {load}" for load in page.loads
                    if not load.startswith("data:") and "//" in load)
        yield from (
            f"{name} loads {load}" for load in re.findall(r"@import[^;]*|url\([^)]*\)", page.styles)
        )
        yield from [f"{name} has a script"] * bool(page.scripts)
        yield from [f"{name} has a picture without a description"] * (
            not all((picture.get("alt") or "").strip() for picture in page.pictures))
        yield from (f"{name} has two of id {i}" for i in set(page.ids) if page.ids.count(i) > 1)
        yield from [f"{name} has {page.levels.count(1)} headings of level 1"] * (
            page.levels.count(1) != 1)
        for target in [*page.links, *(load for load in page.loads if not load.startswith("data:"))]:
            if re.match(r"https?:|mailto:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            to = (path.parent / file).resolve() if file else path
            if not to.is_file():
                yield f"{name}: {target} is not there"
            elif anchor and anchor not in found[to].ids:
                yield f"{name}: {target} has no such anchor"


def cell(source="", *outputs, **metadata):
    made = nbformat.v4.new_code_cell(source, metadata=metadata)
    made.outputs = [nbformat.v4.new_output("display_data", data) for data in outputs]
    return made


def write_notebook(path, *cells, **metadata):
    text = nbformat.v4.new_markdown_cell
    notebook = nbformat.v4.new_notebook(
        cells=[text(c) if isinstance(c, str) else c for c in cells], metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of the real lessons and reference, with a made-up run as results."""
    results = tmp_path_factory.mktemp("reports")
    folder = results / "smoke"
    config = ExperimentConfig(profile="smoke", quantizer="bwn")
    directory = records.run_directory(config, results)
    directory.mkdir(parents=True)
    records.save(made_up(config), directory / "record.json")
    write_notebook(directory / "notebook.ipynb", "# A run", cell("1"))
    (folder / "plan.json").write_text('{"failures": {}}')
    for kind in ("png", "pdf"):
        (folder / "figures").mkdir(exist_ok=True)
        (folder / "figures" / f"figure_01.{kind}").write_bytes(base64.b64decode(PIXEL))
    for kind in ("csv", "md", "tex", "html"):
        (folder / "tables").mkdir(exist_ok=True)
        (folder / "tables" / f"table_2.{kind}").write_text("<table><tr><td>1</td></tr></table>")
    for name in ("table_2", "figure_01"):
        write_notebook(
            folder / "notebooks" / "report" / f"{name}.ipynb", f"# The {name}", cell("1"))
    assert site.Site(results / "site", ROOT, results, ["smoke"]).build() > 30
    return results / "site"


def test_nothing_is_wrong_with_the_site(built):
    assert list(faults(built)) == []


def test_the_site_has_every_lesson_module_and_result(built):
    home = Page((built / "index.html").read_text())
    for lesson in (ROOT / "notebooks" / "learn").glob("*.ipynb"):
        assert f"notebooks/learn/{lesson.stem}.html" in home.links
    assert {"smoke/index.html", "smoke/notebooks/report/table_2.html", "api/index.html"} <= set(
        home.links)
    reference = Page((built / "api" / "index.html").read_text())
    for path in (ROOT / "qlstm").rglob("[a-z]*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        assert f"{name}.html" in reference.links
    assert "qlstm.layer.html#QuantLSTM" in reference.links
    shown = (built / "smoke" / "index.html").read_text()
    assert "Scorecard" in shown
    assert "../notebooks/learn/01_" in shown


def test_formulas_of_lessons_and_reference_are_typeset(built):
    for path in built.rglob("*.html"):
        text = path.read_text()
        assert 'class="formula-error"' not in text, path
        prose = re.sub(r"<pre.*?</pre>|<code.*?</code>|<style.*?</style>|src=\"data:[^\"]*\"", "",
                       text, flags=re.S)
        assert not re.search(r"\$[^$<]*\\[a-z]+[^$<]*\$", prose), path
    assert (built / "notebooks" / "learn" / "01_quantizers.html").read_text().count("<math") > 20


def test_faults_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="x">A</h1><h1 id="x">B</h1><img src="no.png" alt=" "><script src="https://cdn.example/x.js"></script>'
        '<style>@import "x";</style><a href="b.html">b</a><a href="#y">y</a><a href="https://example.org">read</a>'
    )
    assert sorted(line.partition("a.html")[2] for line in faults(tmp_path)) == [
        " has 2 headings of level 1", " has a picture without a description", " has a script",
        " has two of id x", ' loads @import "x"', " loads https://cdn.example/x.js",
        ": #y has no such anchor", ": b.html is not there", ": no.png is not there"]


def test_a_notebook_as_a_page(tmp_path):
    state = {
        "box": {"model_name": "VBoxModel",
                "state": {"children": ["IPY_MODEL_slider", "IPY_MODEL_out"]}},
        "slider": {"model_name": "IntSliderModel", "state": {"description": "bits", "value": 2}},
        "out": {
            "model_name": "OutputModel",
            "state": {
                "outputs": [
                    {"output_type": "stream", "name": "stdout", "text": "what it showed last"}]
            },
        },
    }
    notebook = write_notebook(
        tmp_path / "n.ipynb",
        "# Why $\\hat W_j$?\n\nThe *first* sentence, on $x$. A second.\n\n| a |\n|---|\n| 1 |",
        cell("plot()", {"image/png": PIXEL, "text/plain": "<Figure>"}),
        "## Look\n\n[next](other.ipynb#part), [gone](gone.ipynb), [web](https://example.org), "
        "`qlstm.run()`",
        cell("two()", {"image/png": PIXEL}, alt='Two "lines" < one'),
        cell("table", {"text/html": "<table><tr><td>7</td></tr></table>", "text/plain": "7"}),
        cell("1 + 1", tags=["solution"]),
        cell("slider", {pages.WIDGET: {"model_id": "box"}, "text/plain": "VBox()"}),
        cell("not run", tags=["widget"]),
        cell("js", {"application/javascript": "alert(1)", "text/plain": "script"}),
        widgets={pages.WIDGET_STATE: {"state": state}},
    )
    links = {"other.ipynb#part": "other.html#part"}
    title, body = pages.notebook_cells(notebook, links.get, {"qlstm.run()": "run.html"}.get)
    assert title == "Why W_j?"
    assert [found["alt"] for found in Page(body).pictures] == [
        "Why W_j? The first sentence, on x.", 'Two "lines" < one']
    assert '<a href="other.html#part">next</a>, gone, <a href="https://example.org">web</a>' in body
    assert '<a href="run.html"><code>qlstm.run()</code></a>' in body
    assert re.search(r"<msub>\s*<mover accent=\"true\">\s*<mi>W</mi>", body)
    assert re.search(r'<details class="aside"><summary>Solution</summary>\s*<div[^>]*>', body)
    assert re.findall(r"Interactive in JupyterLab.*?<", body) == [
        "Interactive in JupyterLab: bits.<", "Interactive in JupyterLab.<"]
    assert "what it showed last" in body
    assert len(re.findall(r'<div aria-label="table"[^>]* role="region" tabindex="0">', body)) == 2
    assert "<script" not in body
    assert "alert" not in body


def contrast(one, other):
    """WCAG 2's ratio of two colours as "rrggbb"."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_from_its_background():
    assert contrast("000000", "ffffff") == pytest.approx(21)
    assert contrast("777777", "ffffff") == pytest.approx(4.48, abs=0.005)  # just not enough
    style = (pages.TEMPLATES / "style.css").read_text()
    colours = dict(re.findall(r"--([\w-]+): #(\w{6})", style))
    for text in ("text", "quiet", "link", "good", "bad"):
        assert contrast(colours[text], colours["paper"]) >= 4.5, text
    for ground in ("code", "note", "alarm"):
        assert contrast(colours["text"], colours[ground]) >= 4.5, ground
        assert contrast(colours["link"], colours[ground]) >= 4.5, ground
    tokens = {str(kind): token["color"] for kind, token in get_style_by_name(pages.CODE_STYLE)
              if token["color"]}
    weak = {kind: c for kind, c in tokens.items()
            if contrast(c, colours["code"]) < 4.5 and "Whitespace" not in kind}
    assert weak == {}


def test_a_profile_without_results_is_one_clear_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    for name, words in [("quik", "did you mean 'quick'"),
                        ("quick", "make reproduce PROFILE=quick")]:
        assert site.main([name]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert words in error
    assert not Path(tmp_path / "site").exists()
