"""A runner that waits names the process it waits for, and takes over the job of a stopped process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from toy_jobs import CallJob

from expunge.engine import lease as leases
from expunge.engine.lease import Lease, LeaseLostError
from expunge.engine.store import Store

HOLD = """
import sys, time
from pathlib import Path
from expunge.engine.lease import Lease
lease = Lease(Path(sys.argv[1]), "job")
lease.acquire()
print("held", flush=True)
time.sleep(60)
"""
HERE = Path(__file__).parent  # `python -c` finds toy_jobs here
# a job that writes "slow", reports progress, and says where it is
SLOW = """
import sys, time
from pathlib import Path
from expunge.engine.store import Store
from toy_jobs import CallJob

def do(out, inputs, progress):
    print("runs", flush=True)
    for step in range(int(sys.argv[2])):
        time.sleep(0.02)
        progress(step, 1000)
    (out / "text").write_text("slow")
    return {}

Store(Path(sys.argv[1])).make(CallJob(label=sys.argv[3], what={"n": 1}, do=do), lambda done, total: None)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "FIRST_S", 0.1)
    monkeypatch.setattr(leases, "EVERY_S", 0.1)


def _start(code: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE
    )


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_waiting_runner_names_the_holder(tmp_path: Path, quick: None) -> None:
    path = tmp_path / "a.lock"
    holder = _start(HOLD, str(path))
    messages: list[str] = []

    def say(message: str) -> None:
        messages.append(message)
        if len(messages) == 1:
            os.kill(holder.pid, signal.SIGSTOP)
        elif "stopped" in message:
            holder.kill()

    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        lease = Lease(path, "train full", say)
        lease.acquire()
        assert json.loads((tmp_path / "a.holder").read_text())["pid"] == os.getpid()
        lease.release()
        assert not (tmp_path / "a.holder").exists()
    finally:
        _end(holder)
    assert messages[0].startswith(f"train full: waits for process {holder.pid} (since 2")
    assert f"kill -CONT {holder.pid}" in messages[-1] and "taken over after 300 s" in messages[-1]


@pytest.mark.parametrize(("steps", "label"), [("1000", "a"), ("1", "b")], ids=["in its steps", "before its result"])
def test_the_job_of_a_stopped_process_is_taken_over(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, steps: str, label: str
) -> None:
    monkeypatch.setattr(leases, "STOPPED_S", 0.5)
    stopped = _start(SLOW, str(tmp_path), steps, label)
    try:
        assert stopped.stdout is not None and stopped.stdout.readline() == "runs\n"
        os.kill(stopped.pid, signal.SIGSTOP)

        def do(out: Path, inputs: object, progress: object) -> dict[str, int]:
            (out / "text").write_text("fast")
            return {}

        job = CallJob(label="a", what={"n": 1}, do=do)
        assert Store(tmp_path).make(job, lambda done, total: None)["key"] == job.key
        os.kill(stopped.pid, signal.SIGCONT)
        _, err = stopped.communicate(timeout=60)
    finally:
        _end(stopped)
    assert stopped.returncode == 0, err
    assert "has taken the job over; this process waits for its result" in err
    (folder,) = [p for p in (tmp_path / "test").iterdir()]  # no second result, and no part of one
    assert (folder / "text").read_text() == "fast"
    assert not list((tmp_path / ".locks").glob("*.holder")) and not list((tmp_path / ".locks").glob("*.reads"))


def test_a_process_that_works_between_two_stops_keeps_its_lease(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a stop begins again when the process has used processor time."""
    monkeypatch.setattr(leases, "STOPPED_S", 0.25)
    ticks = iter(range(1000))
    monkeypatch.setattr(leases, "_pause", lambda holder: leases._Pause(1, 1, next(ticks)))
    holder = _start(HOLD, str(tmp_path / "a.lock"))
    messages: list[str] = []

    def say(message: str) -> None:
        messages.append(message)
        if len(messages) == 8:
            holder.kill()

    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        Lease(tmp_path / "a.lock", "job", say).acquire()
    finally:
        _end(holder)
    assert len(messages) >= 8 and not any("takes over" in message for message in messages)


def test_of_several_waiting_runners_one_takes_over(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STOPPED_S", 0.3)
    stopped = _start(HOLD, str(tmp_path / "a.lock"))
    inside, most, done = [0], [0], []

    def wait() -> None:
        lease = Lease(tmp_path / "a.lock", "job", lambda message: None)
        lease.acquire()
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        threading.Event().wait(0.2)
        inside[0] -= 1
        lease.release()
        done.append(1)

    try:
        assert stopped.stdout is not None and stopped.stdout.readline() == "held\n"
        os.kill(stopped.pid, signal.SIGSTOP)
        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        _end(stopped)
    assert most == [1] and len(done) == 4


def test_a_lost_lease_is_reported_and_the_note_of_the_other_stays(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "a.lock", "job")
    lease.acquire()
    lease.check()
    (tmp_path / "a.lock").unlink()
    other = Lease(tmp_path / "a.lock", "job")
    other.acquire()
    lease.check(now=False)  # checked a moment ago
    with pytest.raises(LeaseLostError, match=rf"^job: this process was stopped, and process {os.getpid()} "):
        lease.check()
    lease.release()
    assert (tmp_path / "a.holder").exists()
    other.release()
    assert not (tmp_path / "a.holder").exists()


def test_a_damaged_note_names_nobody(tmp_path: Path) -> None:
    for text in ("", "[", "[1]", '{"pid": "x"}'):
        (tmp_path / "a.holder").write_text(text)
        assert leases._words(leases._read(tmp_path / "a.holder")) == "another process"
