"""Write the README for a package index, where a link to a file of the project leads nowhere.

`pyproject.toml` has everything else. Its `project.urls.Source`, if there is one, is the address of the project's files.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
CODE = re.compile(r"(^```.*?^```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def index_page(text: str, address: str | None) -> str:
    """Return a page with absolute links to files below an address.

    Without an address, the text of a link stays and a picture goes.
    """

    def absolute(match: re.Match[str]) -> str:
        picture, words, file = match.groups()
        if address is None:
            return "" if picture else words
        return f"{picture}[{words}]({address.rstrip('/')}/{file})"

    parts = CODE.split(text)
    return "".join(part if i % 2 else LINK.sub(absolute, part) for i, part in enumerate(parts))


def source_address() -> str | None:
    """Return the address of the project's files in `pyproject.toml`, if it has one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address: str | None = project.get("urls", {}).get("Source")
    return address


if __name__ == "__main__":
    setup(
        long_description=index_page((ROOT / "README.md").read_text(encoding="utf-8"), source_address()),
        long_description_content_type="text/markdown",
    )
