"""Text cells of CSV files that spreadsheets do not run as formulas."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@")


def cell_text(text: str) -> str:
    """Return the text with a leading apostrophe if a spreadsheet would read it as a formula."""
    return f"'{text}" if text.lstrip()[:1] in FORMULA or text[:1] in ("\t", "\r") else text
