"""The store: one folder per finished job, which one rename completes. If the folder exists, the job is done.

A key identifies a job; the label in a folder's name is for people. These are OS file locks: the kernel releases them
when a process dies.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError

from expunge.core import distributed
from expunge.core.errors import ConfigError, JobError
from expunge.core.files import READ, sweep, sweep_parts, unfinished_parts, whole_folder
from expunge.core.fingerprints import comparing, file_sha256
from expunge.core.terminal import complain
from expunge.engine.job import Job, JobContext, Progress, silent
from expunge.engine.lease import LOCKS, Lease, LeaseLostError, write_keys
from expunge.engine.provenance import JobStart, provenance
from expunge.engine.record import DIGESTS, RECORD, Record, proof, read_record, write_record

CHECKPOINTS = ".checkpoints"
PASSPORTS = ".passports"  # the passports of models, sealed
WEIGHTS = ".safetensors"
BULK = 2**26  # bytes: a job that reads a larger file, or weights, compares its checksum; a hit does not


@dataclass
class _Attempt:
    """One run of a job: its inputs, and afterwards its facts and record."""

    inputs: Mapping[str, Path]
    context: JobContext
    facts: Mapping[str, Any] = field(default_factory=dict)
    record: Record = field(default_factory=dict)


class Store:
    """Finished jobs under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, tuple[int, dict[str, str]]] = {}
        self._memory: dict[Any, Any] = {}  # objects that jobs of this process share (`JobContext.memory`)
        self._sums: dict[tuple[int, ...], str] = {}  # checksums of files, by device, inode, size and time
        self._records: dict[Path, tuple[tuple[int, ...], Record]] = {}  # records that were read, with such a place
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
        """Return whether the artifact exists. Raises JobError for a damaged one or that of another job."""
        return self.record(job) is not None

    def there(self, job: Job) -> bool:
        """Return whether the job is done; a damaged result or one of another job counts as not done."""
        return self.readable_record(job) is not None

    def settled(self, job: Job) -> bool:
        """Return whether a run computes nothing for the job: it is done, or its stored result is damaged."""
        try:
            return self.record(job) is not None
        except JobError:
            return True

    def readable_record(self, job: Job) -> Record | None:
        """Return the job's record; None for a damaged result or a record of another job."""
        try:
            return self.record(job)
        except JobError:
            return None

    def record(self, job: Job) -> Record | None:
        """Return the job's record, or None if it is not done. Compares its files with their checksums.

        Weights and files over 64 MiB are compared by the jobs that read them.

        Raises:
            JobError: The record or a file is damaged or missing, or the record is another job's.
        """
        folder = self.path(job)
        record = self._read(folder / RECORD)
        if record is None:
            if folder.is_dir():
                raise JobError(f"{folder} has lost its {RECORD}; move the folder away and run again")
            return None
        if record["key"] != job.key:
            raise JobError(f"{folder} holds another job's record; move it away and run again")
        for name, (_, n_bytes) in record["files"].items():
            if n_bytes <= BULK and not name.endswith(WEIGHTS):
                self._compare(folder, record, name)
        return record

    def file(self, job: Job, name: str) -> Path:
        """Return a file of a finished job after a comparison with its checksum, of any size. Raises JobError."""
        record = self.record(job)
        if record is None or name not in record["files"]:
            raise JobError(f"{self.path(job) / name} is missing; run the study again")
        self._compare(self.path(job), record, name)
        return self.path(job) / name

    def _read(self, path: Path) -> Record | None:
        """Return a record, which is read and checked again if its file has changed."""
        try:
            place = _place(os.stat(path))
        except OSError:
            return read_record(path)
        if path not in self._records or self._records[path][0] != place:
            record = read_record(path)
            if record is None:
                return None
            self._records[path] = place, record
        return self._records[path][1]

    def _compare(self, folder: Path, record: Record, name: str) -> None:
        """Raise JobError if a file differs from its record. Files that `expunge gc` removed are not missing."""
        if name not in record.get("removed", ()):
            sha, n_bytes = record["files"][name]
            reason = wrong_file(folder / name, sha, n_bytes, self._sums)
            if reason is not None:
                raise JobError(f"{folder / name} {reason}; move the folder away and run again")

    def make(self, job: Job, progress: Progress) -> Record:
        """Run the job and store its complete artifact. Waits for another process that runs the same job.

        Recomputes weights of a parent that `expunge gc` has removed. If this process was stopped, and another one has
        taken the job over, waits for its result. Raises JobError if the job fails, a parent is missing or damaged, the
        disk is full or the store is read-only.
        """
        try:
            with self._lock(job) as lease:
                self._listed.pop(job.kind, None)
                record = self.record(job)
                if record is not None:
                    return record
                self._check_parents(job)
                with self._writing(job):
                    leftovers = unfinished_parts(self.path(job))
                    lease.check()  # a process that is stopped from here on removes no folder of its successor
                    sweep_parts(self.path(job), leftovers)
                    whole = whole_folder(self.path(job), READ, before_rename=lease.check)
                    with whole as folder, self._recorded(job, folder, _checking(lease, progress)) as attempt:
                        attempt.facts = job.run(attempt.inputs, folder, attempt.context)
                    if job.resumable:
                        with contextlib.suppress(OSError):
                            sweep(self.unfinished(job))
                    return attempt.record
        except LeaseLostError as error:
            if not distributed.here().alone:
                raise  # the other processes of the launch wait in the middle of the job
            complain(f"{error}; this process waits for its result")
        return self.make(job, progress)

    def _check_parents(self, job: Job, *, recompute: bool = False) -> None:
        """Restore and check the parents of a job, whose lease this process holds.

        Raises JobError for a parent that is damaged, or missing (unless `recompute`).
        """
        for role, parent in job.parents.items():
            self._wait_for_gc(parent)
            if not self.done(parent):
                if not recompute:
                    raise JobError(f"{job.name}: its {role} ({parent.name}) has vanished from {self.root}")
                self.make(parent, silent)
            self.restore(parent)
            self._check(job, role, parent)

    def _wait_for_gc(self, job: Job) -> None:
        """Wait until no process removes files of a result. The next one reads that this process uses the result."""
        lease = Lease(lock_file(self.root, job.key), job.name, action="writes or removes this result")
        try:
            lease.acquire()
        except Timeout:
            raise JobError(f"{job.name}: another process has held this result for a day") from None
        except OSError as error:
            raise JobError(f"{job.name}: cannot lock under {self.root}: {error.strerror or error}") from None
        finally:
            lease.release()

    def restore(self, job: Job) -> None:
        """Recompute the files that `expunge gc` has removed from a finished job, and the parents that this needs."""
        if not (self.record(job) or {}).get("removed"):
            return
        with self._lock(job) as lease:
            record = dict(self.record(job) or {})
            if not record.get("removed"):
                return
            self._check_parents(job, recompute=True)
            place = self.path(job)
            leftovers = unfinished_parts(place)
            lease.check()
            sweep_parts(place, leftovers)
            beside = tempfile.TemporaryDirectory(prefix=f".{place.name}.", suffix=".part", dir=place.parent)
            with self._writing(job), beside as folder:
                with self._recorded(job, Path(folder), _checking(lease, silent)) as attempt:
                    attempt.facts = job.run(attempt.inputs, Path(folder), attempt.context)
                lease.check()
                recomputed = attempt.record
                removed = record.pop("removed")
                before = {n: record["files"][n] for n in removed}
                new = {n: recomputed["files"][n] for n in removed}
                for name in removed:
                    os.replace(Path(folder) / name, place / name)
                    (place / name).chmod(place.stat().st_mode & READ)
                again = {"finished": recomputed["finished"], "same_bytes": new == before,
                         "before": before | record.get("made_again", {}).get("before", {})}  # fmt: skip
                write_record(place / RECORD, record | {"files": record["files"] | new, "made_again": again})

    def _check(self, job: Job, role: str, parent: Job) -> None:
        """Compare all files of a parent with their checksums, each once per process. Raises JobError."""
        try:
            record = self.record(parent) or {"files": {}}
            for name in record["files"]:
                self._compare(self.path(parent), record, name)
        except JobError as error:
            raise JobError(f"{job.name}: its {role} ({parent.name}): {error}") from None

    def unfinished(self, job: Job) -> Path:
        """Return the checkpoint folder of a resumable job."""
        return self.root / CHECKPOINTS / job.key[:32]

    @contextlib.contextmanager
    def _recorded(self, job: Job, folder: Path, progress: Progress) -> Iterator[_Attempt]:
        """Write the record of a job, with the checksums of its files, after the block has run it."""
        inputs = {role: self.path(parent) for role, parent in job.parents.items()}
        context = JobContext(progress, self.unfinished(job) if job.resumable else None, self._memory)
        attempt, start = _Attempt(inputs, context), JobStart()
        parents = [(self.record(parent) or {}).get(DIGESTS, {}) for parent in job.parents.values()]
        with comparing(parents, f"{job.kind}/{job.folder_name}") as digests:
            if job.collective and not distributed.here().alone:
                from expunge.engine.collective import announced

                with announced(job, inputs, context):
                    yield attempt
            else:
                yield attempt
        record = provenance(job, attempt.facts, start) | {DIGESTS: digests}
        record["chain"] = {role: proof(self.record(parent) or {}) for role, parent in job.parents.items()}
        record["files"] = {}
        for f in sorted(f for f in folder.rglob("*") if f.is_file()):
            stat = f.stat()
            self._sums[_place(stat)] = sha = file_sha256(f)
            record["files"][f.relative_to(folder).as_posix()] = [sha, stat.st_size]
        write_record(folder / RECORD, record)
        attempt.record = record

    @contextlib.contextmanager
    def _writing(self, job: Job) -> Iterator[None]:
        """Raise a disk error of the system as an error of the job."""
        try:
            yield
        except Exception as error:
            # the tokenizers library raises a bare Exception with the system's words
            of_system = type(error) is Exception and "(os error " in str(error)
            if not (of_system or isinstance(error, OSError | SafetensorError)):
                raise
            message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise JobError(f"{job.name}: cannot write under {self.root}: {' '.join(message.split())}") from error

    @contextlib.contextmanager
    def _lock(self, job: Job) -> Iterator[Lease]:
        """Hold the job's lease, with a file next to it that lists the parents in use.

        Raises LeaseLostError in place of an error of the block if another process has taken the job over. That process
        changes files which the block uses.
        """
        folder = self.root / LOCKS
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.store: cannot create {folder}: {error.strerror}") from None
        lease = Lease(lock_file(self.root, job.key), job.name)
        note = reads_file(self.root, job.key)
        try:
            lease.acquire()
            write_keys(note, (parent.key for parent in job.parents.values()))
        except Timeout:
            raise JobError(f"{job.name}: another process has held this job for a day") from None
        except OSError as error:
            lease.release()
            raise JobError(f"{job.name}: cannot write under {self.root}: {error.strerror or error}") from error
        try:
            yield lease
        except Exception:
            lease.check()
            raise
        finally:
            if not lease.is_lost:
                with contextlib.suppress(OSError):  # a list without its lock is ignored
                    note.unlink(missing_ok=True)
            lease.release()


def _checking(lease: Lease, progress: Progress) -> Progress:
    """Return a receiver of progress that also checks the lease."""

    def report(done: int, total: int) -> None:
        lease.check(now=False)
        progress(done, total)

    return report


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
