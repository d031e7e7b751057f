"""A program in a limited process gives its result, or the limit that it exceeded."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.core.limited import LimitError, ProcessLimits, run_limited

LIMITS = ProcessLimits(cpu_s=1, wall_s=30.0, memory=1 << 30)


def program(folder: Path, body: str) -> Path:
    path = folder / "program.py"
    path.write_text(f"import os, sys, time\ndef main(request):\n    {body}\n")
    return path


@pytest.fixture(params=["interpreter", "fork"])
def limited(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`run_limited` in a new interpreter, and in a fork of this process."""
    if request.param == "interpreter":
        return run_limited
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # threads of a test runner are idle
    return functools.partial(run_limited, fork_after=lambda: None)


def test_the_result_of_a_program_that_prints(limited: Callable[..., Any], tmp_path: Path) -> None:
    path = program(tmp_path, "print('noise'); os.write(1, b'more'); return {'n': request['n'] + 1}")
    assert limited(path, {"n": 1}, LIMITS) == {"n": 2}


def test_an_error_of_the_program_is_no_result(limited: Callable[..., Any], tmp_path: Path) -> None:
    assert limited(program(tmp_path, "raise ValueError('x')"), None, LIMITS) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("while True: pass", "does not end within 1 s of computing"),
        ("os.abort()", "needs more than .* MB of memory"),
    ],
)
def test_a_limit(limited: Callable[..., Any], tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(LimitError, match=f"^{message}$"):
        limited(program(tmp_path, body), None, LIMITS)


def test_the_limit_of_memory(limited: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=r"^needs more than 1024 MB of memory$"):
        limited(program(tmp_path, "return len('x' * (2 << 30))"), None, LIMITS)


def test_the_memory_of_this_process_is_not_that_of_the_program(limited: Callable[..., Any], tmp_path: Path) -> None:
    block = bytearray(300 << 20)
    limits = ProcessLimits(cpu_s=5, wall_s=30.0, memory=200 << 20)
    assert limited(program(tmp_path, "return len(bytearray(50 << 20))"), None, limits) == 50 << 20
    assert len(block) == 300 << 20


def test_a_program_that_sleeps(limited: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=r"^does not end within 0.3 s$"):
        limited(program(tmp_path, "time.sleep(60)"), None, ProcessLimits(1, 0.3, 1 << 28))


def test_a_long_result(limited: Callable[..., Any], tmp_path: Path) -> None:
    assert limited(program(tmp_path, "return 'x' * 10**6"), None, LIMITS) == "x" * 10**6


def test_a_fork_has_the_imports_of_its_process_and_leaves_no_output(tmp_path: Path) -> None:
    path = program(tmp_path, "print('noise'); return [os.getppid(), 'colorsys' in sys.modules]")
    code = (
        "import os, pathlib, sys\nfrom expunge.core.limited import ProcessLimits, run_limited\n"
        "print('before', end=' ')\n"
        f"limits = ProcessLimits(1, 30.0, 1 << 28)\npath = pathlib.Path({str(path)!r})\n"
        "result = run_limited(path, None, limits, fork_after=lambda: __import__('colorsys'))\n"
        "print(result == [os.getpid(), True], 'colorsys' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("before True True\n", "")
