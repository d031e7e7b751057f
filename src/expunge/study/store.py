"""The store: a folder per finished job, made whole by one rename. If the folder is there, the job is done."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import sweep_parts, whole_folder, write_json
from expunge.core.identity import canonical
from expunge.study.job import CHECKPOINTS, Job, Progress

RECORD = "job.json"


class Store:
    """Finished jobs under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if root.exists() and not root.is_dir():
            raise ConfigError(f"paths.store: {root} is a file, not a folder")

    def path(self, job: Job) -> Path:
        """Where the job's artifact lies, or will lie."""
        return self.root / job.kind / job.folder_name

    def done(self, job: Job) -> bool:
        """Whether the artifact is there. A record of another job raises JobError: it is not taken as done."""
        record = self.record(job)
        if record is None:
            return False
        if record.get("key") != job.key:
            raise JobError(f"{self.path(job)} holds another job's record; move it away and run again")
        return True

    def record(self, job: Job) -> dict[str, Any] | None:
        """The job's record, or None if it is not done."""
        path = self.path(job) / RECORD
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, ValueError):
            raise JobError(f"{path} is damaged; move its folder away and run again") from None

    def make(self, job: Job, progress: Progress) -> dict[str, Any]:
        """Do the job and store its artifact whole. Waits for another process that is doing the same job."""
        with self._lock(job):
            found = self.record(job)
            if found is not None:
                return found
            sweep_parts(self.path(job))
            parents = {role: self.path(parent) for role, parent in job.parents.items()}
            for role, parent in job.parents.items():
                if not self.done(parent):
                    raise JobError(f"{job.name}: its {role} ({parent.name}) has vanished from {self.root}")
            unfinished = self.root / CHECKPOINTS / job.key[:32]
            if job.resumes:
                parents[CHECKPOINTS] = unfinished
            started = time.time()
            try:
                with whole_folder(self.path(job)) as folder:
                    facts = job.do(folder, parents, progress)
                    record = _record(job, facts, started)
                    write_json(folder / RECORD, record)
                if job.resumes:
                    shutil.rmtree(unfinished, ignore_errors=True)
            except OSError as error:
                raise JobError(f"{job.name}: cannot write under {self.root}: {error.strerror or error}") from error
            return record

    @contextlib.contextmanager
    def _lock(self, job: Job) -> Iterator[None]:
        folder = self.root / ".locks"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"paths.store: cannot make {folder}: {error.strerror}") from None
        lock = FileLock(folder / f"{job.key[:32]}.lock")
        try:
            lock.acquire(timeout=24 * 3600)
        except Timeout:
            raise JobError(f"{job.name}: another process has held this job for a day") from None
        try:
            yield
        finally:
            lock.release()


def _record(job: Job, facts: Mapping[str, Any], started: float) -> dict[str, Any]:
    """Provenance of an artifact. Only `key`, `identity` and `parents` say what it is; the rest says how it came."""
    return {
        "key": job.key,
        "kind": job.kind,
        "label": job.label,
        "identity": canonical(job.identity),
        "parents": {role: parent.key for role, parent in job.parents.items()},
        "facts": dict(facts),
        "wall_s": round(time.time() - started, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in ("expunge", "torch", "transformers")},
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.system()},
    }
