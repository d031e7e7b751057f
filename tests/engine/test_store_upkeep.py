"""A store that loses nothing: checksums, full and read-only disks, damaged records, locks of killed processes, and what
`gc` lets go."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors import SafetensorError
from toy_jobs import CallJob

from expunge.core.errors import JobError
from expunge.engine.job import Job
from expunge.engine.lease import read_now
from expunge.engine.retention import GarbagePlan, remove
from expunge.engine.run import plan, run
from expunge.engine.store import Store, lock_file
from expunge.engine.verify import verify_jobs, verify_store


def job(name: str, parents: Mapping[str, Job] | None = None, fails: BaseException | None = None) -> Job:
    def do(folder: Path, inputs: Mapping[str, Path], progress: Any) -> dict[str, Any]:
        (folder / "made.txt").write_text(name + "".join((p / "made.txt").read_text() for p in inputs.values()))
        (folder / "model.safetensors").write_bytes(name.encode() * 100)
        if fails is not None:
            raise fails
        return {}

    return CallJob(kind="test", label=name, what={"name": name}, do=do, parents=parents or {})


def ignore(*_: Any) -> None:
    pass


def overwrite(path: Path, text: str) -> None:
    """Change a read-only file of the store."""
    path.chmod(0o644)
    path.write_text(text)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_verify_tells_what_is_damaged_or_missing(store: Store) -> None:
    first = job("first")
    second, third = job("second", {"model": first}), job("third", {"model": first})
    run([second, third], store, ignore)
    assert verify_jobs([second, third], store, ignore).faults == ()
    whole = verify_store(store, ignore)
    assert (whole.folders, whole.files, whole.faults) == (3, 6, ())
    overwrite(store.path(first) / "made.txt", "First")  # as long as it was
    (store.path(second) / "made.txt").unlink()
    overwrite(store.path(third) / "job.json", "{")
    reasons = {f.path.relative_to(store.root).parts[1].split("-")[0]: f.reason
               for f in verify_store(store, ignore).faults}  # fmt: skip
    assert reasons["first"].startswith("is damaged")
    assert reasons["second"] == "is missing"
    assert "damaged" in reasons["third"]
    assert len(verify_jobs([second, third], store, ignore).faults) == 3


def test_verify_misses_a_parent_and_counts_what_is_not_done(store: Store) -> None:
    first, last = job("first"), job("last")
    second = job("second", {"model": first})
    run([second], store, ignore)
    os.rename(store.path(first), store.root / "away")
    result = verify_jobs([second, last], store, ignore)
    assert [f.reason for f in result.faults] == ["test first has vanished"]
    assert result.waiting == 1


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk_ends_one_job_and_no_others(error: BaseException, store: Store) -> None:
    run([job("before")], store, ignore)
    full, other = job("full", fails=error), job("other")
    waits = job("waits", {"model": full})
    done = run([full, waits, other], store, ignore)
    assert "No space left on device" in done.failures[full.key] and "\n" not in done.failures[full.key]
    assert "waits for" in done.failures[waits.key]
    assert other.key in done.records and store.done(job("before"))
    assert [p.name for p in (store.root / "test").iterdir() if p.name.startswith(".")] == []


def test_a_disk_that_is_full_at_the_last_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = run([job("one")], store, ignore)
    assert "No space left" in done.failures[job("one").key]
    assert not store.done(job("one"))
    assert run([job("one")], store, ignore).failures == {}


def test_a_read_only_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run([job("before")], store, ignore)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    done = run([job("before"), job("after")], store, ignore)
    assert job("before").key in done.records  # what is done is read without a lock
    assert "Read-only file system" in done.failures[job("after").key]


def test_a_damaged_record_ends_its_own_job_alone(store: Store) -> None:
    bad, good = job("bad"), job("good")
    run([bad], store, ignore)
    overwrite(store.path(bad) / "job.json", '{"key": ')
    assert [p.state for p in plan([bad, good], store)] == ["missing", "missing"]
    done = run([bad, job("child", {"model": bad}), good], store, ignore)
    assert "damaged" in done.failures[bad.key] and good.key in done.records
    assert len(done.failures) == 2
    (store.path(bad) / "job.json").unlink()
    shutil.copy(store.path(good) / "job.json", store.path(bad) / "job.json")
    assert "another job's" in run([bad], store, ignore).failures[bad.key]


def test_a_vanished_parent(store: Store) -> None:
    first = job("first")
    second = job("second", {"model": first})
    with pytest.raises(JobError, match=r"its model .test first. has vanished"):
        store.make(second, ignore)


def test_a_damaged_parent_ends_those_that_read_it_alone(store: Store) -> None:
    """One byte of a stored model has changed; the metrics of others do not read it."""
    bad, good = job("bad"), job("good")
    run([bad, good], store, ignore)
    weights = store.path(bad) / "model.safetensors"
    overwrite(weights, "X" + weights.read_text()[1:])
    child, other = job("child", {"model": bad}), job("other", {"model": good})
    done = run([child, other, job("grandchild", {"model": child})], Store(store.root), ignore)
    assert done.failures[child.key].startswith(f"test child: its model (test bad): {weights} is damaged")
    assert "move the folder away and run again" in done.failures[child.key]
    assert set(done.records) == {bad.key, good.key, other.key}
    os.rename(weights.parent, store.root / "away")
    assert run([child], Store(store.root), ignore).failures == {}


def test_a_job_is_found_under_any_label(store: Store) -> None:
    run([job("one")], store, ignore)
    other = CallJob(kind="test", label="another name", what={"name": "one"}, do=ignore)
    assert store.done(other)
    assert store.path(other) == store.path(job("one"))


def test_provenance(store: Store) -> None:
    record = store.make(job("one"), ignore)
    assert record["files"]["model.safetensors"][1] == 300
    assert set(record) >= {"versions", "code", "machine", "peak_mb", "wall_s", "seed"}
    assert record["machine"]["device"] and record["peak_mb"]["process"] > 0


HERE = Path(__file__).parent  # `python -c` finds toy_jobs here

HOLD = """
import sys, time
from pathlib import Path
from toy_jobs import CallJob
from expunge.engine.store import Store

