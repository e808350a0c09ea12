"""``make site``: the lessons, the results and the API reference as pages to read without a server
or a network."""

import os
import posixpath
import shutil
import sys
from pathlib import Path, PurePosixPath

import qlstm
from qlstm.data.storage import ROOT
from qlstm.errors import ConfigError, unknown
from qlstm.report import api_reference, pages, profile_page
from qlstm.report.scorecard import scorecard
from qlstm.study import records
from qlstm.study.records import reports
from qlstm.study.tasks import PROFILES

COPIED = ["tables/*.csv", "tables/*.md", "tables/*.tex", "figures/*.*", "scorecard.csv",
          "runs/*/record.json"]
"""What a profile's page links to, as patterns in its folder."""


class Site:
    """The pages of a site; each knows the addresses of all others.

    Args:
        folder: where the pages are written.
        root: the repository, whose notebooks and guides are shown.
        results: the folder of all profiles' results.
        profiles: names of the profiles to show.
    """

    def __init__(self, folder: Path, root: Path, results: Path, profiles: list[str]):
        self.folder, self.root, self.results, self.profiles = folder, root, results, profiles
        self.modules = api_reference.modules()
        self.names = api_reference.names(self.modules)
        self.names |= {f"qlstm.{name}": self.names[f"qlstm.{home}.{name}"]
                       for name, home in qlstm._HOME.items()}
        self.pages: dict[str, Path] = {}  # site address -> source, for notebooks and guides
        self._of: dict[str, str] = {}  # path in the repository -> site address
        notebooks = root / "notebooks"
        for pattern in ("*.md", "learn/*.ipynb", "run/*.ipynb"):
            for source in sorted(notebooks.glob(pattern)):
                self._add(source, source.relative_to(root))
        for profile in profiles:
            for source in sorted((results / profile / "notebooks").glob("[er]*/*.ipynb")):
                self._add(source, Path("notebooks") / source.parent.name / source.name, profile)
            for source in sorted((results / profile / "runs").glob("*/notebook.ipynb")):
                self.pages[f"{profile}/runs/{source.parent.name}/notebook.html"] = source
        for module in self.modules:
            path = module.name.replace(".", "/")
            self._of |= {f"{path}.py": f"api/{module.page}",
                         f"{path}/__init__.py": f"api/{module.page}"}

    def _add(self, source, path, profile=""):
        address = str(PurePosixPath(profile, path.with_suffix(".html")))
        self.pages[address] = source
        self._of.setdefault(path.as_posix(), address)  # of several profiles the first

    def build(self) -> int:
        """Write all pages anew; returns their number."""
        shutil.rmtree(self.folder, ignore_errors=True)
        titles = {address: self._source(address, source) for address, source in self.pages.items()}
        profiles = [self._profile(profile, titles) for profile in self.profiles]

        def listed(start, end):
            return [{"address": address, "title": title} for address, title in titles.items()
                    if address.startswith(start) and self.pages[address].suffix == end]

        self._write("index.html", "site.html.jinja", title="Quantized LSTMs, normalized",
                    profiles=profiles, lessons=listed("notebooks/learn/", ".ipynb"),
                    guides=listed("notebooks/", ".md"))
        self._reference()
        return len(list(self.folder.rglob("*.html")))

    def _write(self, address: str, template: str, **values):
        self._save(address, pages.render(template, menu=self._menu(address),
                                         here=posixpath.basename(address), **values))

    def _save(self, address: str, page: str):
        (self.folder / address).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / address).write_text(page, encoding="utf-8")

    def _menu(self, address: str) -> list[tuple[str, str]]:
        places = [("Home", "index.html"), ("Lessons", "index.html#lessons")]
        places += [(f"Results: {profile}", f"{profile}/index.html") for profile in self.profiles]
        places += [("API", "api/index.html")]
        return [(name, self._from(address, place)) for name, place in places]

    @staticmethod
    def _from(address: str, target: str) -> str:
        """The link to ``target`` in the page at ``address``."""
        return posixpath.relpath(target, posixpath.dirname(address) or ".")

    def _source(self, address: str, source: Path) -> str:
        """The page of a notebook or a guide; returns its title."""
        place = PurePosixPath(address).with_suffix(source.suffix)
        if place.parts[0] in self.profiles:
            place = PurePosixPath(*place.parts[1:])

        def link(url):
            path, mark, anchor = url.partition("#")
            target = self._of.get(posixpath.normpath(posixpath.join(place.parent, path)))
            return target and self._from(address, target) + mark + anchor

        def code_link(text):
            target = self.names.get(text.removesuffix("()"))
            return target and self._from(address, f"api/{target}")

        if source.suffix == ".ipynb":
            title, body = pages.notebook_cells(source, link, code_link)
        else:
            text = source.read_text(encoding="utf-8")
            title, body = pages.title_of(text) or source.stem, pages.markdown(text, link, code_link)
            body = f'<div class="text">{body}</div>'
        self._write(address, "base.html.jinja", title=title, body=body)
        return title

    def _profile(self, profile: str, titles: dict[str, str]) -> dict:
        """A profile's page and the files it links to; returns what the first page says of it."""
        folder = self.results / profile
        address = f"{profile}/index.html"
        lessons = [(self._from(address, a), t) for a, t in titles.items()
                   if a.startswith("notebooks/learn/")]
        self._save(address, profile_page.page(profile, self.results, self._menu(address), lessons))
        for pattern in COPIED:
            for source in folder.glob(pattern):
                target = self.folder / profile / source.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        found = records.load_all(profile, self.results)
        shown = [{"address": a, "title": t} for a, t in titles.items()
                 if a.startswith(f"{profile}/notebooks/")]
        return {"name": profile, "scale": profile_page.SCALE[profile], "runs": len(found),
                "notebooks": shown,
                "counts": scorecard(found, profile)["verdict"].value_counts().to_dict() if found
                else {}}

    def _reference(self):
        def text(module):
            return lambda doc: api_reference.docstring(doc, module.name, self.names) if doc else ""

        first = {module.name: module for module in self.modules}["qlstm"]
        lines = {f"{m.page}#{e.name}": e.text.partition("\n\n")[0] for m in self.modules
                 for e in m.entries}
        public = [(name, self.names[f"qlstm.{name}"], lines[self.names[f"qlstm.{name}"]])
                  for name in qlstm.__all__]
        rest = [module for module in self.modules if module is not first]
        self._write("api/index.html", "reference.html.jinja", title="API reference", package=first,
                    public=public, modules=rest, text=text(first))
        for module in self.modules:
            self._write(f"api/{module.page}", "module.html.jinja", title=module.name, module=module,
                        text=text(module))


def main(arguments: list[str]) -> int:
    """``python -m qlstm site [PROFILE ...]``: write ``reports/site``.

    Args:
        arguments: of the command line: names of profiles; none: all that have results.

    Returns:
        The exit status: 2 for a profile that is unknown or has no results.
    """
    try:
        for name in arguments:
            if name not in PROFILES:
                raise ConfigError(unknown("profile", name, PROFILES))
            if not (reports() / name / "index.html").exists():
                raise ConfigError(
                    f"profile {name} has no results yet: make reproduce PROFILE={name}")
        profiles = arguments or [
            name for name in reversed(PROFILES) if (reports() / name / "index.html").exists()]
        folder = reports() / "site"
        count = Site(folder, ROOT, reports(), profiles).build()
    except (ConfigError, records.RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} pages. Open {os.path.relpath(folder / 'index.html')}")
    return 0
