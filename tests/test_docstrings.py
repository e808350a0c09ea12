"""The docstrings: every public name has one that names its parameters, and its examples come out as
written."""

import ast
import doctest
import importlib
import re
import runpy
import warnings

import pytest
import torch

from qlstm.data.storage import ROOT, files

KERNELS = ["triton_forward", "triton_backward", "triton_tiles"]
# they are called by triton.py alone, and their many arguments explained once, in its
# comments
SOURCES = [path for path in files(ROOT / "qlstm", "**/*.py") if path.stem not in KERNELS]
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


DOCSTRING = r"""Codes of ``weight``, where W_h* < g_*, with
$\hat{w} \le 1$:

    $$ \hat{w} = \operatorname{sign}(w),
       \quad w \ne 0 $$
"""


def test_formulas_of_a_docstring_are_sphinxs():
    typeset = runpy.run_path(str(ROOT / "docs" / "conf.py"))["typeset"]
    lines = DOCSTRING.split("\n")
    typeset(None, "function", "codes", None, None, lines)
    assert lines == [
        "Codes of ``weight``, where W_h* < g_*, with", r":math:`\hat{w} \le 1`:", "",
        "    .. math::", "", r"       \hat{w} = \operatorname{sign}(w), \quad w \ne 0", "", ""]
