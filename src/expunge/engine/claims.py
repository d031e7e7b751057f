"""Results that running processes use, so that `expunge gc` leaves them where they are.

A job lists the results that it reads next to its lock. A command that runs jobs claims all results of its jobs, from
before its first job to the end of its last one. Both lists count while their lock is held, so those of a dead process
do not.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from expunge.engine.lease import Lease
from expunge.engine.store import LOCKS

_READS, _CLAIM, _LOCK = ".reads", ".claim", ".lock"
_RUN = "run-"  # the names of claims and their locks


def gc_lease(root: Path, name: str) -> Lease:
    """Return the lease of the process that removes results of a store or brings them back."""
    return Lease(root / LOCKS / "gc.lock", name, action="removes or restores results")


@contextlib.contextmanager
def claimed(root: Path, keys: Iterable[str]) -> Iterator[None]:
    """Claim results for the block. Waits until a running `expunge gc` has ended, because that one reads no new claim.

    A store that cannot be written has no claims.
    """
    note = root / LOCKS / f"{_RUN}{uuid.uuid4().hex[:16]}{_CLAIM}"
    lock = FileLock(note.with_suffix(_LOCK))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            gc = gc_lease(root, "run")
            gc.acquire()
            stack.callback(gc.release)
            claimed_now(root)  # removes the claims of dead processes
            lock.acquire(timeout=0)
            note.write_text(json.dumps(sorted(keys)), encoding="utf-8")
        stack.close()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                note.unlink(missing_ok=True)
                if lock.is_locked:
                    Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def read_now(root: Path) -> set[str]:
    """Return the keys of the results that running jobs read: the parents of the jobs whose locks are held."""
    return set().union(*(_listed(note, note.with_suffix(_LOCK)) for note in (root / LOCKS).glob(f"*{_READS}")))


def claimed_now(root: Path) -> set[str]:
    """Return the keys of the results that running commands claim. Removes the claims of dead processes."""
    locks = (root / LOCKS).glob(f"{_RUN}*{_LOCK}")
    return set().union(*(_listed(path.with_suffix(_CLAIM), path, only=True) for path in locks))


def _listed(note: Path, path: Path, *, only: bool = False) -> set[str]:
    """Return the keys in a list. If its process is dead, removes the list, and its lock if that has no other use."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with contextlib.suppress(OSError, ValueError):
            return set(json.loads(note.read_text(encoding="utf-8")))
        return set()
    note.unlink(missing_ok=True)
    if only:
        path.unlink(missing_ok=True)
    lock.release()
    return set()
