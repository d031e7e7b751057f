"""A runner that waits for another one says for which process, since when, and whether it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from expunge.engine import waiting

HOLD = """
import sys, time
from filelock import FileLock
from expunge.engine.waiting import acquire
lock = FileLock(sys.argv[1])
acquire(lock, "job")
print("held", flush=True)
time.sleep(60)
"""


def test_a_waiting_runner_names_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_S", 0.1)
    monkeypatch.setattr(waiting, "EVERY_S", 0.1)
    path = tmp_path / "a.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    messages: list[str] = []

    def say(message: str) -> None:
        messages.append(message)
        if len(messages) == 1:
            os.kill(holder.pid, signal.SIGSTOP)
        elif "stopped" in message:
            holder.kill()

    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        lock = FileLock(path)
        waiting.acquire(lock, "train full", say)
        assert json.loads((tmp_path / "a.holder").read_text())["pid"] == os.getpid()
        waiting.release(lock)
        assert not (tmp_path / "a.holder").exists() and not lock.is_locked
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert messages[0].startswith(f"train full: waits for process {holder.pid} (since 2")
    assert f"kill -CONT {holder.pid}" in messages[-1]


def test_a_damaged_note_names_nobody(tmp_path: Path) -> None:
    for text in ("", "[", "[1]", '{"pid": "x"}'):
        (tmp_path / "a.holder").write_text(text)
        assert waiting._holder(tmp_path / "a.holder") == "another process"
