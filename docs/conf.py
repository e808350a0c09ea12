"""Sphinx: lessons, results and API as a site to read offline (``make site``)."""

import re

project = "qlstm"
html_title = "Quantized LSTMs, normalized"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon",
              "sphinx-mathjax-offline"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # a widget without a kernel does nothing; its scripts come from a network
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "sphinx_book_theme"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_theme_options = {"navbar_persistent": [], "footer_content_items": [], "show_toc_level": 2,
                      "use_download_button": False, "collapse_navigation": True}
html_copy_source = False
add_module_names = False
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
suppress_warnings = ["toc.not_included", "ref.python"]  # the latter: attributes of one name


def typeset(app, what, name, obj, options, lines):
    """Put formulas, which docstrings have between dollars as notebooks do, into Sphinx's words."""
    text = re.sub(r"(?m)^( *)\$\$(.+?)\$\$", _block, "\n".join(lines), flags=re.S)
    lines[:] = re.sub(r"\$([^$]+)\$", r":math:`\1`", text).split("\n")
    if what in ("data", "attribute", "property"):
        lines[:0] = ["..", ""]  # napoleon takes what is before a colon in the first line for a type


def _block(found):
    indent = found[1]
    formula = " ".join(found[2].split())
    return f"{indent}.. math::\n\n{indent}   {formula}\n"


def skip(app, what, name, obj, skipped, options):
    """Leave out fields of named tuples, which Python describes by their number."""
    return skipped or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


def setup(app):
    """Enter the two functions."""
    app.connect("autodoc-process-docstring", typeset, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip)
