"""The API reference of the site, read from the source: names, signatures and docstrings.

A docstring is read as Markdown with formulas in LaTeX (``$...$``, ``$$ ... $$``), the references
and double backticks of reStructuredText, and Google's sections (``Args:``, ``Returns:``, ...).
"""

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from qlstm.report.pages import markdown

PACKAGE = Path(__file__).parent.parent


@dataclass
class Entry:
    """A public name.

    Attributes:
        kind: ``class``, ``function`` or ``value``.
        name: its name.
        signature: parameters and result, as written.
        text: its docstring.
        members: of a class, its methods and described values.
    """

    kind: str
    name: str
    signature: str
    text: str
    members: list["Entry"] = field(default_factory=list)


@dataclass
class Module:
    """A module of the package.

    Attributes:
        name: dotted.
        text: its docstring.
        entries: its public names, in the order of the source.
    """

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
        if isinstance(statement, ast.FunctionDef):
            decorators = {ast.unparse(decorator) for decorator in statement.decorator_list}
            kind, signature = (
                ("value", "") if "property" in decorators else ("function", _signature(statement)))
            entry = Entry(kind, statement.name, signature, ast.get_docstring(statement) or "")
        elif isinstance(statement, ast.ClassDef):
            entry = Entry("class", statement.name, _constructor(statement),
                          ast.get_docstring(statement) or "", _entries(statement.body))
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            text = getattr(getattr(after, "value", None), "value", None)  # a string below it
            if not isinstance(text, str) or not isinstance(target, ast.Name):
                continue
            entry = Entry("value", target.id, "", inspect.cleandoc(text))
        else:
            continue
        if not entry.name.startswith("_"):
            found.append(entry)
    return found


def _constructor(definition: ast.ClassDef) -> str:
    """The signature of ``__init__``, or of the one that a dataclass makes of its fields."""
    for statement in definition.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _signature(statement)
    fields = [ast.unparse(statement) for statement in definition.body
              if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)]
    return f"({', '.join(fields)})" if fields else ""


def _signature(function: ast.FunctionDef) -> str:
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(function.args))
    returns = (f" → {ast.unparse(function.returns)}"
               if function.returns and function.name != "__init__" else "")
    return f"({arguments}){returns}"


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


SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Shape|Examples?|Notes?|References?)"
                     r":\n((?: {4}.*\n|[ \t]*\n)+)", re.M)
ITEM = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)( \([^)]*\))?: ")
EXAMPLE = re.compile(r"^>>> .*\n(?:.*\S.*\n)*", re.M)
CODE_OR_FORMULA = re.compile(
    r"(^```.*?^```\n|^ {4}[^\n]*\n|``.+?``|\$\$.*?\$\$|\$[^$]+\$)", re.M | re.S)


def docstring(text: str, module: str, addresses: dict[str, str]) -> str:
    """The HTML of a docstring.

    Args:
        text: the docstring.
        module: dotted name of where it stands; names of this module need no prefix.
        addresses: of everything that is documented, by dotted name (:func:`names`); what is named
            in the text becomes a link.
    """
    text = SECTION.sub(_section, inspect.cleandoc(text) + "\n")
    text = EXAMPLE.sub(r"\n```pycon\n\g<0>```\n", text)
    # without an empty line before it, Markdown takes an indented block for text
    text = re.sub(r"(?m)^([^ \n-].*\n)(?= {4}\S)", r"\1\n", text)
    parts = CODE_OR_FORMULA.split(text)
    parts[::2] = [_prose(part, module, addresses) for part in parts[::2]]
    return markdown("".join(parts), code_link=addresses.get)


def _section(found: re.Match) -> str:
    """A section of Google's as Markdown: a bold title, and its items as a list."""
    title, body = found[1], textwrap.dedent(found[2]).strip("\n")
    if title in ("Args", "Attributes", "Raises", "Shape") and ITEM.match(body):
        items = re.split(r"\n(?=\S)", body)
        body = "\n".join("- " + ITEM.sub(r"``\1``\2: ", re.sub(r"\n +", "\n  ", item), count=1)
                         for item in items)
    return f"**{title}**\n\n{body}\n\n"


def _prose(text: str, module: str, addresses: dict[str, str]) -> str:
    """Text outside of code and formulas: references as links, angle brackets as they are."""

    def reference(found: re.Match) -> str:
        name = found[1].lstrip("~")
        shown = name.rpartition(".")[2] if found[1].startswith("~") else name
        places = [name, f"{module}.{name}", f"qlstm.{name}"]
        places += [key for key in addresses
                   if key.startswith(f"{module}.") and key.endswith(f".{name}")]
        address = next((addresses[place] for place in places if place in addresses), None)
        return f"`{shown}`" if address is None else f"[`{shown}`]({address})"

    return re.sub(r":\w+:`([^`]+)`", reference, text.replace("<", "&lt;"))
