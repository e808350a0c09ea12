"""The API reference of the site, read from the source: names, signatures and docstrings, formulas
typeset.

How a docstring is read: paragraphs and numbered lists as they are; ``>>>`` is an example; lines
indented by four more than the rest are formulas, written as plain text (``alpha = mean |w|``,
``h_{t-1}``, ``sqrt(d)``, ``w_hat``, ``a~``).
"""

import ast
import html
import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path

from qlstm.report.pages import mathml

PACKAGE = Path(__file__).parent.parent
GREEK = ["alpha", "beta", "gamma", "eta", "lambda", "mu", "sigma", "xi", "epsilon"]
FUNCTIONS = ["sign", "mean", "max", "min", "clip", "exp", "log", "tanh", "sig", "var", "Diag", "N",
             "LN", "BN"]
ACCENTS = {"_hat": "hat", "~": "tilde"}
SIGNS = {"<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "<-": r"\leftarrow ", "->": r"\to ",
         "+-": r"\pm ", "*": r"\odot ", "||": r"\|", "...": r"\ldots ", "{": r"\{", "}": r"\}",
         "%": r"\%", "&": r"\&", "#": r"\#"}


@dataclass
class Entry:
    """A public name: ``kind`` (class, function or value), its ``signature``, docstring ``text`` and
    ``members``."""

    kind: str
    name: str
    signature: str
    text: str
    members: list["Entry"] = field(default_factory=list)


@dataclass
class Module:
    """A module of the package: its dotted ``name``, the docstring ``text`` and the public
    ``entries``, in source order."""

    name: str
    text: str
    entries: list[Entry]

    @property
    def page(self) -> str:
        """The file name of its page."""
        return f"{self.name}.html"


def modules(package: Path = PACKAGE) -> list[Module]:
    """What the source files of a ``package`` define, in alphabetical order; nothing is imported."""
    found = []
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        dotted = [package.name, *path.relative_to(package).with_suffix("").parts]
        name = ".".join(dotted).removesuffix(".__init__")
        found.append(Module(name, ast.get_docstring(tree) or "", _entries(tree.body)))
    return found


def _entries(body: list[ast.stmt]) -> list[Entry]:
    """Public classes, functions and described values among the statements of a ``body``."""
    found = []
    for statement, after in zip(body, [*body[1:], None], strict=True):
        name = getattr(statement, "name", "")
        if isinstance(statement, ast.FunctionDef) and not name.startswith("_"):
            decorators = {ast.unparse(decorator) for decorator in statement.decorator_list}
            kind, signature = (
                ("value", "") if "property" in decorators else ("function", _signature(statement)))
            found.append(Entry(kind, name, signature, ast.get_docstring(statement) or ""))
        elif isinstance(statement, ast.ClassDef) and not name.startswith("_"):
            makers = [
                f for f in statement.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"
            ]
            fields = [f for f in statement.body
                      if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]
            signature = (_signature(makers[0]) if makers
                         else f"({', '.join(map(ast.unparse, fields))})" if fields else "")
            text, members = ast.get_docstring(statement) or "", _entries(statement.body)
            found.append(Entry("class", name, signature, text, members))
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            if (isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
                and isinstance(target, ast.Name)):
                text = inspect.cleandoc(after.value.value)
                if not target.id.startswith("_"):
                    found.append(Entry("value", target.id, "", text))
    return found


def _signature(function: ast.FunctionDef) -> str:
    arguments = ast.unparse(function.args)
    arguments = re.sub(r"^(self|cls)(, )?", "", arguments)
    returns = (f" → {ast.unparse(function.returns)}"
               if function.returns and function.name != "__init__" else "")
    return f"({arguments}){returns}"


