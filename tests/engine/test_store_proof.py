"""A store that proves itself: sealed records, keys computed again, chains of parents, modes, copies, and the trash."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from toy_jobs import CallJob

from expunge.core.errors import JobError
from expunge.core.files import (
    CHECKSUMS,
    READ,
    check_sealed_folder,
    read_sealed,
    seal_folder,
    whole_folder,
    write_note,
    write_sealed,
)
from expunge.core.fingerprints import note
from expunge.engine.job import Job, JobContext
from expunge.engine.lease import LOCKS, Lease
from expunge.engine.record import RECORD, proof
from expunge.engine.retention import GarbagePlan, empty_trash, remove, restore_trash, weight_files
from expunge.engine.run import plan, run
from expunge.engine.show import MANIFEST, MEASURED, change_notes, changed_files, show, write_manifest
from expunge.engine.store import PASSPORTS, Store, lock_file
from expunge.engine.verify import TRASH, root, verify_jobs, verify_store
from expunge.engine.worker import do_job, failure

WEIGHTS = "model.safetensors"


def job(name: str, parents: Mapping[str, Job] | None = None, *, text: str = "", fails: Exception | None = None) -> Job:
    def do(folder: Path, inputs: Mapping[str, Path], progress: Any) -> dict[str, Any]:
        (folder / "made.txt").write_text(text or name + "".join((p / "made.txt").read_text() for p in inputs.values()))
        (folder / WEIGHTS).write_bytes((text or name).encode() * 100)
        (folder / WEIGHTS).chmod(0o600)  # as safetensors does
        (folder / "log.jsonl").write_text(f'{{"time": {random.random()}}}\n')
        if fails is not None:
            raise fails
        return {"loss": 0.5, "ends": -1e300}

    return CallJob(kind="test", label=name, what={"name": name, "rate": 1e-5}, do=do, parents=parents or {})


@dataclass(frozen=True, eq=False, kw_only=True)
class ResumableJob(Job):
    """A job that writes checkpoints of some steps, and fails."""

    kind: str = "test"  # type: ignore[misc]
    steps: Sequence[int]

    @property
    def resumable(self) -> bool:
        return True

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        assert context.checkpoints is not None
        for step in self.steps:
            with whole_folder(context.checkpoints / f"step-{step}", READ) as part:
                (part / "state.json").write_text(f'{{"step": {step}, "loss": 0.25}}')
                seal_folder(part)
        raise JobError("stopped")


def ignore(*_: Any) -> None:
    pass


def write(path: Path, data: bytes) -> None:
    """Change a file of the store as someone who may do it."""
    path.chmod(0o644)
    path.write_bytes(data)


def flip(path: Path, bit: int) -> bytes:
    before = path.read_bytes()
    after = bytearray(before)
    after[bit // 8] ^= 1 << bit % 8
    write(path, bytes(after))
    return before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.slow
def test_each_of_a_thousand_flips_in_any_file_is_found(store: Store) -> None:
    first = job("first")
    run([job("third", {"model": job("second", {"model": first})}), job("other"), job("gone")], store, ignore)
    for name in (PASSPORTS, ".loaded", ".runs"):
        write_sealed(store.root / name / "one.json", {"model": "m"})
    with pytest.raises(JobError):
        store.make(ResumableJob(label="unfinished", steps=(3, 5)), ignore)
    assert do_job(job("fails", fails=JobError("no memory")), store, ignore) == "no memory"
    removals = [GarbagePlan(store.path(job("gone")), job("gone").key, "test")]
    remove([*removals, GarbagePlan(store.path(first), first.key, "test", (WEIGHTS,))], store, to_trash=True)
    assert verify_store(store, ignore).faults == ()
    files = [p for p in store.root.rglob("*") if p.is_file() and p.stat().st_size]
    own = {WEIGHTS, RECORD, "made.txt", "log.jsonl", "one.json", f"{job('fails').key[:32]}.json"}
    assert {p.name for p in files} == own | {"state.json", CHECKSUMS}  # locks are empty once their process has ended
    draw = random.Random(7)
    missed = []
    for _ in range(1000):
        path = draw.choice(files)
        bit = draw.randrange(8 * path.stat().st_size)
        before = flip(path, bit)
        missed += [] if verify_store(store, ignore).faults else [(path, bit)]
        write(path, before)
    assert missed == []


def test_a_record_sealed_again_with_another_key_is_damaged(store: Store) -> None:
    one = job("one")
    run([one], store, ignore)
    path = store.path(one) / RECORD
    record = read_sealed(path)
    path.chmod(0o644)
    write_sealed(path, record | {"identity": record["identity"] | {"what": {"name": "two"}}})
    outcome = run([one], Store(store.root), ignore)
    assert "its key is not that of its fields" in outcome.failures[one.key]


def test_a_lost_record_is_named_before_anything_is_computed(store: Store) -> None:
    one = job("one")
    run([one], store, ignore)
    (store.path(one) / RECORD).unlink()
    computed: list[str] = []
    again = Store(store.root)
    (planned,) = plan([one], again)
    assert planned.state == "missing" and "has lost its job.json; move the folder away" in planned.damage
    outcome = run([one, job("other")], again, lambda event: computed.append(f"{event.what} {event.job.label}"))
    assert "has lost its job.json" in outcome.failures[one.key]
    assert computed == ["failed one", "start other", "done other"]


def test_small_files_of_a_hit_are_checked_and_weights_when_they_are_read(store: Store) -> None:
    small, big, good = job("small"), job("big"), job("good")
    run([small, big, good], store, ignore)
    write(store.path(small) / "made.txt", b"Small")
    write(store.path(big) / WEIGHTS, b"Big" * 100)
    outcome = run([small, big, good], Store(store.root), ignore)
    assert set(outcome.records) == {big.key, good.key}
    assert "made.txt is damaged: its checksum is not the stored one" in outcome.failures[small.key]
    outcome = run([job("reads", {"model": big})], Store(store.root), ignore)
    assert f"{WEIGHTS} is damaged" in str(outcome.first)


def test_a_parent_that_was_replaced_breaks_the_chain(store: Store) -> None:
    first = job("first")
    second = job("second", {"model": first})
    run([second], store, ignore)
    os.rename(store.path(first), store.root / "away")
    run([job("first", text="FIRST")], store, ignore)  # the same key, other bytes
    (fault,) = verify_jobs([second], Store(store.root), ignore).faults
    assert fault.path == store.path(second) and "was computed from another result of its model" in fault.reason
    os.rename(store.path(first), store.root / "wrong")
    run([first], store, ignore)  # the same bytes again, but for the log
    assert verify_jobs([second], Store(store.root), ignore).faults == ()


def test_one_root_stands_for_the_results_of_a_study(tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("a", "b", "c")]
    roots = []
    for store, text in zip(stores, ("", "", "other"), strict=True):
        first = job("first", text=text)
        second = job("second", {"model": first}, text="same")
        run([second], store, ignore)
        roots.append(root([second, job("not done")], store))
    assert roots[0] == roots[1] != roots[2]  # a parent's other bytes give another root
    first, second = job("first"), job("second", {"model": job("first")}, text="same")
    remove([GarbagePlan(stores[0].path(first), first.key, "test", (WEIGHTS,))], stores[0])
    assert root([second], stores[0]) == roots[0]
    stores[0].restore(first)
    assert root([second], stores[0]) == roots[0] and verify_jobs([second], stores[0], ignore).faults == ()


def test_the_proof_of_a_result_survives_other_bytes_of_a_second_computation(store: Store) -> None:
    texts = iter(("one", "two", "three"))

    def do(folder: Path, inputs: Mapping[str, Path], progress: Any) -> dict[str, Any]:
        (folder / WEIGHTS).write_text(next(texts))
        return {}

    first = CallJob(kind="test", label="first", do=do)
    second = job("second", {"model": first}, text="same")
    run([second], store, ignore)
    before = proof(store.record(first) or {})
    for _ in range(2):
        remove([GarbagePlan(store.path(first), first.key, "test", (WEIGHTS,))], store)
        store.restore(first)
        assert proof(store.record(first) or {}) == before
    assert (store.record(first) or {})["made_again"]["same_bytes"] is False
    assert verify_jobs([second], store, ignore).faults == ()


def test_files_of_the_store_are_read_only_and_texts_no_more_readable_than_weights(store: Store, tmp_path: Path) -> None:
    one = job("one")
    run([one], store, ignore)
    remove([GarbagePlan(store.path(one), one.key, "test", (WEIGHTS,))], store)
    store.restore(one)
    modes = {p.name: p.stat().st_mode & 0o777 for p in store.path(one).iterdir()}
    assert set(modes.values()) == {store.path(one).stat().st_mode & 0o444}
    with whole_folder(tmp_path / "out") as part:
        show(one, store, part)
    display = {p.stat().st_mode & 0o777 for p in (tmp_path / "out").iterdir()}
    assert display == {(tmp_path / "out").stat().st_mode & 0o666}


def test_a_write_into_a_shown_folder_does_not_reach_the_store_and_is_noticed(store: Store, tmp_path: Path) -> None:
    one, out = job("one"), tmp_path / "out"
    run([one], store, ignore)
    show(one, store, out)
    write_manifest(out)
    assert changed_files(out) == []
    os.utime(out / "made.txt")
    assert changed_files(out) == []  # another time, the same bytes
    with open(out / WEIGHTS, "ab") as f:
        f.write(b"!")
    (out / "made.txt").unlink()
    assert sorted(changed_files(out)) == ["made.txt", WEIGHTS]
    assert len(change_notes(out)) == 2 and str(out / "made.txt") in "".join(change_notes(out))
    assert verify_store(store, ignore).faults == ()


def test_checksums_of_measurements_stand_next_to_them(store: Store, tmp_path: Path) -> None:
    one, out = job("one"), tmp_path / "out"
    run([one], store, ignore)
    show(one, store, out)
    show(one, store, out / MEASURED)
    write_manifest(out)
    assert MEASURED + "/" not in (out / MANIFEST).read_text() and changed_files(out) == []
    (out / MEASURED / "made.txt").write_text("other")
    assert changed_files(out) == [f"{MEASURED}/made.txt"]
    (out / MEASURED).rename(tmp_path / "away")
    assert changed_files(out) == [MEASURED]


def test_a_shown_record_has_no_key(store: Store, tmp_path: Path) -> None:
    first = job("first")
    second = job("second", {"of": first})
    run([second], store, ignore)
    show(second, store, tmp_path / "out")
    text = (tmp_path / "out" / RECORD).read_text()
    record = store.record(second) or {}
    assert second.key not in text and first.key not in text and record["chain"]["of"] not in text
    assert read_sealed(tmp_path / "out" / RECORD)["facts"] == record["facts"]


def test_a_damaged_file_is_not_shown(store: Store, tmp_path: Path) -> None:
    one = job("one")
    run([one], store, ignore)
    write(store.path(one) / WEIGHTS, b"One" * 100)
    with pytest.raises(Exception, match="is damaged"):
        show(one, Store(store.root), tmp_path / "out")


def test_the_trash_gives_back_what_gc_removed(store: Store) -> None:
    whole, part = job("whole"), job("part")
    run([whole, part], store, ignore)
    plans = [
        GarbagePlan(store.path(whole), whole.key, "test"),
        GarbagePlan(store.path(part), part.key, "test", (WEIGHTS,)),
    ]
    remove(plans, store, to_trash=True)
    assert not store.done(whole) and not (store.path(part) / WEIGHTS).exists()
    remove([], store, to_trash=True)  # a gc without work leaves the trash alone
    done, stays = restore_trash(store)
    assert sorted(done) == sorted([store.path(whole), store.path(part)]) and stays == []
    assert store.done(whole) and "removed" not in (store.record(part) or {})
    assert verify_store(store, ignore).faults == () and not (store.root / TRASH).exists()


def test_models_kept_during_training_go_and_come_back_with_the_weights(store: Store) -> None:
    rest = "checkpoint-5/model.safetensors"

    def do(out: Path, inputs: object, progress: object) -> dict[str, int]:
        (out / WEIGHTS).write_bytes(b"last")
        (out / "checkpoint-5").mkdir()
        (out / rest).write_bytes(b"fifth")
        (out / "checkpoint-5" / "config.json").write_text("{}")
        return {}

    one = CallJob(label="one", what={"n": 5}, do=do)
    run([one], store, ignore)
    folder = store.path(one)
    assert weight_files(folder) == (rest, WEIGHTS)
    remove([GarbagePlan(folder, one.key, "test", weight_files(folder))], store, to_trash=True)
    assert not (folder / rest).exists() and (folder / "checkpoint-5" / "config.json").exists() and store.done(one)
    assert restore_trash(store) == ([folder], [])
    assert (folder / rest).read_bytes() == b"fifth" and verify_store(store, ignore).faults == ()
    remove([GarbagePlan(folder, one.key, "test", weight_files(folder))], store)
    store.restore(one)  # computed again
    assert (folder / rest).read_bytes() == b"fifth" and verify_store(store, ignore).faults == ()


def test_the_trash_does_not_replace_a_result_that_exists_again(store: Store) -> None:
    one = job("one")
    run([one], store, ignore)
    remove([GarbagePlan(store.path(one), one.key, "test")], store, to_trash=True)
    run([one], store, ignore)
    done, (stays,) = restore_trash(store)
    assert done == [] and stays == store.root / TRASH / "test" / store.path(one).name
    assert empty_trash(store) > 300 and not (store.root / TRASH).exists()


def test_only_the_last_gc_is_in_the_trash(store: Store) -> None:
    one, two = job("one"), job("two")
    run([one, two], store, ignore)
    for old in (one, two):
        remove([GarbagePlan(store.path(old), old.key, "test")], store, to_trash=True)
    assert restore_trash(store)[0] == [store.path(two)] and not store.done(one)


def test_a_disk_that_is_full_while_a_tokenizer_is_written_ends_one_job(store: Store) -> None:
    # the tokenizers library raises a bare Exception
    full = job("full", fails=Exception("No space left on device (os error 28)"))
    outcome = run([full, job("other")], store, ignore)
    assert "No space left on device" in outcome.failures[full.key] and len(outcome.records) == 1
    with pytest.raises(Exception, match=r"^a defect$"):
        run([job("defect", fails=Exception("a defect"))], store, ignore)


def test_each_damaged_note_of_a_store_is_named(store: Store) -> None:
    run([job("one")], store, ignore)
    notes = [*(store.root / name / "a note" for name in (PASSPORTS, ".loaded", ".runs")), store.root / "plan.json"]
    for path in notes:
        write_sealed(path, {"parts": None})
    assert verify_store(store, ignore).faults == ()
    for path in notes:
        before = flip(path, 8 * 12 + 3)
        (fault,) = verify_store(store, ignore).faults
        assert fault.path == path and "remove it, because no result depends on it" in fault.reason
        write(path, before)
    assert verify_store(store, ignore).faults == ()


def test_a_note_under_the_name_of_another_is_named(store: Store) -> None:
    one, two = store.root / PASSPORTS / "one.json", store.root / PASSPORTS / "two.json"
    for path in (one, two):
        write_note(path, {"model": path.stem})
    assert verify_store(store, ignore).faults == ()
    write(one, two.read_bytes())
    assert [fault.path for fault in verify_store(store, ignore).faults] == [one]


@pytest.mark.parametrize("label", [".", ".hidden", "..", "-.-x", "日本", ".trash", "a.part"])
def test_no_label_hides_a_result_from_verify(store: Store, label: str) -> None:
    one = job(label)
    run([one], store, ignore)
    assert store.path(one).parent.parent == store.root and not store.path(one).name.startswith(".")
    assert verify_store(store, ignore).folders == 1
    write(store.path(one) / WEIGHTS, b"other")
    (fault,) = verify_store(Store(store.root), ignore).faults
    assert fault.path == store.path(one) / WEIGHTS


def noting(name: str, output: str, parents: Mapping[str, Job] | None = None) -> Job:
    def do(folder: Path, inputs: Mapping[str, Path], progress: Any) -> dict[str, Any]:
        (folder / "made.txt").write_text(output)
        note("token ids of forget", "equal inputs", output)
        note(f"token ids of {name}", f"inputs of {name}", output)
        return {}

    return CallJob(kind="test", label=name, what={"name": name}, do=do, parents=parents or {})


def test_a_job_whose_code_gives_other_outputs_than_its_parent_fails(store: Store) -> None:
    first = noting("first", "a")
    between = job("between", {"model": first})
    other = noting("other", "b", {"model": between})
    outcome = run([other, noting("same", "a", {"model": between})], store, ignore)
    assert set(outcome.failures) == {other.key} and len(outcome.records) == 3
    assert f"the token ids of forget in test/{other.folder_name} differ from those in test/{first.folder_name}" in str(
        outcome.first
    )
    assert verify_store(store, ignore).faults == ()


def test_a_job_does_not_mix_parents_with_different_outputs(store: Store) -> None:
    both = job("both", {"records": job("between", {"model": noting("one", "a")}), "retain": noting("two", "b")})
    outcome = run([both], store, ignore)
    assert set(outcome.failures) == {both.key} and "differ from those in test/one-" in outcome.failures[both.key]


def test_verify_names_each_job_with_other_outputs_once(store: Store) -> None:
    odd = noting("odd", "b")
    run([noting("one", "a"), noting("two", "a")], store, ignore)
    run([job("after", {"model": odd})], store, ignore)
    (fault,) = verify_store(store, ignore).faults
    assert fault.path == store.path(odd) and f"in test/{odd.folder_name} differ from those in test/" in fault.reason
    note("nothing", "outside", "of a job")


@pytest.mark.parametrize("name", ["state.json", CHECKSUMS])
def test_a_damaged_checkpoint_is_named_and_no_result_with_it(store: Store, name: str) -> None:
    one = ResumableJob(label="one", steps=(3, 5))
    run([one, job("other")], store, ignore)
    step = store.unfinished(one) / "step-5"
    assert verify_store(store, ignore).faults == verify_jobs([one], store, ignore).faults == ()
    assert verify_store(store, ignore).checkpoints == verify_jobs([one], store, ignore).checkpoints == 2
    flip(step / name, 8 * 14)
    for report in (verify_store(store, ignore), verify_jobs([one], store, ignore)):
        (fault,) = report.faults
        assert fault.note and fault.path == step and fault.reason.startswith(f"{name} is damaged: its checksum is not")
        assert fault.reason.endswith("its run resumes from an earlier checkpoint, or starts again")
    assert verify_jobs([job("other")], store, ignore).faults == ()
    (step / name).unlink()
    assert verify_store(store, ignore).faults[0].reason.startswith(f"{name} is missing; ")


def test_a_checkpoint_that_its_process_writes_or_removes_now_is_no_fault(store: Store, monkeypatch: Any) -> None:
    one = ResumableJob(label="one", steps=(3, 5))
    run([one], store, ignore)
    (store.unfinished(one) / ".step-7.0a1b.part").mkdir()
    (store.unfinished(one) / ".step-7.0a1b.part" / "state.json").write_text("{")
    assert verify_store(store, ignore).faults == ()
    seen: list[str] = []

    def while_read(place: Path) -> None:
        """Remove one checkpoint, and replace the other, after the first of their files was read."""
        seen.append(place.name)
        if len(seen) <= 2:
            os.rename(place, store.root / f"away-{place.name}")
            if place.name == "step-5":
                with whole_folder(place, READ) as part:
                    (part / "state.json").write_text("{}")
                    seal_folder(part)
            raise FileNotFoundError(2, "No such file or directory")
        check_sealed_folder(place)

    monkeypatch.setattr("expunge.engine.verify.check_sealed_folder", while_read)
    assert verify_store(store, ignore).faults == () and seen == ["step-3", "step-5", "step-5"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o444), (0o077, 0o400), (0o002, 0o444)])
def test_no_file_of_a_store_can_be_written(store: Store, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        one, whole, unfinished = job("one"), job("whole"), ResumableJob(label="unfinished", steps=(3,))
        run([one, whole, unfinished], store, ignore)
        assert do_job(job("fails", fails=JobError("no memory")), store, ignore)
        removals = [
            GarbagePlan(store.path(one), one.key, "test", (WEIGHTS,)),
            GarbagePlan(store.path(whole), whole.key, ""),
        ]
        for _ in range(2):
            remove(removals, store, to_trash=True)
            assert _modes(store) == {mode} and verify_store(store, ignore).faults == ()
            assert restore_trash(store)[1] == []
            assert _modes(store) == {mode} and verify_store(store, ignore).faults == ()
        remove(removals[:1], store)
        store.restore(one)
        assert _modes(store) == {mode} and verify_store(store, ignore).faults == ()
        assert do_job(job("fails"), store, ignore) is None and failure(store, job("fails").key) is None
    finally:
        os.umask(before)


def _modes(store: Store) -> set[int]:
    """Return the permissions of all files but locks, which processes must open for writing."""
    files = [p for p in store.root.rglob("*") if p.is_file() and p.parent.name != LOCKS]
    return {p.stat().st_mode & 0o777 for p in files}


def test_a_damaged_note_of_a_failure_is_named_and_does_not_end_the_command(store: Store) -> None:
    fails = job("fails", fails=JobError("no memory"))
    do_job(fails, store, ignore)
    assert failure(store, fails.key) == "no memory" and verify_store(store, ignore).faults == ()
    (note_file,) = (store.root / ".failures").iterdir()
    flip(note_file, 8 * 12)
    assert f"{note_file} with the reason cannot be read" in str(failure(store, fails.key))
    (fault,) = verify_store(store, ignore).faults
    assert fault.path == note_file and fault.note


def test_checkpoints_that_a_killed_process_did_not_remove_go_with_the_next_gc(store: Store) -> None:
    one, other = ResumableJob(label="one", steps=(3,)), job("other")
    run([one, other], store, ignore)
    folder = store.unfinished(one)
    left = folder.with_name(f".{folder.name}.0a1b2c3d.part")  # as `sweep` renames it
    os.rename(folder, left)
    assert verify_store(store, ignore).faults == ()
    lease = Lease(lock_file(store.root, one.key), "one")
    assert lease.acquire_now()
    remove([GarbagePlan(store.path(other), other.key, "test")], store)
    assert left.is_dir()  # the process still runs
    lease.release()
    run([other], store, ignore)
    remove([GarbagePlan(store.path(other), other.key, "test")], store)
    assert not left.exists()
