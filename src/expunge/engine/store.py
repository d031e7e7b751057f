"""The store: one folder per finished job, which one rename completes. If the folder exists, the job is done.

A key identifies a job; the label in a folder's name is for people. These are OS file locks: the kernel releases them
when a process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import sweep_parts, whole_folder, write_json
from expunge.core.fingerprints import file_sha256
from expunge.engine.collective import run_job
from expunge.engine.job import Job, JobContext, Progress, silent
from expunge.engine.provenance import provenance

RECORD = "job.json"
LOCKS = ".locks"
CHECKPOINTS = ".checkpoints"
PACKED = (
    "stores its weights as differences from another model, a format of earlier versions that is no longer supported"
)


class Store:
    """Finished jobs under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, tuple[int, dict[str, str]]] = {}
        self._memory: dict[Any, Any] = {}  # objects that jobs of this process share (`JobContext.memory`)
        self._sums: dict[tuple[int, ...], str] = {}  # checksums of files, by device, inode, size and time
        if root.exists() and not root.is_dir():
            raise ConfigError(f"paths.store: {root} is a file, not a folder")

    def path(self, job: Job) -> Path:
        """Return the present or future folder of the job's artifact, under any label."""
        named = self.root / job.kind / job.folder_name
        if named.is_dir():
            return named
        other = self._folders(job.kind).get(job.key[:12])
        return named if other is None else self.root / job.kind / other

    def _folders(self, kind: str) -> dict[str, str]:
        """Return the folders of a kind by the keys in their names. Lists them again after a change."""
        try:
            changed = os.stat(self.root / kind).st_mtime_ns
            if self._listed.get(kind, (None,))[0] != changed:
                names = [n for n in os.listdir(self.root / kind) if not n.startswith(".")]
                self._listed[kind] = changed, {name.rpartition("-")[2]: name for name in names}
        except OSError:
            return {}
        return self._listed[kind][1]

    def done(self, job: Job) -> bool:
        """Return whether the artifact exists. Raises JobError for a record of another job."""
        return self.record(job) is not None

    def there(self, job: Job) -> bool:
        """Return whether the job is done; a damaged record or one of another job counts as not done."""
        return self.readable_record(job) is not None

    def readable_record(self, job: Job) -> dict[str, Any] | None:
        """Return the job's record; None for a damaged record or one of another job."""
        try:
            return self.record(job)
        except JobError:
            return None

    def record(self, job: Job) -> dict[str, Any] | None:
        """Return the job's record, or None if it is not done. Raises JobError if it is damaged or another job's."""
        path = self.path(job) / RECORD
        record = read_record(path)
        if record is not None and record.get("key") != job.key:
            raise JobError(f"{path.parent} holds another job's record; move it away and run again")
        return record

    def make(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Run the job and store its complete artifact. Waits for another process that runs the same job.

        Recomputes weights of a parent that `expunge gc` has removed. Raises JobError if the job fails, a parent is
        missing or damaged, the disk is full or the store is read-only.
        """
        with self._lock(job):
            self._listed.pop(job.kind, None)
            record = self.record(job)
            if record is not None:
                return record
            for role, parent in job.parents.items():
                if not self.done(parent):
                    raise JobError(f"{job.name}: its {role} ({parent.name}) has vanished from {self.root}")
                self.restore(parent)
                self._check(job, role, parent)
            with self._writing(job):
                sweep_parts(self.path(job))
                with whole_folder(self.path(job)) as folder:
                    record = self._fill(job, folder, progress)
                if job.resumable:
                    shutil.rmtree(self._unfinished(job), ignore_errors=True)
                return record

    def restore(self, job: Job) -> None:
        """Recompute the files that `expunge gc` has removed from a finished job, and the parents that this needs.

        Raises JobError for weights in the packed format of earlier versions.
        """
        present = self.record(job) or {}
        if present.get("packed"):
            raise JobError(f"{job.name}: {self.path(job)} {PACKED}; move the folder away and run again")
        if not present.get("removed"):
            return
        for parent in job.parents.values():
            if not self.done(parent):
                self.make(parent, silent)
            self.restore(parent)
        with self._lock(job):
            record = self.record(job)
            if record is None or not record.get("removed"):
                return
            place = self.path(job)
            beside = tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
            with self._writing(job), beside as folder:
                recomputed = self._fill(job, Path(folder), silent)
                same = all(recomputed["files"].get(n) == record["files"].get(n) for n in record["removed"])
                for name in record["removed"]:
                    os.replace(Path(folder) / name, place / name)
                    record["files"][name] = recomputed["files"][name]
                del record["removed"]
                write_json(
                    place / RECORD, record | {"made_again": {"finished": recomputed["finished"], "same_bytes": same}}
                )

    def _check(self, job: Job, role: str, parent: Job) -> None:
        """Compare a parent's files with their checksums, once per process. Raises JobError for the first difference."""
        place, record = self.path(parent), self.record(parent) or {}
        for name, (sha, n_bytes) in record.get("files", {}).items():  # none in records of earlier versions
            reason = None if name in record.get("removed", ()) else wrong_file(place / name, sha, n_bytes, self._sums)
            if reason is not None:
                raise JobError(
                    f"{job.name}: its {role} ({parent.name}): {place / name} {reason}; move the folder away and run "
                    "again"
                )

    def _unfinished(self, job: Job) -> Path:
        """Return the checkpoint folder of a resumable job."""
        return self.root / CHECKPOINTS / job.key[:32]

    def _fill(self, job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
        """Run a job whose parents exist, and write its record with the checksums of its files."""
        inputs = {role: self.path(parent) for role, parent in job.parents.items()}
        context = JobContext(progress, self._unfinished(job) if job.resumable else None, self._memory)
        record = provenance(job, lambda: run_job(job, inputs, folder, context))
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        record["files"] = {}
        for f in files:
            stat = f.stat()
            self._sums[_place(stat)] = sha = file_sha256(f)
            record["files"][f.relative_to(folder).as_posix()] = [sha, stat.st_size]
        write_json(folder / RECORD, record)
        return record

    @contextlib.contextmanager
    def _writing(self, job: Job) -> Iterator[None]:
        """Raise a disk error of the system as an error of the job."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise JobError(f"{job.name}: cannot write under {self.root}: {' '.join(message.split())}") from error

    @contextlib.contextmanager
    def _lock(self, job: Job) -> Iterator[None]:
        """Hold the job's lock, with a file next to it that lists the parents in use."""
        folder = self.root / LOCKS
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.store: cannot create {folder}: {error.strerror}") from None
        lock = FileLock(lock_file(self.root, job.key))
        note = reads_file(self.root, job.key)
        try:
            lock.acquire(timeout=24 * 3600)
            note.write_text(json.dumps([parent.key for parent in job.parents.values()]))
        except Timeout:
            raise JobError(f"{job.name}: another process has held this job for a day") from None
        except OSError as error:
            lock.release()
            raise JobError(f"{job.name}: cannot write under {self.root}: {error.strerror or error}") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # a list without its lock is ignored
                note.unlink(missing_ok=True)
            lock.release()


def store_around(folder: Path) -> Path | None:
    """Return the root of the store that a job's folder belongs to; None for a folder outside a store."""
    root = folder.parent.parent
    return root if (root / LOCKS).is_dir() else None


def lock_file(root: Path, key: str) -> Path:
    """Return the lock file of a job."""
    return root / LOCKS / f"{key[:32]}.lock"


def reads_file(root: Path, key: str) -> Path:
    """Return the file that lists the keys of the parents that a running job reads."""
    return root / LOCKS / f"{key[:32]}.reads"


def read_record(path: Path) -> dict[str, Any] | None:
    """Return a job's record, or None if there is none. Raises JobError if it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        pass
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror or error}") from None
    raise JobError(f"{path} is damaged; move its folder away and run again")


def _place(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def wrong_file(file: Path, sha: str, n_bytes: int, sums: dict[tuple[int, ...], str]) -> str | None:
    """Return the fault of a stored file, or None. sums: checksums so far, so that hard links are read once."""
    try:
        stat = os.stat(file)
        if stat.st_size != n_bytes:
            return f"has {stat.st_size} bytes, {n_bytes} were stored"
        if _place(stat) not in sums:
            sums[_place(stat)] = file_sha256(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if sums[_place(stat)] == sha else "is damaged: its checksum is not the stored one"


def sweep(folder: Path) -> None:
    """Remove a folder in one step for readers."""
    hidden = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)
