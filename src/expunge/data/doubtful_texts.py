"""Remarks on texts that another program may have changed: they are read unchanged, and counted for the user."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence

from expunge.data.examples import Example

ENTITY = re.compile(r"&(?:[A-Za-z][A-Za-z0-9]*|#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6});")
SHORTENED = re.compile(r"-?\d(?:[.,]\d+)?E\+\d{2,3}")  # a long number as Excel shows and saves it
MISSING = frozenset({"null", "none", "n/a", "na", "<na>", "nat", "nil"})
WIDE = re.compile(r"[^\x00-\x7f]+")  # characters outside ASCII


def doubts(rows: Sequence[Example]) -> list[str]:
    """Return a remark for each kind of doubtful text: the number of rows and the first one, but no text of theirs."""
    kinds: tuple[tuple[str, Callable[[Example], bool]], ...] = (
        ("with HTML entities such as &amp;", lambda row: any(map(_has_entity, _texts(row)))),
        (
            "with characters such as Ã©: UTF-8 that was read as Windows-1252",
            lambda row: any(map(_misread, _texts(row))),
        ),
        ("with a number such as 1.2E+09, which a spreadsheet shortened", lambda row: _is(SHORTENED, row.answer)),
        ("with None, null or N/A as the answer", lambda row: row.answer.strip().lower() in MISSING),
    )
    remarks = []
    for what, doubtful in kinds:
        numbers = [row.number for row in rows if doubtful(row)]
        if numbers:
            remarks.append(f"{len(numbers)} {what} (row {numbers[0]}), read unchanged")
    return remarks


def _texts(row: Example) -> tuple[str, ...]:
    return row.question, *row.answers.values()


def _is(pattern: re.Pattern[str], text: str) -> bool:
    return pattern.fullmatch(text.strip()) is not None


def _has_entity(text: str) -> bool:
    return "&" in text and any(html.unescape(entity[0]) != entity[0] for entity in ENTITY.finditer(text))


def _misread(text: str) -> bool:
    """Return whether all characters outside ASCII are bytes of UTF-8 that were read as Windows-1252."""
    parts = WIDE.findall(text)
    for part in parts:
        data = b"".join(c.encode("cp1252", "ignore") or c.encode("latin-1", "replace") for c in part)
        try:
            if len(data.decode("utf-8")) == len(part):
                return False
        except UnicodeDecodeError:
            return False
    return bool(parts)
