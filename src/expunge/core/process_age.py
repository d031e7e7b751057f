"""The start of a process: for time limits that count the imports, and to tell apart two processes of one number."""

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


def process_start(pid: int) -> str:
    """Return the start of a running process, in ticks after boot.

    Two processes with the same number have other starts. Returns "" if there is no such process; "?" where the system
    does not report the start.
    """
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # a process of another user
    except OSError:
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[_STARTED]
    except (OSError, IndexError):
        return "?"
