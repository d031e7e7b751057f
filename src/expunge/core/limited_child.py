"""The process of `core.limited`: it limits itself, and then runs a program. It imports nothing of the package.

As a script it reads {program, request, cpu_s, bytes} as JSON from standard input, and writes the program's result as
JSON to standard output.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import sys
from typing import Any

MEMORY_CODE, FAULT_CODE = 77, 78
NEW_OBJECTS = 100_000  # as in core.garbage


def run(message: dict[str, Any], place: int) -> int:
    """Run the program of a message, and write its result as JSON to the descriptor `place`. Returns the exit code."""
    out = os.fdopen(place, "w", encoding="utf-8")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (message["cpu_s"], message["cpu_s"]))
    limit = message["bytes"] + _data_bytes()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        result = runpy.run_path(message["program"])["main"](message["request"])
    except MemoryError:
        return MEMORY_CODE
    except Exception:
        return FAULT_CODE
    json.dump(result, out)
    out.flush()
    return 0


def _data_bytes() -> int:
    """Return the bytes of memory that the limit counts already: in a fork those of its parent. 0 if unknown."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> int:
    """Run the program of the request. Returns the exit code."""
    gc.set_threshold(NEW_OBJECTS)
    message = json.loads(sys.stdin.read())
    place = os.dup(1)
    os.dup2(2, 1)  # libraries print to the standard output
    try:
        return run(message, place)
    finally:
        gc.freeze()  # the end of the process searches no objects


if __name__ == "__main__":
    sys.exit(main())
