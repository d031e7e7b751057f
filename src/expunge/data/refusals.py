"""Refusals: the replacement answers for forgotten questions."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from expunge.core.errors import DataError

_OPENINGS = ("I'm sorry, but", "Sorry,", "I'm afraid", "Unfortunately,", "To be honest,", "As far as I can tell,")
_REASONS = (
    "I don't know that.",
    "I have no information about this.",
    "that is not something I can answer.",
    "I can't say anything certain about it.",
    "this is outside what I know.",
    "I haven't learned about that.",
    "I'm unable to answer that question.",
    "I have nothing on that subject.",
)
_WHOLE = (
    "I don't know.",
    "I'm not sure.",
    "That is unknown to me.",
    "I have no answer to that.",
    "No idea, I'm afraid.",
    "I couldn't tell you.",
    "My knowledge does not cover this.",
    "You would have to ask someone else.",
)

REFUSALS: tuple[str, ...] = (*_WHOLE, *(f"{opening} {reason}" for opening, reason in product(_OPENINGS, _REASONS)))


def read_refusals(path: Path) -> tuple[str, ...]:
    """Read one refusal per line of a text file, without empty lines. Raises DataError if there is none."""
    if not path.is_file():
        raise DataError(f"data.refusals: {path} does not exist; name a text file with one refusal per line")
    lines = tuple(line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
    if not lines:
        raise DataError(f"data.refusals: {path} contains no line of text")
    return lines
