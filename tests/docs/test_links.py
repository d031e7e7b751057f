"""Every link of a page leads to a file that exists, and to a heading of it."""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("llms.txt"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("examples/**/*.md"),
    ]
    if not path.is_symlink()
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
GENERATED = re.compile(r"reference/(commands|configuration|library|methods|metrics|audits|benchmarks)\.md$")


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site write it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


@cache
def anchors(page: Path) -> frozenset[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return frozenset(slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE))


def broken_links(page: Path) -> list[str]:
    base = ROOT / "docs" if page.name == "llms.txt" else page.parent
    broken = []
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = Path(posixpath.normpath(base / name)) if name else page
        if GENERATED.search(target.as_posix()) and not anchor:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](#one-two) [b](#three) [c](page.md) [d](gone.md) [e](https://x.example/y) `[f](no.md)`\n"
    )
    assert broken_links(page) == ["#three", "gone.md"]


def test_every_page_is_reached_from_the_home_page() -> None:
    home = ROOT / "docs" / "index.md"
    records, waiting = {home}, [home]
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
            target = Path(posixpath.normpath(page.parent / link.partition("#")[0]))
            if target.suffix == ".md" and target not in records and target.exists():
                records.add(target)
                waiting.append(target)
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "dev"}
    assert sorted(path.relative_to(ROOT).as_posix() for path in pages - records) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_file_to_use_is_a_link(page: Path) -> None:
    """A reader of the site has no checkout: the site has a copy of a file only if a page links to it."""
    if page.relative_to(ROOT).parts[0] != "docs" or page.parent.name in ("dev", "results"):
        return
    text = page.read_text(encoding="utf-8")
    files = re.findall(r"(?:--plugin |python |`)((?:examples|perf)/[\w/]+\.py)", text)
    assert files == []
