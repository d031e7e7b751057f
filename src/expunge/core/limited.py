"""Run a small program under limits of time and memory, for input that may not end or may fill the memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("limited_child.py")
MEMORY_CODE, FAULT_CODE = 77, 78  # exit codes of the child: no memory, and another error of the program


@dataclass(frozen=True)
class ProcessLimits:
    """The limits of a program: seconds of processor time, seconds on the clock, and bytes of its own memory."""

    cpu_s: int
    wall_s: float
    memory: int


class LimitError(Exception):
    """The program exceeded a limit; the text names it, as the end of a sentence."""


def run_limited(program: Path, request: Any, limits: ProcessLimits) -> Any:
    """Call `main(request)` of a program in a limited process, with one thread, and return its result.

    Args:
        program: A Python file that defines `main`. It imports installed packages, not its neighbours.
        request: Plain values, as JSON.
        limits: The limits.

    Returns:
        The result as plain values; None if the program ends by another error, which its caller must allow for.

    Raises:
        LimitError: A limit was exceeded.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    message = {"program": str(program), "request": request, "cpu_s": limits.cpu_s, "bytes": limits.memory}
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(message).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limits.wall_s,
            env={**os.environ, **threads, "TOKENIZERS_PARALLELISM": "false"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LimitError(f"does not end within {limits.wall_s:.0f} s") from None
    if done.returncode in (-signal.SIGKILL, -signal.SIGXCPU):
        raise LimitError(f"does not end within {limits.cpu_s} s of computing")
    if done.returncode == MEMORY_CODE or done.returncode == -signal.SIGABRT:  # libraries abort without memory
        raise LimitError(f"needs more than {limits.memory >> 20} MB of memory")
    return json.loads(done.stdout) if done.returncode == 0 else None
