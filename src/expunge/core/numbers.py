"""Numbers that may be missing, in JSON and tables, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any


def finite(value: float) -> float | None:
    """Return the number, or None for NaN and infinities."""
    return value if math.isfinite(value) else None


def nulled(value: Any) -> Any:
    """Convert mappings, lists and tuples of numbers to dicts and lists, with null for NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: nulled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nulled(item) for item in value]
    return finite(value) if isinstance(value, float) else value


def plain(value: Any) -> Any:
    """Convert a number, or a list, tuple or dict of numbers: null for NaN, text for infinity, a list for a tuple.

    Other values are unchanged.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Real) and not math.isfinite(value):
        return None if math.isnan(value) else str(float(value))
    return value


def format_setting(value: object) -> str:
    """Format a setting: a number in the shorter of its two exact forms, such as 3e-4 for 0.0003 and 10 for 10.0."""
    if not isinstance(value, float) or not math.isfinite(value) or value == 0:
        return str(value)
    plain = repr(value).removesuffix(".0")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    mantissa = "".join(map(str, digits))
    point = f".{mantissa[1:]}" if len(digits) > 1 else ""
    short = f"{'-' if sign else ''}{mantissa[0]}{point}e{int(exponent) + len(digits) - 1}"
    return min(plain, short, key=len)
