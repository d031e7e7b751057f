"""Durations as users type them: 1h30m, 45m, 90s."""

from __future__ import annotations

import math
import re

from expunge.core.errors import ConfigError

NUMBER = r"(\d+(?:\.\d+)?)"
PLAIN, UNITS = re.compile(NUMBER), re.compile(f"(?:{NUMBER}h)?(?:{NUMBER}m)?(?:{NUMBER}s)?")


def seconds(value: str | float, key: str) -> float:
    """Parse a duration above 0 to seconds: a number, or text such as 1h, 1h30m, 45m, 90s or 90. Raises ConfigError."""
    total = 0.0
    if not isinstance(value, str):
        total = float(value)
    elif PLAIN.fullmatch(text := value.strip().lower()):
        total = float(text)
    elif match := UNITS.fullmatch(text):
        total = sum(float(part or 0) * size for part, size in zip(match.groups(), (3600, 60, 1), strict=True))
    if not (total > 0 and math.isfinite(total)):
        raise ConfigError(f"{key}: must be a time above 0, such as 1h, 1h30m, 45m or 90s, got {value!r}")
    return total
