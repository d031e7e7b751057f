"""The garbage collector in a process that runs one command and ends.

The imports of torch and transformers make about a million objects that stay until the end. By its defaults, the
collector searches them again and again during the imports, and once more at the end of the process.
"""

from __future__ import annotations

import gc
import sys

NEW_OBJECTS = 100_000  # new objects after which the collector searches; the default is 700
COMPLAINS = frozenset({"_duckdb"})  # prints a line for each of its objects that is there at the end
_is_rare = False


def collect_rarely() -> None:
    """Search for unused objects after more new ones than by default."""
    global _is_rare
    _is_rare = True
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])


def skip_imports() -> None:
    """After the imports, and before the first model: let later searches skip all present objects.

    Without effect in a process that has not called `collect_rarely`: its objects are of a user.
    """
    if _is_rare:
        gc.freeze()


def keep_until_exit() -> None:
    """Let the end of the process skip all objects, unless a package names its objects then."""
    if COMPLAINS.isdisjoint(sys.modules):
        gc.freeze()
