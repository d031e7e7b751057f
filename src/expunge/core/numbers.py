"""Numbers that may be missing, in JSON and tables."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def finite(value: float) -> float | None:
    """Return the number, or None for NaN and infinities."""
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Convert a number, or a list or dict of numbers: null for NaN, text for infinity, other values unchanged."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, Real) and not math.isfinite(value):
        return None if math.isnan(value) else str(float(value))
    return value
