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


@pytest.mark.parametrize(
    ("formula", "tex"),
    [("w_hat = alpha sign(w)", r"\hat{w} = \alpha  \operatorname{sign}(w)"),
     ("dl/dw = dl/dw_hat", r"\partial l / \partial w = \partial l / \partial \hat{w}"),
     ("sqrt(6 / (n + 4d)) / 2", r"\sqrt{6 / (n + 4d)} / 2"),
     ("d xi_m / d h_{t-1}", r"\partial \xi _{m} / \partial h_{t-1}"),
     ("g_* = max |g_j|", r"g_{*} = \operatorname{max} |g_{j}|"),
     ("+1 if w is large, else 0", r"+1\text{ if } w\text{ is large},\text{ else } 0"),
     ("i~ * c", r"\tilde{i} \odot  c")],
)
def test_a_formula_in_plain_text_as_latex(formula, tex):
    assert api_reference.tex(formula).split() == tex.split()


def test_a_docstring_on_the_site():
    text = """Codes of ``weight``; see :func:`bwn`, *once*.

        w_hat = sign(w)

    1. First | second.
    2. Third.

    >>> 1 + 1
    2
    """
    shown = api_reference.docstring(
        text, "qlstm.quantizers", {"qlstm.quantizers.bwn": "q.html#bwn"})
    assert (
        '<p>Codes of <code>weight</code>; see <a href="q.html#bwn"><code>bwn</code></a>, <em>once</em>.</p>'
        in shown
    )
    assert re.search(r'<math[^>]* display="block"[^>]*>\s*<mover', shown)
    assert "<ol><li>First | second.</li><li>Third.</li></ol>" in shown
    assert "&gt;&gt;&gt; " in shown


def test_no_formula_is_left_as_it_was_written():
    for module in api_reference.modules():
        members = [member for entry in module.entries for member in entry.members]
        for text in [module.text,
                     *(entry.text for entry in [*module.entries, *members] if entry.text)]:
            shown = api_reference.docstring(text, module.name, {}) if text else ""
            assert 'class="formula-error"' not in shown
            assert not re.search(r"<math(?:(?!</math>).)*[:`]{2}", shown, re.S), (
                f"{module.name}: text taken for a formula")