def do(folder, parents, progress):
    print("held", flush=True)
    time.sleep(60)

parent = CallJob(kind="test", label="parent", what={"name": "parent"}, do=do)
Store(Path(sys.argv[1])).make(CallJob(kind="test", label="one", what={"name": "one"}, do=do), print)
"""


def test_the_lock_of_a_killed_process_is_free(store: Store) -> None:
    words = [sys.executable, "-c", HOLD, str(store.root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=HERE) as content:
        try:
            assert content.stdout is not None and content.stdout.readline() == "held\n"
            path = store.path(job("one"))
            busy = remove([GarbagePlan(path, job("one").key, "test")], store)[1]
            assert [r.folder for r in busy] == [path]  # gc leaves alone what a process has locked
        finally:
            content.send_signal(signal.SIGKILL)
    assert run([job("one")], store, ignore).failures == {}
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # what the killed attempt left is gone


def test_gc_leaves_alone_what_a_running_job_reads(store: Store) -> None:
    first = job("first")
    run([first], store, ignore)
    calls: list[int] = []

    def do(folder: Path, inputs: Mapping[str, Path], progress: Any) -> dict[str, Any]:
        assert first.key in read_now(store.root)
        calls.append(len(remove([GarbagePlan(store.path(first), first.key, "test")], store)[0]))
        return {}

    second = CallJob(kind="test", label="second", what={"name": "second"}, do=do, parents={"model": first})
    assert run([second], store, ignore).failures == {}
    assert calls == [0] and store.done(first)
    assert first.key not in read_now(store.root)
    assert len(remove([GarbagePlan(store.path(first), first.key, "test")], store)[0]) == 1
    assert not store.done(first)


def test_removed_weights_are_made_again_when_they_are_needed(store: Store) -> None:
    first = job("first")
    run([first], store, ignore)
    weights = store.path(first) / "model.safetensors"
    before = weights.read_bytes()
    remove([GarbagePlan(store.path(first), first.key, "test", ("model.safetensors",))], store)
    assert not weights.exists() and store.done(first)
    assert verify_store(store, ignore).faults == ()
    run([first], store, ignore)
    assert not weights.exists()  # nothing has asked for them
    assert run([job("second", {"model": first})], store, ignore).failures == {}
    assert weights.read_bytes() == before
    record = store.record(first) or {}
    assert record["made_again"]["same_bytes"] is True and "removed" not in record
    assert lock_file(store.root, first.key).exists()


FULL = """
import resource, sys
from pathlib import Path
from toy_jobs import CallJob
from expunge.engine.run import run
from expunge.engine.store import Store
import torch
from safetensors.torch import save_file

def do(n):
    def inner(folder, parents, progress):
        save_file({"a": torch.zeros(n)}, folder / "model.safetensors")
        return {}
    return inner

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
jobs = [CallJob(kind="test", label=f"n{n}", what={"n": n}, do=do(n)) for n in (10, 100_000, 20)]
outcome = run(jobs, Store(Path(sys.argv[1])), lambda event: None)
print(len(outcome.records), *outcome.failures.values(), sep="|")
"""


def test_a_file_that_the_system_refuses_to_write_ends_its_job_alone(store: Store) -> None:
    # not a made-up error: the kernel says no in the middle of a file of weights
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(store.root)], capture_output=True, text=True, check=True, cwd=HERE
    )
    n, *reasons = done.stdout.strip().split("|")
    assert n == "2" and len(reasons) == 1, done
    assert reasons[0].startswith("test n100000: cannot write under")
    result = verify_store(store, ignore)
    assert (result.folders, result.faults) == (2, ())
    assert not [p for p in store.root.rglob("*.part")]


def test_the_energy_counters_are_read_where_there_are_any(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.engine.provenance.RAPL", tmp_path / "none")
    run([job("before")], store, ignore)
    assert (store.record(job("before")) or {})["energy_j"] is None
    for name in ("intel-rapl:0", "intel-rapl:1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text("5000000\n")
    monkeypatch.setattr("expunge.engine.provenance.RAPL", tmp_path)

    def do(folder: Path, parents: Mapping[str, Path], progress: Any) -> dict[str, Any]:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("7500000")
        return {}

    worked = CallJob(kind="test", label="works", what={}, do=do)
    run([worked], store, ignore)
    assert (store.record(worked) or {})["energy_j"] == 2.5


def test_a_record_of_an_earlier_version_says_what_to_do(store: Store) -> None:
    first = job("first")
    run([first], store, ignore)
    place = store.path(first)
    record = json.loads((place / "job.json").read_text())
    del record["sha256"]
    (place / "job.json").unlink()
    (place / "job.json").write_text(json.dumps(record))
    reason = run([job("second", {"model": first})], Store(store.root), ignore).failures[first.key]
    assert str(place) in reason and "was written by an earlier version" in reason
    assert reason.endswith("move its folder away and run again")
