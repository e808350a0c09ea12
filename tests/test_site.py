"""The site and the pages: complete, without network, described, readable."""

import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import pytest
from made_up import made_up, quick
from pygments.styles import get_style_by_name

from qlstm.data import storage
from qlstm.data.storage import ROOT
from qlstm.report import page, site
from qlstm.study import records
from qlstm.workflow.notebooks import to_html

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d494844520000000100000001080600000"
        "01f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082")
).decode()
LOADS = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"),
         ("source", "srcset"), ("object", "data")}
FROM_OUTSIDE = (r"""@import[^;]*//[^;]*|url\(["']?(?:https?:)?//[^)]*"""
                r"""|(?:import|from)\s*\(?["']https?:""")


class Page(HTMLParser):
    """What a page loads, links to and names."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids, self.pictures, self.language = [], [], set(), [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found.get("id"), found.get("name")}
        self.loads += [value for name, value in attributes if (tag, name) in LOADS]
        self.links += [found["href"]] if tag == "a" and found.get("href") else []
        self.pictures += [found.get("alt") or ""] if tag == "img" else []
        self.language = found.get("lang") if tag == "html" else self.language


def faults(folder):
    """Everything that is wrong with the pages below a folder, a line each."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html"))
             if path.parent.name not in ("tables", "_static")}
    for path, made in pages.items():
        name = path.relative_to(folder)
        yield from (f"{name} loads {load}" for load in made.loads
                    if "//" in load and not load.startswith("data:"))
        yield from [f"{name} has a picture without a description"] * (
            not all(alt.strip() for alt in made.pictures))
        yield from [f"{name} has no language"] * (made.language is None)
        for target in [*made.links, *made.loads]:
            if re.match(r"[a-z]+:|//", target):
                continue
            file, _, anchor = unquote(target.partition("?")[0]).partition("#")
            to = (path.parent / file).resolve() if file else path
            if not to.is_file():
                yield f"{name}: {target} is not there"
            elif anchor and to in pages and anchor not in pages[to].ids:
                yield f"{name}: {target} has no such anchor"
    for path in (path for kind in ("html", "css", "js") for path in folder.rglob(f"*.{kind}")):
        for found in re.findall(FROM_OUTSIDE, path.read_text()):
            yield f"{path.relative_to(folder)} loads {found}"


def cell(source="", *outputs, **metadata):
    made = nbformat.v4.new_code_cell(source, metadata=metadata)
    made.outputs = [nbformat.v4.new_output("display_data", data) for data in outputs]
    return made


