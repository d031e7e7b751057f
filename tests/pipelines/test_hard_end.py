"""The end of a time limit, for a main thread that cannot answer."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from expunge.pipelines.budget import Budget
from expunge.pipelines.hard_end import HardEnd, TimeLimitExceeded, alarm

CODE = """
import time
from expunge.pipelines.hard_end import HardEnd
HardEnd.of_limit(time.monotonic(), 1.0, lambda: 7)
time.sleep(60)
"""


def test_a_process_ends_before_the_limit_whatever_it_does() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], timeout=30, check=False)
    assert done.returncode == 7


def test_a_cancelled_end_leaves_the_process_alone() -> None:
    HardEnd.of_limit(time.monotonic(), 0.2, lambda: 7).cancel()
    time.sleep(0.3)


def test_the_alarm_comes_before_the_limit() -> None:
    budget = Budget(0.3)
    with pytest.raises(TimeLimitExceeded), alarm(budget):
        time.sleep(5)
    assert budget.used_s < 0.6
