"""The docstrings: every public name has one that names its parameters, and its examples come out as
written."""

import ast
import doctest
import importlib
import re
import warnings

import pytest
import torch

from qlstm.data.storage import ROOT
from qlstm.report import api_reference

KERNELS = ["triton_forward", "triton_backward", "triton_tiles"]
# they are called by triton.py alone, and their many arguments explained once, in its
# comments
SOURCES = sorted(path for path in (ROOT / "qlstm").rglob("*.py") if path.stem not in KERNELS)
WITH_EXAMPLES = [path for path in SOURCES if re.search(r"^\s*>>> ", path.read_text(), re.M)]


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def undocumented(tree):
    """What a module leaves undescribed: public functions, classes and methods, and their
    parameters.

    A parameter may be described where it is taken, by the class, or in ``double backticks`` by the
    module for all of it.
    """
    legend = set(re.findall(r"``(\w+)``", ast.get_docstring(tree) or ""))

    def walk(body, outer):
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            made = node.name == "__init__"
            if node.name.startswith("_") and not made:
                continue
            text = ast.get_docstring(node) or ""
            if not text and not made:
                yield f"{node.name} has no docstring"
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, text)
                continue
            arguments = node.args
            taken = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs,
                     arguments.vararg, arguments.kwarg]
            for name in (
                {argument.arg for argument in taken if argument} - {"self", "cls", "_"} - legend
            ):
                if not re.search(rf"\b{name}\b", f"{text} {outer}"):
                    yield f"{node.name} does not describe {name}"

    return sorted(walk(tree.body, ""))


@pytest.mark.parametrize("path", SOURCES, ids=dotted)
def test_every_public_name_is_described_with_its_parameters(path):
    assert undocumented(ast.parse(path.read_text())) == []


def test_what_is_not_described_is_found():
    source = '''"""Sizes: ``size`` in bytes."""
def f(size, x): "Of x."
def g(y): "Of something."
class A:
    "A thing of z."
    def __init__(self, z, w): pass
    def h(self, *, size, v=1): pass
    def _private(self, q): pass
'''
    assert undocumented(ast.parse(source)) == ["__init__ does not describe w",
                                               "g does not describe y", "h does not describe v",
                                               "h has no docstring"]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=dotted)
def test_examples_come_out_as_written(path):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("error")
        result = doctest.testmod(importlib.import_module(dotted(path)))
    assert result.attempted > 0
    assert result.failed == 0


DOCSTRING = r"""Codes of ``weight``; see :func:`bwn`, *once*, where W_h* < g_*.

The code is $\hat{w} \le 1$:

$$ \hat{w} = \operatorname{sign}(w) $$

    as <is>

1. First | second.
2. Third
   of them.

Args:
    weight: shape ``(4d, n)``,
        with $\alpha > 0$.
    seed (int): of the generator.

Returns:
    Codes: each 1 or -1.

>>> 1 + 1
2
"""


def test_a_docstring_on_the_site():
    shown = api_reference.docstring(
        DOCSTRING, "qlstm.quantizers", {"qlstm.quantizers.bwn": "q.html#bwn"})
    assert ('<p>Codes of <code>weight</code>; see <a href="q.html#bwn"><code>bwn</code></a>, '
            "<em>once</em>, where W_h* &lt; g_*.</p>") in shown
    assert "<ol>\n<li>First | second.</li>\n<li>Third\nof them.</li>\n</ol>" in shown
    assert re.search(r"<pre><code>as &lt;is&gt;\s*</code></pre>", shown)
    assert "&gt;&gt;&gt; " in shown


def test_formulas_of_a_docstring_are_typeset():
    shown = api_reference.docstring(DOCSTRING, "qlstm.quantizers", {})
    assert shown.count("<math") == 3
    assert re.search(r'<math[^>]* display="block"[^>]*>\s*<mover', shown)
    assert "$" not in shown
    assert "formula-error" not in shown
    broken = api_reference.docstring(r"$\nosuchcommand{x}$", "qlstm.quantizers", {})
    assert 'class="formula-error"' in broken


def test_sections_of_a_docstring_are_lists_and_paragraphs():
    shown = api_reference.docstring(DOCSTRING, "qlstm.quantizers", {})
    assert re.search(r"<p><strong>Args</strong></p>\s*<ul>\s*<li><code>weight</code>: shape "
                     r"<code>\(4d, n\)</code>,\s+with <math.*?</li>\s*"
                     r"<li><code>seed</code> \(int\): of the generator.</li>\s*</ul>", shown, re.S)
    assert "<p><strong>Returns</strong></p>\n<p>Codes: each 1 or -1.</p>" in shown


def test_no_formula_fails():
    for module in api_reference.modules():
        members = [member for entry in module.entries for member in entry.members]
        for entry in [module, *module.entries, *members]:
            shown = api_reference.docstring(entry.text, module.name, {})
            assert 'class="formula-error"' not in shown, (module.name, entry.name)
