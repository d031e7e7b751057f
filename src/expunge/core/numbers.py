"""Numbers that may be missing, as JSON and tables take them."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any


def finite(value: float) -> float | None:
    """The number; None for NaN and infinities."""
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """A number, or a list or dict of such things: null for NaN, text for infinity, the rest as it is."""
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items()}
    if isinstance(value, list):
        return [plain(held) for held in value]
    if isinstance(value, Real) and not math.isfinite(value):
        return None if math.isnan(value) else str(float(value))
    return value
