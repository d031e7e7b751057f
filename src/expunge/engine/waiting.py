"""Wait for another process that runs the same job, and say which one."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from filelock import BaseFileLock, Timeout

from expunge.core.terminal import complain

FIRST_S, EVERY_S = 2.0, 10.0  # seconds until the first message, and between messages
LONGEST_S = 24 * 3600.0


def acquire(lock: BaseFileLock, name: str, say: Callable[[str], None] = complain) -> None:
    """Acquire a job's lock, and leave a note of this process next to it, which `release` removes.

    While another process holds it, report that process about every ten seconds. Raises Timeout after a day.
    """
    note = holder_note(lock)
    began, wait_s = time.monotonic(), FIRST_S
    while True:
        try:
            lock.acquire(timeout=wait_s)
            break
        except Timeout:
            if time.monotonic() - began > LONGEST_S:
                raise
            say(f"{name}: waits for {_holder(note)}, which runs the same job")
            wait_s = EVERY_S
    contents = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):  # a full disk; the lock itself is held
        note.write_text(json.dumps(contents), encoding="utf-8")


def release(lock: BaseFileLock) -> None:
    """Remove the note, and release the lock."""
    if lock.is_locked:
        with contextlib.suppress(OSError):  # a store that has become read-only
            holder_note(lock).unlink(missing_ok=True)
    lock.release()


def holder_note(lock: BaseFileLock) -> Path:
    """Return the file that names the process with a lock."""
    return Path(lock.lock_file).with_suffix(".holder")


def _holder(note: Path) -> str:
    """Return the process that holds a lock, in words."""
    try:
        contents = json.loads(note.read_text(encoding="utf-8"))
        pid, host, since = int(contents["pid"]), str(contents["host"]), str(contents["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    if host != socket.gethostname():
        return f"process {pid} on {host} (since {since})"
    if _is_stopped(pid):
        return f"process {pid} (since {since}; it is stopped: continue it with `kill -CONT {pid}`, or end it)"
    return f"process {pid} (since {since})"


def _is_stopped(pid: int) -> bool:
    """Return whether a process of this machine is stopped (SIGSTOP, Ctrl-Z). False where /proc does not exist."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
            in "Tt"
        )
    except (OSError, IndexError):
        return False
