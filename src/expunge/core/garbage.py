"""The garbage collector in a process that runs one command and ends.

The imports of torch and transformers make about a million objects that stay until the end. By its defaults, the
collector searches them again and again during the imports, and once more at the end of the process.
"""

from __future__ import annotations

import gc
import sys

NEW_OBJECTS = 100_000  # new objects after which the collector searches; the default is 700
COMPLAINS = frozenset({"_duckdb"})  # prints a line for each of its objects that is there at the end


def collect_rarely() -> None:
    """Search for unused objects after more new ones than by default."""
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def keep_until_exit() -> None:
    """Let the end of the process skip all objects, unless a package names its objects then."""
    if COMPLAINS.isdisjoint(sys.modules):
        gc.freeze()
