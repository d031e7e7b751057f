"""The commands of the pages work as pasted in bash and in zsh: no bracket stands outside quotes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"^\s*(?:\$ )?(expunge [a-z].*)$")


def unquoted(command: str) -> str:
    """The command without what stands in quotes, and without a comment."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", command).partition(" #")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_bracket_is_left_to_the_shell(page: Path) -> None:
    code = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        code = not code if line.startswith("```") else code
        result = COMMAND.match(line) if code or line.startswith("    ") else None
        if result is None or "|" in unquoted(result[1]):
            continue
        left = re.sub(r" \[[a-z-]+=[^ ]*\]| \[--[^]]*\]", "", unquoted(result[1]))  # optional parts
        assert not set("[]{}*?") & set(left.rstrip("\\")), f"{page.name} line {number}: {line.strip()}"
        if not result[1].endswith("\\"):
            shlex.split(result[1], comments=True)


def test_an_unquoted_list_is_found() -> None:
    assert "[" in unquoted("expunge run study=quickstart audits=[relearn]")
    assert "[" not in unquoted("expunge run study=quickstart 'audits=[relearn]' # a [note]")
