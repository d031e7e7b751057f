"""Remove results from a store: whole folders, or single files that are recomputed when a job needs them.

The caller decides which results to remove, and whether they go to the trash of the store, from which `restore_trash`
brings them back. Results that a running process writes or reads stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from expunge.core.errors import JobError
from expunge.core.files import sweep, sweep_parts
from expunge.engine.job import Job
from expunge.engine.lease import LOCKS, Lease, claimed_now, gc_lease, read_now
from expunge.engine.record import RECORD, read_record, write_record
from expunge.engine.store import WEIGHTS, Store, lock_file
from expunge.engine.verify import TRASH, artifacts

NOT_REACHED = "no named study reaches it"


@dataclass(frozen=True)
class GarbagePlan:
    """A whole folder to remove, or named files of a folder. bytes: disk space that this frees."""

    folder: Path
    key: str
    why: str
    files: tuple[str, ...] = ()
    bytes: int = 0


def garbage(jobs: Mapping[str, Job], reasons: Mapping[str, str], store: Store) -> list[GarbagePlan]:
    """Plan the removal of results from a store.

    Args:
        jobs: The jobs that stay, by key. Other results are removed whole.
        reasons: Keys of those jobs whose weights may go, and the reason. Results of ephemeral jobs are removed whole.
        store: The store. A result with an unreadable record stays.
    """
    out = []
    for folder in artifacts(store.root):
        try:
            record = read_record(folder / RECORD)
        except JobError:
            continue
        if record is None:
            continue
        key = record["key"]
        if key not in jobs:
            out.append(GarbagePlan(folder, key, NOT_REACHED))
        elif key in reasons:
            whole = jobs[key].ephemeral
            files = () if whole else weight_files(folder)
            if whole or files:
                out.append(GarbagePlan(folder, key, reasons[key], files))
    return _sized(out)


def weight_files(folder: Path) -> tuple[str, ...]:
    """Return the weights of a model and of those kept during its training, without adapters, which are small."""
    files = [*folder.glob(f"*{WEIGHTS}"), *folder.glob(f"checkpoint-*/*{WEIGHTS}")]
    return tuple(sorted(p.relative_to(folder).as_posix() for p in files if p.is_file()))


def _sized(plans: Sequence[GarbagePlan]) -> list[GarbagePlan]:
    """Add the bytes that each entry frees: disk space is freed with the last hard link of a file."""
    left: dict[tuple[int, int], int] = {}
    out = []
    for r in plans:
        freed = 0
        for path in [r.folder / n for n in r.files] or [p for p in r.folder.rglob("*") if p.is_file()]:
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(path)
                where = (stat.st_dev, stat.st_ino)
                left[where] = left.get(where, stat.st_nlink) - 1
                freed += 0 if left[where] else stat.st_size
        out.append(dataclasses.replace(r, bytes=freed))
    return out


def remove(
    plans: Iterable[GarbagePlan], store: Store, *, to_trash: bool = False
) -> tuple[list[GarbagePlan], list[GarbagePlan]]:
    """Remove planned results. Waits for another process that removes or restores results of the store.

    A job that runs keeps the results that it reads. A command that runs jobs keeps whole results of all its jobs.

    Args:
        plans: The results. One that another process has removed in the meantime is left out.
        store: The store.
        to_trash: Move them to the trash, in place of the results that are in it.

    Returns:
        The removed entries, and the entries that a running process uses.

    Raises:
        JobError: The system refuses.
    """
    done: list[GarbagePlan] = []
    busy: list[GarbagePlan] = []
    listed = list(plans)
    if not listed:
        return done, busy
    trash = store.root / TRASH if to_trash else None
    with _alone(store) as gc:
        _sweep_unfinished(store.root)
        claims = claimed_now(store.root)
        for r in listed:
            gc.check()
            with _locked(store, r.key) as mine:
                if not mine or (not r.files and r.key in claims):
                    busy.append(r)
                elif _present(r):
                    if trash is not None and not done:
                        _empty(trash)
                    _remove(r, None if trash is None else trash / r.folder.parent.name / r.folder.name)
                    done.append(r)
    return done, busy


def _sweep_unfinished(root: Path) -> None:
    """Remove the unfinished folders of killed jobs, which may have texts of rows. Those of running jobs stay."""
    for part in root.glob("*/.*.part"):
        key = part.name.rsplit(".", 2)[0].rpartition("-")[2].removeprefix(".")
        for path in (root / LOCKS).glob(f"{key}*.lock"):
            lease = Lease(path, "gc")
            if lease.acquire_now():
                shutil.rmtree(part, ignore_errors=True)
                lease.release()


def empty_trash(store: Store) -> int:
    """Remove the results in the trash for good. Returns their bytes."""
    if not (store.root / TRASH).exists() and not any(store.root.glob(f".{TRASH}.*.part")):
        return 0
    with _alone(store):
        return _empty(store.root / TRASH)


def _empty(trash: Path) -> int:
    """Remove the trash, and an earlier one that a killed process did not remove completely. Returns its bytes."""
    sweep_parts(trash)
    size = sum(p.stat().st_size for p in trash.rglob("*") if p.is_file())
    if trash.exists():
        sweep(trash)
    return size


def restore_trash(store: Store) -> tuple[list[Path], list[Path]]:
    """Bring back the results that the last `remove` moved to the trash.

    Returns:
        The folders of the restored results; the folders that stay in the trash, because their result exists again, is
        in use,
        or has a damaged record.
    """
    done: list[Path] = []
    stays: list[Path] = []
    if not (store.root / TRASH).exists():
        return done, stays
    with _alone(store) as gc:
        for folder in artifacts(store.root / TRASH):
            gc.check()
            place = store.root / folder.parent.name / folder.name
            try:
                record = read_record(folder / RECORD) or read_record(place / RECORD)
            except JobError:
                record = None
            if record is None:
                stays.append(folder)
                continue
            with _locked(store, record["key"]) as mine:
                restored = mine and _restore(folder, place)
            (done if restored else stays).append(place if restored else folder)
        if not stays:
            _empty(store.root / TRASH)
    return done, stays


def _restore(folder: Path, place: Path) -> bool:
    """Move a folder of the trash, or its files, back to its place. Returns False if the result exists again."""
    record = read_record(folder / RECORD) or read_record(place / RECORD)  # again, because this process has the lease
    if record is None:
        return False
    if (folder / RECORD).exists():
        if any(place.parent.glob(f"*-{record['key'][:12]}")):  # under this label or another
            return False
        place.parent.mkdir(exist_ok=True)
        os.rename(folder, place)
        return True
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    back = names & set(record.get("removed", ()))
    for name in back:
        os.replace(folder / name, place / name)
    still = sorted(set(record.pop("removed", ())) - back)
    write_record(place / RECORD, {**record, **({"removed": still} if still else {})})
    return back == names


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[Lease]:
    """Hold the lease of the process that removes results or brings them back. Raises JobError if the system refuses."""
    lease = gc_lease(store.root, "gc")
    try:
        lease.path.parent.mkdir(parents=True, exist_ok=True)
        lease.acquire()
    except Timeout:
        raise JobError("gc: another process has removed results of this store for a day") from None
    except OSError as error:
        raise JobError(f"gc: cannot lock under {store.root}: {error.strerror or error}") from None
    try:
        yield lease
    except OSError as error:
        raise JobError(f"gc: cannot change {store.root}: {error.strerror or error}") from None
    finally:
        lease.release()


@contextlib.contextmanager
def _locked(store: Store, key: str) -> Iterator[bool]:
    """Lock a result and yield whether no running job uses it. Raises JobError if the system refuses."""
    lease = Lease(lock_file(store.root, key), "gc")
    try:
        if not lease.acquire_now():
            yield False
            return
    except OSError as error:
        raise JobError(f"gc: cannot lock under {store.root}: {error.strerror or error}") from None
    try:
        yield key not in read_now(store.root)
    except OSError as error:
        raise JobError(f"gc: cannot change the artifact {key[:12]}: {error.strerror or error}") from None
    finally:
        lease.release()


def _present(r: GarbagePlan) -> bool:
    """Return whether a planned result or one of its planned files exists."""
    try:
        record = read_record(r.folder / RECORD)
    except JobError:
        return False
    return (
        record is not None and record["key"] == r.key and (not r.files or any((r.folder / n).exists() for n in r.files))
    )


def _remove(r: GarbagePlan, trash: Path | None) -> None:
    """Remove an entry, or move it to its folder in the trash."""
    if trash is not None:
        (trash.parent if not r.files else trash).mkdir(parents=True, exist_ok=True)
    if not r.files:
        if trash is None:
            sweep(r.folder)
        else:
            os.rename(r.folder, trash)
        return
    record = read_record(r.folder / RECORD) or {}  # `_present` has read it
    removed = sorted({*record.get("removed", ()), *r.files})
    # before the files, because a listed file does not count as missing
    write_record(r.folder / RECORD, {**record, "removed": removed})
    for name in r.files:
        if trash is None:
            (r.folder / name).unlink(missing_ok=True)
        elif (r.folder / name).exists():
            (trash / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(r.folder / name, trash / name)