def tex(formula: str) -> str:
    """A ``formula`` in plain text as LaTeX: Greek letters and functions by name, other words as
    words.

    >>> print(tex("alpha = sum_ij |w_ij| / sqrt(d) if w_hat <= t"))
    \\alpha  = \\sum _{ij} |w_{ij}| / \\sqrt{d}\\text{ if } \\hat{w} \\le  t
    """
    formula = re.sub(r"\bd(\w+)/d(\w+)", r"∂\1 / ∂\2", formula)  # dl/dw
    formula = re.sub(r"\bd (?=[a-z]+_)", "∂", formula)  # d xi_m / d h_t
    signs = "|".join(map(re.escape, sorted(SIGNS, key=len, reverse=True)))
    pattern = rf"(?P<index>[_^](?:\{{[^{{}}]*\}}|-?\w|\*)\w*)|(?P<hat>[A-Za-z])(?P<mark>_hat|~)|(?P<word>[A-Za-zµ]+)(?P<bar>\()?|(?P<sign>{signs})"
    out, position = "", 0
    while found := re.compile(pattern).search(formula, position):
        out += formula[position : found.start()]
        position = found.end()
        word = found["word"]
        if found["index"]:
            index = found["index"][1:].strip("{}")
            out += f"{found['index'][0]}{{{tex(index) if index in GREEK else index}}}"
        elif found["hat"]:
            out += rf"\{ACCENTS[found['mark']]}{{{found['hat']}}}"
        elif found["sign"]:
            out += SIGNS[found["sign"]]
        elif word == "sqrt" and found["bar"]:
            end = _closing(formula, position)
            out += rf"\sqrt{{{tex(formula[position:end])}}}"
            position = end + 1
        elif word in GREEK or word in ("sum", "in"):
            out += rf"\{word} " + (found["bar"] or "")
        elif len(word) == 1 and not found["bar"]:
            out += word
        elif word in FUNCTIONS:
            out += rf"\operatorname{{{word}}}" + (found["bar"] or "")
        elif len(word) <= 2 and word not in ("if", "of", "to", "or", "in", "at", "by", "is"):
            out += word + (found["bar"] or "")
        else:
            out = out.rstrip() + rf"\text{{ {word} }}" + (found["bar"] or "")
    out = re.sub(r" \}\\text\{ ", " ", out + formula[position:])  # words side by side
    out = re.sub(r" \}(?=[,.;:)])", "}", out).replace("∂", r"\partial ")
    return re.sub(r"(?<! ) {4,}", r" \\quad ", out)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis opened before ``start`` is closed."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return len(text)


def names(found: list[Module]) -> dict[str, str]:
    """Addresses, relative to the reference's folder, by the dotted name of everything in the
    modules ``found``."""
    addresses = {}
    for module in found:
        addresses[module.name] = module.page
        for entry in module.entries:
            addresses[f"{module.name}.{entry.name}"] = f"{module.page}#{entry.name}"
            for member in entry.members:
                addresses[f"{module.name}.{entry.name}.{member.name}"] = (
                    f"{module.page}#{entry.name}.{member.name}")
    return addresses


def docstring(text: str, module: str, addresses: dict[str, str]) -> str:
    """The HTML of a docstring ``text`` of ``module``; references become links where ``addresses``
    has their name."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if re.match(r"1\. ", block):
            items = re.split(r"(?m)^\d+\. ", block)[1:]
            items = "".join(
                f"<li>{_inline(' '.join(item.split()), module, addresses)}</li>" for item in items)
            blocks.append(f"<ol>{items}</ol>")
            continue
        for kind, lines in _parts(block.splitlines()):
            if kind == "example":
                blocks.append(_example("\n".join(lines)))
            elif kind == "formula":
                blocks += [mathml(tex(line.strip()), block=True) for line in lines]
            else:
                blocks.append(f"<p>{_inline(' '.join(lines), module, addresses)}</p>")
    return "\n".join(blocks)


def _parts(lines: list[str]):
    """Runs of lines of one kind: an example goes on to the end of its block."""
    run, kind = [], None
    for line in lines:
        now = ("example" if line.startswith(">>>") or kind == "example" else "formula"
               if line.startswith("    ") else "text")
        if now != kind and run:
            yield kind, run
            run = []
        run.append(line)
        kind = now
    yield kind, run


def _example(text: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonConsoleLexer

    code = highlight(text, PythonConsoleLexer(), HtmlFormatter())
    return code.replace("<div ", '<div tabindex="0" role="group" aria-label="example" ', 1)


def _inline(text: str, module: str, addresses: dict[str, str]) -> str:
    def reference(found):
        name = found[1].lstrip("~")
        shown = name.rpartition(".")[2] if found[1].startswith("~") else name
        places = [name, f"{module}.{name}", f"qlstm.{name}"]
        places += [
            key for key in addresses if key.startswith(f"{module}.") and key.endswith(f".{name}")]
        address = next((addresses[place] for place in places if place in addresses), None)
        return (f"<code>{shown}</code>" if address is None
                else f'<a href="{address}"><code>{shown}</code></a>')

    text = html.escape(text, quote=False)
    pieces = re.split(r"(``.+?``)", text)
    for place, piece in enumerate(pieces):
        if place % 2:
            name = piece[2:-2]
            shown = f"<code>{name}</code>"
            pieces[place] = (
                f'<a href="{addresses[name]}">{shown}</a>' if name in addresses else shown)
        else:
            piece = re.sub(r":\w+:`([^`]+)`", reference, piece)
            piece = re.sub(r"\*\*([A-Za-z][^*]*)\*\*", r"<strong>\1</strong>", piece)
            pieces[place] = re.sub(
                r"(?<![\w*])\*([A-Za-z][^*]*?)\*(?![\w*])", r"<em>\1</em>", piece)
    return "".join(pieces)
