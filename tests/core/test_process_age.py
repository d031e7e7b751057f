"""The age of the process counts the start of the interpreter."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from expunge.core import process_age

CODE = """
import time
time.sleep(0.3)
from expunge.core.process_age import process_began
print(time.monotonic() - process_began())
"""


def test_the_time_before_the_first_import_counts() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert 0.28 < float(done.stdout) <= time.monotonic() - began + 0.02  # the system counts in hundredths


def test_a_system_without_that_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_age, "_STAT", process_age.Path("/none"))
    before = time.monotonic()
    assert before <= process_age.process_began() < before + 1
