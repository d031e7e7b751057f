"""Remove results from a store: whole folders, or single files that are recomputed when a job needs them.

The caller decides which results to remove. Results that a running process writes or reads stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from expunge.core.errors import JobError
from expunge.core.files import write_json
from expunge.engine.job import Job
from expunge.engine.store import LOCKS, RECORD, Store, lock_file, read_record, sweep
from expunge.engine.verify import artifacts

WEIGHTS = ".safetensors"
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
        if record is None or not isinstance(record.get("key"), str):
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
    """Return the files of a model's weights, without adapters, which are small."""
    return tuple(sorted(p.name for p in folder.glob(f"*{WEIGHTS}") if p.is_file()))


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


def remove(plans: Iterable[GarbagePlan], store: Store) -> tuple[list[GarbagePlan], list[GarbagePlan]]:
    """Remove planned results. Returns the removed entries and the entries that a running process writes or reads.

    Raises JobError if the system refuses.
    """
    done: list[GarbagePlan] = []
    busy: list[GarbagePlan] = []
    for r in plans:
        with _locked(store, r.key) as mine:
            if mine:
                _remove(r)
            (done if mine else busy).append(r)
    return done, busy


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


def _remove(r: GarbagePlan) -> None:
    if not r.files:
        sweep(r.folder)
        return
    record = read_record(r.folder / RECORD) or {}
    removed = sorted({*record.get("removed", ()), *r.files})
    write_json(
        r.folder / RECORD, {**record, "removed": removed}
    )  # before the files, because a listed file does not count as missing
    for name in r.files:
        (r.folder / name).unlink(missing_ok=True)


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
