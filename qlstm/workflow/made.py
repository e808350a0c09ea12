"""What is made from the records: tables, figures and other reports, lessons, and the page that
shows them; each made anew exactly when something changes that it is made from.

A notebook is made from its source, its parameters and the code of the package; a report also from
the records, and the exploration from those of runs by hand too; the overview, which is the page,
also from what failed, which runs have a notebook, and what all other reports are made from. Of
these a digest is kept beside each name in ``made_from.json`` in the profile's folder. Ages tell
nothing, as clocks differ.

Here ``plan`` is as in :mod:`qlstm.workflow.plan`, ``found`` are the records of the profile, and the
``name`` of a copy is its path below ``notebooks`` in the profile's folder, without suffix.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlstm.data.storage import MATERIALS, ROOT, content, files, write_atomically
from qlstm.report.experiment import BY_HAND
from qlstm.study import kinds
from qlstm.study.records import reports
from qlstm.workflow.notebooks import report_notebook
from qlstm.workflow.plan import without_notebook

OVERVIEW = "report/overview"
"""The copy that is made last, and is the page of the profile."""
EXPLORE = "explore/explore_runs"
CODE = ["**/*.py", "**/*.cpp", "**/*.h", "**/*.csv", "**/*.j2"]
"""The files of the package."""


@dataclass(frozen=True)
class Copy:
    """An executed notebook that is to be there.

    Attributes:
        notebook: The path of its source below ``notebooks``, without suffix.
        parameters: What it is executed with.
        made_from: The digest of all that it is made from.
    """

    notebook: str
    parameters: dict[str, Any]
    made_from: str

    @property
    def source(self) -> Path:
        """The file of its source."""
        return ROOT / "notebooks" / f"{self.notebook}.ipynb"


def copies(plan: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Copy]:
    """All copies that belong to a plan, by their names; the overview is the last."""
    package, learn = ROOT / "qlstm", ROOT / "notebooks" / "learn"
    all_code = _digests(package, *CODE)
    code = {name: digest for name, digest in all_code.items()
            if not name.startswith(("course/", "workflow/"))}
    material = _digests(learn, *MATERIALS)
    checksums = [record["checksum"] for record in found]
    made = {}

    def add(name: str, notebook: str, parameters: dict[str, Any], *made_from: Any):
        source = content(ROOT / "notebooks" / f"{notebook}.ipynb")
        made[name] = Copy(notebook, parameters, _digest(source, parameters, *made_from))

    profile = {"profile": plan["profile"]}
    for artefact in plan["artefacts"]:
        notebook, chosen = report_notebook(artefact)
        add(f"report/{artefact}", notebook, profile | chosen | {"save": True}, code, checksums)
    if found:
        by_hand = _digests(reports() / BY_HAND / plan["profile"], "runs/*/record.json")
        add(EXPLORE, EXPLORE, profile, code, checksums, by_hand)
    for lesson in plan["lessons"]:
        add(lesson, lesson, {}, all_code, material)
    others = {name: "" if name in plan["lessons"] else copy.made_from
              for name, copy in made.items()}
    bare = [record["run_id"] for record in without_notebook(plan, found)]
    add(OVERVIEW, OVERVIEW, profile | {"save": True}, code, checksums, plan["failures"], bare,
        others)
    return made


def _digests(folder: Path, *patterns: str) -> dict[str, str]:
    """The digests of the files of these patterns in a folder, by their paths in it."""
    return {path.relative_to(folder).as_posix(): _digest(content(path))
            for path in files(folder, *patterns)}


def _digest(*parts: Any) -> str:
    """The sha256 of bytes, and of values that JSON can say."""
    digests = [hashlib.sha256(part if isinstance(part, bytes) else json.dumps(part).encode())
               for part in parts]
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


class MadeFrom:
    """What the copies in the ``folder`` of a profile were made from, kept in ``made_from.json``."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "made_from.json"
        try:
            self.digests = kinds.read_as(kinds.by_name(kinds.text(), kinds.text()), self.path)
        except (OSError, ValueError):  # nothing was made, or that was not written here
            self.digests = {}

    def place(self, name: str) -> Path:
        """The file of the copy of this ``name``."""
        return self.folder / "notebooks" / f"{name}.ipynb"

    def outdated(self, wanted: dict[str, Copy]) -> dict[str, Copy]:
        """Those of the copies ``wanted`` that are not there, or were made from something else, and
        with any but a lesson the overview. They are forgotten: until they are made again there may
        be half of one."""
        again = {name for name, copy in wanted.items()
                 if self.digests.get(name) != copy.made_from or not self._there(name)}
        if not all(name.startswith("learn/") for name in again):
            again.add(OVERVIEW)
        todo = {name: copy for name, copy in wanted.items() if name in again}
        if self.digests.keys() & todo:
            self._write({name: digest for name, digest in self.digests.items() if name not in todo})
        return todo

    def _there(self, name: str) -> bool:
        """Whether the copy of this ``name`` and its page are there."""
        return all(self.place(name).with_suffix(end).exists() for end in (".ipynb", ".html"))

    def note(self, name: str, copy: Copy):
        """The ``copy`` of this ``name`` is made."""
        self._write(self.digests | {name: copy.made_from})

    def _write(self, digests: dict[str, str]):
        self.digests = digests
        write_atomically(self.path, json.dumps(digests, indent=1).encode())
