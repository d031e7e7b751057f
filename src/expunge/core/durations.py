"""Times as people write them: 1h30m, 45m, 90s."""

from __future__ import annotations

import math
import re

from expunge.core.errors import ConfigError

NUMBER = r"(\d+(?:\.\d+)?)"
PLAIN, UNITS = re.compile(NUMBER), re.compile(f"(?:{NUMBER}h)?(?:{NUMBER}m)?(?:{NUMBER}s)?")


def seconds(given: str | float, key: str) -> float:
    """A time above 0 as seconds: a number of them, or text such as 1h, 1h30m, 45m, 90s or 90. Raises ConfigError."""
    total = 0.0
    if not isinstance(given, str):
        total = float(given)
    elif PLAIN.fullmatch(text := given.strip().lower()):
        total = float(text)
    elif found := UNITS.fullmatch(text):
        total = sum(float(part or 0) * size for part, size in zip(found.groups(), (3600, 60, 1), strict=True))
    if not (total > 0 and math.isfinite(total)):
        raise ConfigError(f"{key}: must be a time above 0, such as 1h, 1h30m, 45m or 90s, got {given!r}")
    return total