def write_notebook(path, *cells):
    text = nbformat.v4.new_markdown_cell
    notebook = nbformat.v4.new_notebook(
        cells=[text(c) if isinstance(c, str) else c for c in cells],
        metadata={"language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of the real lessons and reference, with made-up runs as results."""
    results = tmp_path_factory.mktemp("reports")
    folder = results / "quick"
    for quantizer, normalizer, test in [("full_precision", "none", 2.5),
                                        ("binary_connect", "none", 4.5),
                                        ("binary_connect", "layer", 2.6)]:
        config = quick(quantizer, normalizer)
        directory = records.run_directory(config, results)
        directory.mkdir(parents=True)
        records.save(made_up(config, test), directory / "record.json")
    (folder / "figures").mkdir()
    for name in ("main_result", "main_result_narrow"):
        (folder / "figures" / f"{name}.png").write_bytes(base64.b64decode(PIXEL))
    (folder / "scorecard.csv").write_text("claim\n")
    picture = cell("figure", {"image/png": PIXEL})
    write_notebook(folder / site.OVERVIEW, "# What came out", picture,
                   cell("secret = 1", {"text/html": "<a href='scorecard.csv'>CSV</a> "
                        "<a href='notebooks/report/table_2.html'>Table 2</a>"}))
    write_notebook(folder / "notebooks/report/table_2.ipynb", "# Table 2", cell("secret = 1"))
    (folder / "index.html").touch()
    done = subprocess.run([sys.executable, "-m", "qlstm", "site"], capture_output=True, text=True,
                          cwd=ROOT, env=os.environ | {"QLSTM_REPORTS": str(results)})
    assert (done.returncode, done.stderr) == (0, "")  # Sphinx has nothing to complain of
    return results / "site"


def test_nothing_is_wrong_with_the_site(built):
    assert list(faults(built)) == []


def test_the_site_has_every_lesson_module_and_result(built):
    home = (built / "index.html").read_text()
    for lesson in storage.lessons():
        assert f"notebooks/learn/{lesson.stem}.html" in Page(home).links
    assert home.index("<img") < home.index("With weights of one or two bits")
    assert "quick/index.html" in Page(home).links
    overview = (built / "quick/index.html").read_text()
    assert Page(overview).links.count("notebooks/report/table_2.html") >= 3  # text, list, menu
    assert "secret" not in overview
    assert "secret" in (built / "quick/notebooks/report/table_2.html").read_text()
    reference = Page((built / "api.html").read_text()).links
    for name in ("layer", "quantizers", "study.theory.propositions", "report.tables"):
        assert f"api/qlstm.{name}.html#module-qlstm.{name}" in reference
    assert 'id="qlstm.lstm.QuantLSTM"' in (built / "api/qlstm.lstm.html").read_text()


def test_a_checkout_shows_its_finding_before_any_page_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    assert (site.with_finding(["paper", "quick"]), site.with_results()) == ("", [])
    config = quick("binary_connect", "layer")
    directory = records.run_directory(config, tmp_path)
    directory.mkdir(parents=True)
    records.save(made_up(config), directory / "record.json")
    assert site.with_finding(["paper", "quick"]) == ""
    (tmp_path / "quick" / "figures").mkdir()
    (tmp_path / "quick" / "figures" / "main_result.png").write_bytes(base64.b64decode(PIXEL))
    assert site.with_finding(["paper", "quick"]) == "quick"
    site.collect(tmp_path / "source", [], "quick")
    home = (tmp_path / "source" / "index.md").read_text()
    assert '<img src="quick/figures/main_result.png"' in home
    assert "quick/index" not in home
    assert "No results yet" not in home
    assert (tmp_path / "source" / "quick" / "figures" / "main_result.png").exists()


def test_the_site_has_what_belongs_in_its_folders(tmp_path, monkeypatch):
    for name in ("docs/index.md", "docs/api.rst", "notebooks/learn/README.md", "reports/README.md",
                 "reports/quick/figures/a.png", "reports/quick/figures/folder/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    write_notebook(tmp_path / "notebooks/learn/01_lesson.ipynb", "# One")
    write_notebook(tmp_path / "notebooks/report/theory.ipynb", "# Theory")
    for name in ("notebooks/learn/Untitled.ipynb", "docs/.ipynb_checkpoints/index-checkpoint.md",
                 "notebooks/.ipynb_checkpoints/x.ipynb", "notebooks/.ipynb_checkpoints/x.md",
                 "reports/quick/figures/.DS_Store"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("docs/.#index.md", "notebooks/.#README.md", "notebooks/learn/broken.md"):
        (tmp_path / name).symlink_to("nothing")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path / "reports"))
    site.collect(tmp_path / "source", ["quick"])
    found = {path.relative_to(tmp_path / "source").as_posix()
             for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert {name for name in found if not name.startswith("api/")} == {
        "index.md", "api.rst", "notebooks/learn/README.md", "notebooks/learn/01_lesson.ipynb",
        "notebooks/report/theory.ipynb", "reports/README.md", "quick/figures/a.png"}


def test_half_an_overview_is_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    write_notebook(tmp_path / "quick" / site.OVERVIEW, "# What came out")
    assert site.with_results() == []
    (tmp_path / "quick" / "index.html").touch()
    assert site.with_results() == ["quick"]


def test_formulas_of_lessons_and_reference_are_typeset(built):
    for name, least in [("notebooks/learn/01_quantizers", 20), ("api/qlstm.quantizers", 20)]:
        text = (built / f"{name}.html").read_text()
        assert text.count('class="math') > least
        prose = re.sub(r"<pre.*?</pre>|<script.*?</script>", "", text, flags=re.S)
        assert not re.search(r"\$[^$<]*\\[a-z]+[^$<]*\$", prose)


def test_faults_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="x">A</h1><img src="no.png" alt=" ">'
        '<script src="https://cdn.example/x.js"></script>'
        '<a href="b.html">b</a><a href="#y">y</a><a href="https://example.org">read</a>'
        '<script type="module">import x from "https://cdn.example/y.mjs"</script>')
    (tmp_path / "b.css").write_text('a { background: url("//cdn.example/z.png") }')
    assert sorted(line.partition("a.html")[2] or line for line in faults(tmp_path)) == [
        " has a picture without a description", " has no language",
        ' loads from "https:', " loads https://cdn.example/x.js", ": #y has no such anchor",
        ": b.html is not there", ": no.png is not there",
        'b.css loads url("//cdn.example/z.png"']


def test_a_notebook_as_a_page(tmp_path):
    notebook = write_notebook(
        tmp_path / "notebooks" / "n.ipynb",
        "# Why $\\hat W_j$?\n\nThe *first* sentence, on $x$. A second.\n\n| a |\n|---|\n| 1 |",
        cell("plot()", {"image/png": PIXEL, "text/plain": "<Figure>"}),
        "## Look\n\n[next](other.ipynb#part), [web](https://example.org/a.ipynb), [top](#Look)",
        cell("two()", {"image/png": PIXEL}, alt='Two "lines" < one'),
        cell("table", {"text/html": "<a href='../runs/a.ipynb'>7</a>", "text/plain": "7"}),
        cell("1 + 1", tags=["solution"]),
        cell("slider", {page.WIDGET: {"model_id": "box"}, "text/plain": "VBox()"}),
        cell("not run", tags=["widget"]),
        cell("js", {"application/javascript": "alert(1)", "text/plain": "script"}),
    )
    to_html(notebook)
    body = notebook.with_suffix(".html").read_text()
    assert "<title>Why W_j?</title>" in body
    assert Page(body).language == "en"
    assert Page(body).pictures == ["Why W_j? The first sentence, on x.", 'Two "lines" < one']
    assert Page(body).links[1:] == [
        "#Look", "other.html#part", "https://example.org/a.ipynb", "#Look", "../runs/a.html"]
    assert re.search(r'<msub><mover accent="true"><mi>W</mi>', body)
    assert re.search(r"<details><summary>Solution</summary>\s*<div[^>]*>", body)
    assert body.count("<em>Interactive in JupyterLab.</em>") == 2
    assert "plot" in body
    assert "<script" not in body
    to_html(notebook, tmp_path / "index.html", code=False)
    body = (tmp_path / "index.html").read_text()
    assert "plot" not in body


def test_every_formula_of_the_notebooks_becomes_mathml():
    for path in storage.files(ROOT / "notebooks", "**/*.ipynb"):
        text = "\n".join(cell.source for cell in nbformat.read(path, 4).cells
                         if cell.cell_type == "markdown")
        for block, tex in re.findall(r"\$\$(.+?)\$\$|(?<![\\$])\$([^$]+?)\$",
                                     re.sub(r"(?s)```.*?```|`[^`]*`", "", text), re.S):
            shown = page.mathml(block or tex)
            assert "\\" not in shown, (path.name, tex)


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
    colours = dict(re.findall(r"--([\w-]+): #(\w{6})", page.TEMPLATE.read_text()))
    for text, ground in [("text", "paper"), ("link", "paper"), ("text", "code"), ("link", "code"),
                         ("text", "alarm"), ("link", "alarm")]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for kind, token in get_style_by_name(page.CODE_STYLE):
        if token["color"] and "Whitespace" not in str(kind):
            assert contrast(token["color"], colours["code"]) >= 4.5, kind


def test_a_profile_without_results_is_one_clear_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("QLSTM_REPORTS", str(tmp_path))
    for name, words in [("quik", "did you mean 'quick'"),
                        ("quick", "make reproduce PROFILE=quick")]:
        assert site.main([name]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert words in error
    assert not (tmp_path / "site").exists()
