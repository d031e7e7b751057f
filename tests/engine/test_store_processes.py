"""Several processes use one store: runs, `expunge gc`, `--undo` and `verify` at the same time, and killed ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from toy_jobs import CallJob

from expunge.core.errors import JobError
from expunge.core.files import sweep_parts, whole_folder, write_sealed
from expunge.engine import retention, verify
from expunge.engine.job import Job, silent
from expunge.engine.lease import LOCKS, Lease, claimed, claimed_now, gc_lease
from expunge.engine.record import RECORD, read_record
from expunge.engine.retention import GarbagePlan, remove, restore_trash
from expunge.engine.run import run
from expunge.engine.store import Store, lock_file
from expunge.engine.verify import TRASH, verify_store

WEIGHTS = "model.safetensors"


def ignore(*_: Any) -> None:
    pass


def job(name: str, parents: Mapping[str, Job] | None = None) -> CallJob:
    def do(out: Path, inputs: Mapping[str, Path], progress: object) -> dict[str, Any]:
        (out / WEIGHTS).write_text(name + "".join((folder / WEIGHTS).read_text() for folder in inputs.values()))
        return {}

    return CallJob(label=name, what={"name": name}, do=do, parents=parents or {})


def whole(store: Store, one: Job) -> GarbagePlan:
    return GarbagePlan(store.path(one), one.key, "test")


def weights(store: Store, one: Job) -> GarbagePlan:
    return GarbagePlan(store.path(one), one.key, "test", (WEIGHTS,))


def running(store: Store, one: Job) -> FileLock:
    return FileLock(lock_file(store.root, one.key))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_sealed_file_without_a_key_is_no_record(tmp_path: Path) -> None:
    write_sealed(tmp_path / RECORD, {"removed": [WEIGHTS]})
    with pytest.raises(JobError, match="its key is not that of its fields"):
        read_record(tmp_path / RECORD)


def test_the_second_of_two_equal_gc_changes_nothing(store: Store) -> None:
    one, two = job("one"), job("two")
    run([one, two], store, ignore)
    plans = [whole(store, one), weights(store, two)]
    assert remove(plans, store, to_trash=True)[0] == plans
    assert remove(plans, store, to_trash=True) == ([], [])
    assert sorted(p.name for p in store.root.iterdir() if p.name[0] != ".") == ["test"]
    assert [p.name for p in (store.root / "test").iterdir()] == [store.path(two).name]
    assert len(restore_trash(store)[0]) == 2 and verify_store(store, ignore).faults == ()


def test_a_gc_that_may_remove_nothing_leaves_the_trash(store: Store) -> None:
    one, two = job("one"), job("two")
    run([one, two], store, ignore)
    remove([whole(store, one)], store, to_trash=True)
    with claimed(store.root, [two.key]):
        assert remove([whole(store, two)], store, to_trash=True)[0] == []
    assert restore_trash(store)[0] == [store.path(one)]


def test_a_command_keeps_the_results_of_all_its_jobs_to_its_end(store: Store) -> None:
    first, other = job("first"), job("other")
    run([other], store, ignore)
    removed: list[int] = []

    def do(out: Path, inputs: Mapping[str, Path], progress: object) -> dict[str, Any]:
        # the first job is done, and a later job reads it; the other one belongs to no running command
        for one in (first, other):
            removed.append(len(remove([whole(store, one)], store, to_trash=True)[0]))
        return {}

    middle = CallJob(label="middle", what={"name": "middle"}, do=do)
    assert run([first, middle, job("last", {"model": first})], store, ignore).failures == {}
    assert removed == [0, 1]
    assert claimed_now(store.root) == set() and not list((store.root / LOCKS).glob("run-*"))


def test_the_claim_of_a_dead_process_does_not_count(store: Store) -> None:
    (store.root / LOCKS).mkdir(parents=True)
    for name, text in (("run-1.claim", '["x"]'), ("run-1.lock", ""), ("run-2.lock", "")):
        (store.root / LOCKS / name).write_text(text)
    with claimed(store.root, ["y"]):
        assert claimed_now(store.root) == {"y"}
        assert len(list((store.root / LOCKS).glob("run-*"))) == 2
    assert not list((store.root / LOCKS).glob("run-*"))


def test_a_damaged_list_of_a_running_process_stops_gc(store: Store) -> None:
    """Without the list nobody knows which results the process uses, so none is removed."""
    one, two = job("one"), job("two")
    run([one, two], store, ignore)
    with claimed(store.root, [one.key]):
        (note,) = (store.root / LOCKS).glob("*.claim")
        text = note.read_bytes()
        note.chmod(0o644)
        note.write_bytes(text.replace(one.key[:1].encode(), b"x", 1))
        with pytest.raises(JobError, match=r"claim: the list of the results .* cannot be read \(its checksum"):
            remove([whole(store, two)], store)
        with claimed(store.root, [two.key]):  # another command starts all the same
            pass
        assert store.done(one) and store.done(two)
        note.write_bytes(text)
        assert [plan.key for plan in remove([whole(store, one), whole(store, two)], store)[0]] == [two.key]


def test_a_run_waits_for_a_gc_and_says_for_which_process(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (store.root / LOCKS).mkdir(parents=True)
    gc = gc_lease(store.root, "gc")
    gc.acquire()
    other = threading.Thread(target=run, args=([job("one")], store, ignore))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.engine.lease.FIRST_S", 0.05)
        other.start()
        time.sleep(0.4)
    assert not store.done(job("one"))
    gc.release()
    other.join(10)
    assert store.done(job("one"))
    assert "run: waits for process " in (line := capsys.readouterr().err) and "removes or restores results" in line


def test_weights_that_gc_removes_while_a_job_starts_are_computed_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = job("first")
    second = job("second", {"model": first})
    run([first], store, ignore)
    threads: list[threading.Thread] = []

    def read_now(root: Path) -> set[str]:
        # the worst moment: gc has read which results are in use, and has removed nothing yet
        threads.append(threading.Thread(target=store.make, args=(second, silent)))
        threads[0].start()
        while not list((root / LOCKS).glob("*.reads")):
            time.sleep(0.01)
        time.sleep(0.2)
        return set()

    monkeypatch.setattr(retention, "read_now", read_now)
    assert len(remove([weights(store, first)], store)[0]) == 1
    threads[0].join(10)
    assert store.done(second) and verify_store(store, ignore).faults == ()
    assert (store.path(first) / WEIGHTS).exists()


@pytest.mark.parametrize("plan", [whole, weights])
def test_verify_beside_gc_reports_no_damage(store: Store, monkeypatch: pytest.MonkeyPatch, plan: Any) -> None:
    one = job("one")
    run([one, job("two")], store, ignore)
    original = verify.wrong_file

    def wrong_file(*args: Any) -> str | None:
        remove([plan(store, one)], Store(store.root), to_trash=True)
        return original(*args)

    monkeypatch.setattr(verify, "wrong_file", wrong_file)
    assert verify_store(store, ignore).faults == ()


def test_leftovers_of_killed_processes_go(store: Store) -> None:
    one = job("one")
    run([one], store, ignore)
    place = store.path(one)
    (place / f".{RECORD}.0123abcd.tmp").write_text("half a record")
    assert verify_store(store, ignore).faults == ()
    old = store.root / f".{TRASH}.0123abcd.part"
    part = place.with_name(f".{place.name}.0123abcd.part")
    for folder in (old, part):
        folder.mkdir()
        (folder / WEIGHTS).write_text("half")
    with running(store, one):  # a running job keeps its folder
        remove([weights(store, one)], store, to_trash=True)
        assert part.exists()
    remove([weights(store, one)], store, to_trash=True)
    assert not old.exists() and not part.exists()
    part.mkdir()
    store.restore(one)
    assert [p.name for p in place.parent.iterdir()] == [place.name]
    assert sorted(p.name for p in place.iterdir()) == [RECORD, WEIGHTS]


def test_gc_on_a_full_disk_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job("one")
    run([one], store, ignore)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(retention, "write_record", full)
    with pytest.raises(JobError, match=r"^gc: cannot change the artifact .*: No space left on device$"):
        remove([weights(store, one)], store, to_trash=True)
    assert (store.path(one) / WEIGHTS).exists() and lock_file(store.root, one.key).exists()


def test_a_stopped_process_does_not_remove_the_folder_of_its_successor(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job("one")
    original = Store._check_parents

    def check_parents(self: Store, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        if self is store:  # here the process is stopped, and another one takes the job over
            lock_file(store.root, one.key).unlink()
            place = store.path(one)
            (place.parent / f".{place.name}.0123abcd.part").mkdir(parents=True)
            monkeypatch.setattr(Store, "_check_parents", original)

    monkeypatch.setattr(Store, "_check_parents", check_parents)
    monkeypatch.setattr(store, "make", lambda *_: pytest.fail("the second call of make"))
    with pytest.raises(pytest.fail.Exception):
        Store.make(store, one, silent)
    assert list((store.root / "test").glob(".*.part"))


def test_a_process_that_is_stopped_after_its_check_removes_leftovers_of_before_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job("one")
    place = store.path(one)
    old, new = (place.with_name(f".{place.name}.{name}.part") for name in ("01234567", "89abcdef"))
    old.mkdir(parents=True)
    original = Lease.check

    def check(self: Lease) -> None:
        original(self)
        new.mkdir(exist_ok=True)  # here the process is stopped, and its successor begins

    monkeypatch.setattr(Lease, "check", check)
    store.make(one, silent)
    assert new.is_dir() and not old.exists()


def test_a_folder_that_was_removed_meanwhile_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="another process"), whole_folder(tmp_path / "x") as part:
        (part / "weights").write_text("1")
        sweep_parts(tmp_path / "x")
        part.mkdir()  # as the writer of a record does
    assert not (tmp_path / "x").exists()
