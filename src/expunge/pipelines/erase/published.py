"""Numbers of an erasure as its card, its report and the terminal show them.

An exact number of the forgotten rows is a test of guesses: an owner of the new model scores each guess. One of 10,000
gives a probability of 3.99e-21. Most guesses have the same rounded probability.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
FEW = 10  # rows; the mean of fewer has one decimal place less, because each row decides more of it
_NUMBER = re.compile(r"(= )?(?<![\w.])(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w]|\.\d)")


def decimals(rows: int) -> int:
    """Return the decimal places of the numbers of so many rows."""
    return 2 if rows < FEW else 3


def published(value: T, places: int) -> T:
    """Return a value with all numbers in it rounded, those in texts as well.

    Args:
        value: Dataclasses, mappings, lists and tuples of plain values.
        places: The decimal places.
    """
    result: Any = value
    if isinstance(value, float):
        result = round(value, places) + 0.0 if math.isfinite(value) else value  # + 0.0: no minus zero
    elif isinstance(value, str):
        result = _NUMBER.sub(lambda match: _number(match, places), value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        result = dataclasses.replace(value, **{name: published(v, places) for name, v in fields.items()})
    elif isinstance(value, Mapping):
        result = {key: published(v, places) for key, v in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(published(v, places) for v in value)
    return result  # type: ignore[no-any-return]


def _number(match: re.Match[str], places: int) -> str:
    """Return a number of a text with at most so many decimal places."""
    text = match[2]
    _, _, digits = text.partition(".")
    if "e" not in text and len(digits) <= places:
        return match[0]
    number, least = float(text), 10.0**-places
    if 0 < number < least / 2:
        return f"< {least:g}" if match[1] else f"under {least:g}"
    return f"{match[1] or ''}{round(number, places) + 0.0:.{places}f}"
