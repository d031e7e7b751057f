"""The site contains every page, the reference is complete, and all of its links have targets."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

import pytest
import yaml

import build_site
import expunge
from reference_pages import LISTS, entries

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "docs"
    build_site.stage(folder)
    return folder


def test_no_link_of_the_site_is_broken(site: Path) -> None:
    broken = []
    for page in sorted(site.rglob("*.md")):
        text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in LINK.findall(text):
            target = Path(posixpath.normpath(page.parent / link))
            if not re.match(r"[a-z]+:", link) and not target.exists():
                broken.append((page.relative_to(site).as_posix(), link))
    assert broken == []


def test_every_page_is_in_the_table_of_contents(site: Path) -> None:
    listed = json.dumps(build_site.navigation(site))
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.md")}
    missing = {page for page in pages if f'"{page}"' not in listed}
    assert {page for page in missing if not page.startswith(("project/", "dev/"))} == set()
    settings = yaml.safe_load(build_site.configuration(site))
    assert settings["docs_dir"] == site.name and settings["nav"][0] == {"Home": "index.md"}


@pytest.mark.parametrize("name", LISTS)
def test_the_reference_has_every_entry(site: Path, name: str) -> None:
    text = (site / "reference" / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == list(entries(name))


def test_the_reference_has_every_command_key_and_public_name(site: Path) -> None:
    pages = {name: (site / "reference" / f"{name}.md").read_text() for name in ("commands", "configuration", "library")}
    assert "\n## expunge erase\n" in pages["commands"] and "--forget" in pages["commands"]
    assert "| `train.learning_rate` | `float` |" in pages["configuration"]
    assert re.findall(r"^## (.*)$", pages["library"], re.MULTILINE) == list(expunge.__all__)
    assert ":: expunge.training.in_memory.unlearn.unlearn\n" in pages["library"]
