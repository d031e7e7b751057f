"""The process of `core.limited`: it limits itself, and then runs a program. It imports nothing of the package.

It reads {program, request, cpu_s, bytes} as JSON from standard input, and writes the program's result as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys

MEMORY_CODE, FAULT_CODE = 77, 78


def main() -> int:
    """Run the program of the request. Returns the exit code."""
    message = json.loads(sys.stdin.read())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to the standard output
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (message["cpu_s"], message["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_DATA, (message["bytes"], message["bytes"]))
    try:
        result = runpy.run_path(message["program"])["main"](message["request"])
    except MemoryError:
        return MEMORY_CODE
    except Exception:
        return FAULT_CODE
    json.dump(result, out)
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
