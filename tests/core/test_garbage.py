"""The garbage collector of a process that runs one command."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, sys
from expunge.core.garbage import collect_rarely, keep_until_exit

collect_rarely()
print(gc.get_threshold()[0], gc.isenabled())

class Noted:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("collected")

noted = Noted()
if {duckdb}:
    import duckdb
    duckdb.connect(":memory:").close()
del noted
keep_until_exit()
"""


SKIPS = """
import gc
from expunge.core.garbage import collect_rarely, skip_imports

skip_imports()
print(gc.get_freeze_count() > 0)
collect_rarely()
skip_imports()
print(gc.get_freeze_count() > 0)
"""


def test_the_imports_are_skipped_in_the_process_of_a_command_alone() -> None:
    done = subprocess.run([sys.executable, "-c", SKIPS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("duckdb", [False, True])
def test_the_end_searches_no_objects_unless_a_package_names_those_that_are_left(duckdb: bool) -> None:
    words = [sys.executable, "-c", PROGRAM.format(duckdb=duckdb)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")
    assert lines[0] == "100000 True"
    assert ("collected" in lines) == duckdb
    assert done.stderr == ""
