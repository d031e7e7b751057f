"""Check the built site: links, pictures and headings. `make docs` calls it after the build.

    python docs/check_site.py build/site

Faults: a link that leads nowhere, a picture without a text in its place, a page without a language, a title or exactly
one main heading, and a heading that skips a level.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

SKIPPED = ("project/examples/erasure_report/",)  # reports have checks of their own (make test-browser)


@dataclass
class Page:
    """The parts of a page that the checks read."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    headings: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    language: bool = False
    title: str = ""


class _Reader(HTMLParser):
    """Collects the parts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._in_title = False
        self._in_article = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        page = self.page
        if given.get("id"):
            page.ids.add(str(given["id"]))
        if tag == "a" and given.get("name"):
            page.ids.add(str(given["name"]))
        if tag == "html":
            page.language = bool(given.get("lang"))
        if tag == "article":
            self._in_article = True
        if tag == "title":
            self._in_title = not page.title
        if tag in ("a", "link", "img", "script"):
            target = given.get("href") or given.get("src")
            page.links += [target] if target else []
        if tag == "img" and "alt" not in given:
            page.faults.append(f"picture {given.get('src')} has no alt text")
        if re.fullmatch("h[1-6]", tag) and self._in_article:
            page.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if tag == "article":
            self._in_article = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.page.title += data


def read(file: Path) -> Page:
    """Return the parts of a page."""
    reader = _Reader()
    reader.feed(file.read_text(encoding="utf-8"))
    return reader.page


def faults(site: Path) -> list[str]:
    """Return a line for each fault of a site."""
    pages = {file.relative_to(site).as_posix(): read(file) for file in sorted(site.rglob("*.html"))}
    lines = []
    for name, page in pages.items():
        if name.startswith(SKIPPED):
            continue
        lines += [f"{name}: {fault}" for fault in page.faults]
        lines += [f"{name}: link {link} leads nowhere" for link in page.links if not _leads(site, name, link, pages)]
        if not page.language:
            lines.append(f"{name}: has no language")
        if not page.title.strip():
            lines.append(f"{name}: has no title")
        if name != "404.html":
            lines += [f"{name}: {fault}" for fault in _heading_faults(page.headings)]
    return lines


def _leads(site: Path, name: str, link: str, pages: dict[str, Page]) -> bool:
    """Return whether a link leads to a file of the site and to an element of it. Links to other sites count."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", link):
        return True
    path, _, anchor = link.partition("#")
    path = unquote(path.partition("?")[0])
    if path.startswith("/"):
        target = path.lstrip("/")
    else:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
    target = "index.html" if target in (".", "") else target
    if not (site / target).exists():
        return False
    if (site / target).is_dir():
        target = f"{target}/index.html"
    return not anchor or target not in pages or unquote(anchor) in pages[target].ids or anchor.startswith("__")


def _heading_faults(levels: list[int]) -> list[str]:
    out = [] if levels.count(1) == 1 else [f"has {levels.count(1)} main headings"]
    out += [f"a heading of level {b} follows one of level {a}" for a, b in itertools.pairwise(levels) if b > a + 1]
    return list(dict.fromkeys(out))


def main(words: list[str]) -> int:
    """Print the faults of the site that the words name. Returns 1 if there are any."""
    site = Path(words[0]) if words else Path("build/site")
    if not site.is_dir():
        print(f"{site} is no folder; build the site first: make docs")
        return 2
    lines = faults(site)
    print("\n".join([*lines, f"{len(lines)} faults in {len(list(site.rglob('*.html')))} pages"]))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
