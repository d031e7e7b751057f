"""Text of reports in CSV and markdown, with the escapes that each of them needs."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

FORMULA = ("=", "+", "-", "@")
_MARKS = re.compile(r"[\\`*\[\]|]|(?<!\w)_|_(?!\w)")  # an underscore inside a word is plain text
_ESCAPED = re.compile(r"\\([\\`*\[\]|_])")


def cell_text(text: str) -> str:
    """Return the text with a leading apostrophe if a spreadsheet would read it as a formula."""
    return f"'{text}" if text.lstrip()[:1] in FORMULA or text[:1] in ("\t", "\r") else text


def markdown_text(text: str) -> str:
    """Escape text for one line of markdown, also within a table."""
    return _MARKS.sub(r"\\\g<0>", html.escape(" ".join(text.split()), quote=False))


def plain_text(line: str) -> str:
    """Return the text of a line that `markdown_text` has escaped."""
    return html.unescape(_ESCAPED.sub(r"\1", line))


def markdown_section(title: str, items: Sequence[str]) -> list[str]:
    """Return the lines of a markdown section with a list of texts; none without items."""
    return [f"## {title}", "", *(f"- {markdown_text(item)}" for item in items), ""] if items else []


def markdown_table(heads: Sequence[str], sides: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a markdown table.

    Args:
        heads: The heads of the columns, in markdown.
        sides: One letter for each column: "l" (left) or "r" (right).
        rows: The cells of each row, in markdown.
    """
    aligned = "|" + "".join(":--|" if side == "l" else "--:|" for side in sides)
    lines = ["| " + " | ".join(row) + " |" for row in (heads, *rows)]
    return [lines[0], aligned, *lines[1:]]
