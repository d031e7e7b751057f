"""Run a small program under limits of time and memory, for input that may not end or may fill the memory."""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("limited_child.py")
MEMORY_CODE, FAULT_CODE = 77, 78  # exit codes of the child: no memory, and another error of the program
THREADS = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class ProcessLimits:
    """The limits of a program: seconds of processor time, seconds on the clock, and bytes of its own memory."""

    cpu_s: int
    wall_s: float
    memory: int


class LimitError(Exception):
    """The program exceeded a limit; the text names it, as the end of a sentence."""


def run_limited(
    program: Path, request: Any, limits: ProcessLimits, *, fork_after: Callable[[], object] | None = None
) -> Any:
    """Call `main(request)` of a program in a limited process, with one thread, and return its result.

    Args:
        program: A Python file that defines `main`. It imports installed packages, not its neighbours.
        request: Plain values, as JSON.
        limits: The limits.
        fork_after: Imports the modules that both the program and this process need. It runs first, and the program
            runs in a fork of this process, so the imports are done once. Only for a process that has not computed
            anything: it has no effect next to other threads. None: the program runs in a new interpreter.

    Returns:
        The result as plain values; None if the program ends by another error, which its caller must allow for.

    Raises:
        LimitError: A limit was exceeded.
    """
    message = {"program": str(program), "request": request, "cpu_s": limits.cpu_s, "bytes": limits.memory}
    if fork_after is not None and sys.platform == "linux" and threading.active_count() == 1:
        fork_after()
        code, text = _forked(message, limits.wall_s)
    else:
        code, text = _started(message, limits.wall_s)
    if code is None:
        raise LimitError(f"does not end within {limits.wall_s:g} s")
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        raise LimitError(f"does not end within {limits.cpu_s} s of computing")
    if code in (MEMORY_CODE, -signal.SIGABRT):  # libraries abort without memory
        raise LimitError(f"needs more than {limits.memory >> 20} MB of memory")
    return json.loads(text) if code == 0 else None


def _started(message: Mapping[str, Any], wall_s: float) -> tuple[int | None, bytes]:
    """Run the program in a new interpreter. Returns the exit code, None after the time limit, and the output."""
    with subprocess.Popen(
        [sys.executable, "-P", str(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **THREADS},
    ) as child:
        try:
            text, _ = child.communicate(json.dumps(message).encode(), wall_s)
        except subprocess.TimeoutExpired:
            child.kill()
            return None, b""
        except BaseException:
            child.kill()
            child.wait()  # after Ctrl-C, Popen itself does not
            raise
    return child.returncode, text


def _forked(message: dict[str, Any], wall_s: float) -> tuple[int | None, bytes]:
    """Run the program in a fork of this process. Returns the exit code, None after the time limit, and the output."""
    source, place = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # idle threads of libraries are no danger to the child
        child = os.fork()
    if child == 0:
        code = FAULT_CODE
        try:
            os.close(source)
            faulthandler.disable()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            os.environ.update(THREADS)
            from expunge.core import limited_child

            code = limited_child.run(message, place)
        finally:
            os._exit(code)
    os.close(place)
    pieces: list[bytes] = []
    end = time.monotonic() + wall_s
    try:
        while select.select([source], [], [], max(0.0, end - time.monotonic()))[0]:
            if not (piece := os.read(source, 1 << 16)):
                return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), b"".join(pieces)
            pieces.append(piece)
    except BaseException:
        _kill(child)
        raise
    finally:
        os.close(source)
    _kill(child)
    return None, b""


def _kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
