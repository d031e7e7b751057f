"""The start of this process, for time limits that count the imports."""

from __future__ import annotations

import os
import time
from pathlib import Path

_STAT = Path("/proc/self/stat")
_STARTED = 19  # the field of the start time, in ticks after boot, among those after the program's name


def process_began() -> float:
    """Return the start of this process on the clock of `time.monotonic`; now, if the system does not report it."""
    now = time.monotonic()
    try:
        fields = _STAT.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[_STARTED]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return now
    return now - max(0.0, age)
