"""The store: a folder per finished job, made whole by one rename. If the folder is there, the job is done.

A job is known by its key; the label in a folder's name is for people. Locks are the operating system's, held by a
process while it lives, so that of a process that was killed is free at once.
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
PACKED = "keeps its weights as differences from another model, a form of earlier versions that is no longer read"


class Store:
    """Finished jobs under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, tuple[int, dict[str, str]]] = {}
        self._memory: dict[Any, Any] = {}  # what the jobs that run here share (`JobContext.memory`)
        self._sums: dict[tuple[int, ...], str] = {}  # what files hold, by their place on the disk, size and time
        if root.exists() and not root.is_dir():
            raise ConfigError(f"paths.store: {root} is a file, not a folder")

    def path(self, job: Job) -> Path:
        """Where the job's artifact lies, under whatever label it was made, or will lie."""
        named = self.root / job.kind / job.folder_name
        if named.is_dir():
            return named
        other = self._folders(job.kind).get(job.key[:12])
        return named if other is None else self.root / job.kind / other

    def _folders(self, kind: str) -> dict[str, str]:
        """The folders of a kind by the keys in their names, listed again when the folder has changed."""
        try:
            changed = os.stat(self.root / kind).st_mtime_ns
            if self._listed.get(kind, (None,))[0] != changed:
                names = [n for n in os.listdir(self.root / kind) if not n.startswith(".")]
                self._listed[kind] = changed, {name.rpartition("-")[2]: name for name in names}
        except OSError:
            return {}
        return self._listed[kind][1]

    def done(self, job: Job) -> bool:
        """Whether the artifact is there. A record of another job raises JobError: it is not taken as done."""
        return self.record(job) is not None

    def there(self, job: Job) -> bool:
        """`done`, where a record that is damaged or another job's counts as not done."""
        return self.found(job) is not None

    def found(self, job: Job) -> dict[str, Any] | None:
        """`record`, where one that is damaged or another job's is None."""
        try:
            return self.record(job)
        except JobError:
            return None

    def record(self, job: Job) -> dict[str, Any] | None:
        """The job's record, or None if it is not done. Raises JobError if it is damaged or another job's."""
        path = self.path(job) / RECORD
        found = read_record(path)
        if found is not None and found.get("key") != job.key:
            raise JobError(f"{path.parent} holds another job's record; move it away and run again")
        return found

    def make(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Do the job and store its artifact whole. Waits for another process that is doing the same job.

        Weights of a parent that `expunge gc` has removed are made again first. Raises JobError if the job cannot be
        done, a parent has vanished or is damaged, the disk is full or the store is read-only.
        """
        with self._lock(job):
            self._listed.pop(job.kind, None)
            found = self.record(job)
            if found is not None:
                return found
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
        """Compute the files again that `expunge gc` has removed from a finished job, if any, and what that needs.

        Raises JobError for weights that an earlier version has packed.
        """
        found = self.record(job) or {}
        if found.get("packed"):
            raise JobError(f"{job.name}: {self.path(job)} {PACKED}; move the folder away and run again")
        if not found.get("removed"):
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
                made = self._fill(job, Path(folder), silent)
                same = all(made["files"].get(n) == record["files"].get(n) for n in record["removed"])
                for name in record["removed"]:
                    os.replace(Path(folder) / name, place / name)
                    record["files"][name] = made["files"][name]
                del record["removed"]
                write_json(place / RECORD, record | {"made_again": {"finished": made["finished"], "same_bytes": same}})

    def _check(self, job: Job, role: str, parent: Job) -> None:
        """A parent's files are what was stored; each is read once in a process. Raises JobError naming the first that
        is not."""
        place, record = self.path(parent), self.record(parent) or {}
        for name, (sha, n_bytes) in record.get("files", {}).items():  # none in records of earlier versions
            reason = None if name in record.get("removed", ()) else wrong_file(place / name, sha, n_bytes, self._sums)
            if reason is not None:
                raise JobError(
                    f"{job.name}: its {role} ({parent.name}): {place / name} {reason}; move the folder away and run "
                    "again"
                )

    def _unfinished(self, job: Job) -> Path:
        """Where a job that can go on after a break keeps its checkpoints."""
        return self.root / CHECKPOINTS / job.key[:32]

    def _fill(self, job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
        """Do a job whose parents are there, and write its record with the checksums of its files."""
        inputs = {role: self.path(parent) for role, parent in job.parents.items()}
        context = JobContext(progress, self._unfinished(job) if job.resumable else None, self._memory)
        record = provenance(job, lambda: run_job(job, inputs, folder, context))
        files = sorted(f for f in folder.rglob("*") if f.is_file())
        record["files"] = {}
        for f in files:
            found = f.stat()
            self._sums[_place(found)] = sha = file_sha256(f)
            record["files"][f.relative_to(folder).as_posix()] = [sha, found.st_size]
        write_json(folder / RECORD, record)
        return record

    @contextlib.contextmanager
    def _writing(self, job: Job) -> Iterator[None]:
        """What the system says about the disk, as the job's own error."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise JobError(f"{job.name}: cannot write under {self.root}: {' '.join(said.split())}") from error

    @contextlib.contextmanager
    def _lock(self, job: Job) -> Iterator[None]:
        """The job's lock, with a note beside it of the parents that are read meanwhile."""
        folder = self.root / LOCKS
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.store: cannot make {folder}: {error.strerror}") from None
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
            with contextlib.suppress(OSError):  # a note without its lock is not read
                note.unlink(missing_ok=True)
            lock.release()


def lock_file(root: Path, key: str) -> Path:
    """The file that is locked while a job is done."""
    return root / LOCKS / f"{key[:32]}.lock"


def reads_file(root: Path, key: str) -> Path:
    """The keys of the parents that a job reads while its lock is held."""
    return root / LOCKS / f"{key[:32]}.reads"


def read_record(path: Path) -> dict[str, Any] | None:
    """A job's record, or None if there is none. Raises JobError if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        pass
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror or error}") from None
    raise JobError(f"{path} is damaged; move its folder away and run again")


def _place(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def wrong_file(file: Path, sha: str, n_bytes: int, sums: dict[tuple[int, ...], str]) -> str | None:
    """What is wrong with a stored file, if anything. sums: those known so far; hard links are read once."""
    try:
        found = os.stat(file)
        if found.st_size != n_bytes:
            return f"has {found.st_size} bytes, {n_bytes} were stored"
        if _place(found) not in sums:
            sums[_place(found)] = file_sha256(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if sums[_place(found)] == sha else "is damaged: its checksum is not the stored one"


def sweep(folder: Path) -> None:
    """Remove a folder in one step, as far as readers can see."""
    gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
    os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
