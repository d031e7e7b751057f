"""Remove results from a store: whole folders, or single files that are recomputed when a job needs them.

The caller decides which results to remove, and whether they go to the trash of the store, from which `restore_trash`
brings them back. Results that a running process writes or reads stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from expunge.core.errors import JobError
from expunge.engine.job import Job
from expunge.engine.record import RECORD, read_record, write_record
from expunge.engine.store import LOCKS, WEIGHTS, Store, lock_file, sweep
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
    """Remove planned results. Returns the removed entries and the entries that a running process writes or reads.

    to_trash: move them to the trash, in place of the results that are in it. Raises JobError if the system refuses.
    """
    done: list[GarbagePlan] = []
    busy: list[GarbagePlan] = []
    listed = list(plans)
    trash = store.root / TRASH if to_trash and listed else None
    if trash is not None:
        empty_trash(store)
    for r in listed:
        with _locked(store, r.key) as mine:
            if mine:
                _remove(r, None if trash is None else trash / r.folder.parent.name / r.folder.name)
            (done if mine else busy).append(r)
    return done, busy


def empty_trash(store: Store) -> int:
    """Remove the results in the trash for good. Returns their bytes."""
    trash = store.root / TRASH
    size = sum(p.stat().st_size for p in trash.rglob("*") if p.is_file())
    if trash.exists():
        sweep(trash)
    return size


def restore_trash(store: Store) -> tuple[list[Path], list[Path]]:
    """Bring back the results that the last `remove` moved to the trash.

    Returns:
        The folders of the restored results, and those in the trash that stay there: their result exists again, is in
        use, or has a damaged record.
    """
    done: list[Path] = []
    stays: list[Path] = []
    for folder in artifacts(store.root / TRASH):
        place = store.root / folder.parent.name / folder.name
        try:
            record = read_record(folder / RECORD) or read_record(place / RECORD)
        except JobError:
            record = None
        if record is None:
            stays.append(folder)
            continue
        with _locked(store, record["key"]) as mine:
            restored = mine and _restore(folder, place, record)
        (done if restored else stays).append(place if restored else folder)
    if not stays:
        empty_trash(store)
    return done, stays


def _restore(folder: Path, place: Path, record: dict[str, Any]) -> bool:
    """Move a folder of the trash, or its files, back to its place. Returns False if the result exists again."""
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
def _locked(store: Store, key: str) -> Iterator[bool]:
    """Lock a result and yield whether no running process uses it. Raises JobError if the system refuses."""
    lock = FileLock(lock_file(store.root, key))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise JobError(f"gc: cannot lock under {store.root}: {error.strerror or error}") from None
    try:
        yield key not in read_now(store.root)
    except OSError as error:
        raise JobError(f"gc: cannot change the artifact {key[:12]}: {error.strerror or error}") from None
    finally:
        lock.release()


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
    record = read_record(r.folder / RECORD) or {}
    removed = sorted({*record.get("removed", ()), *r.files})
    # before the files, because a listed file does not count as missing
    write_record(r.folder / RECORD, {**record, "removed": removed})
    for name in r.files:
        if trash is None:
            (r.folder / name).unlink(missing_ok=True)
        elif (r.folder / name).exists():
            (trash / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(r.folder / name, trash / name)


def read_now(root: Path) -> set[str]:
    """Return the keys that running processes read: the parents of the jobs whose locks are held."""
    out: set[str] = set()
    for note in (root / LOCKS).glob("*.reads"):
        lock = FileLock(note.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
            lock.release()
        except Timeout:
            with contextlib.suppress(OSError, ValueError):
                out |= set(json.loads(note.read_text(encoding="utf-8")))
    return out
