"""A program in a limited process gives its result, or the limit that it exceeded."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.core.limited import LimitError, ProcessLimits, run_limited

LIMITS = ProcessLimits(cpu_s=1, wall_s=30.0, memory=1 << 28)


def program(folder: Path, body: str) -> Path:
    path = folder / "program.py"
    path.write_text(f"import os, sys, time\ndef main(request):\n    {body}\n")
    return path


def test_the_result_of_a_program_that_prints(tmp_path: Path) -> None:
    path = program(tmp_path, "print('noise'); os.write(1, b'more'); return {'n': request['n'] + 1}")
    assert run_limited(path, {"n": 1}, LIMITS) == {"n": 2}


def test_an_error_of_the_program_is_no_result(tmp_path: Path) -> None:
    assert run_limited(program(tmp_path, "raise ValueError('x')"), None, LIMITS) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("while True: pass", "does not end within 1 s of computing"),
        ("return len('x' * 10**10)", "needs more than 256 MB of memory"),
    ],
)
def test_a_limit(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(LimitError, match=f"^{message}$"):
        run_limited(program(tmp_path, body), None, LIMITS)


def test_a_program_that_sleeps(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=r"^does not end within 0 s$"):
        run_limited(program(tmp_path, "time.sleep(60)"), None, ProcessLimits(1, 0.3, 1 << 28))
