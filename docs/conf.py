"""Sphinx: the lessons, the results and the API as a site to read offline (``make site`` collects the sources)."""

import re

project = "qlstm"
html_title = "Quantized LSTMs, normalized"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon",
              "sphinx-mathjax-offline"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # a widget without a kernel does nothing; its scripts come from a network
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_theme_options = {"use_download_button": False, "show_toc_level": 2, "collapse_navigation": True, "navigation_depth": 2}
html_copy_source = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
suppress_warnings = ["toc.not_included"]


def typeset(app, what, name, obj, options, lines):
    """Formulas of a docstring, between dollars as in the notebooks, as reStructuredText has them."""
    text = re.sub(r"(?m)^( *)\$\$(.+?)\$\$", _block, "\n".join(lines), flags=re.S)
    lines[:] = re.sub(r"\$([^$]+)\$", r":math:`\1`", text).split("\n")


def _block(found):
    indent = found[1]
    formula = " ".join(found[2].split())
    return f"{indent}.. math::\n\n{indent}   {formula}\n"


def setup(app):
    app.connect("autodoc-process-docstring", typeset)
