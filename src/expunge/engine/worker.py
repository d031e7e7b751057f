"""Run one job in a process that did not plan it: in a local pool, or on a node of a cluster."""

from __future__ import annotations

import contextlib
from pathlib import Path

from expunge.core.errors import ConfigError, ExpungeError, JobError
from expunge.core.files import read_note, write_note
from expunge.core.terminal import quiet, say
from expunge.engine.job import Job, Progress, silent
from expunge.engine.job_file import JobFile
from expunge.engine.store import Store

FAILURES = ".failures"


def do_job(job: Job, store: Store, progress: Progress) -> str | None:
    """Run one job whose parents are done. If it fails, returns the reason and writes it next to the store's results."""
    forget_failure(store, job.key)
    try:
        unfinished = next((p for p in job.parents.values() if not store.done(p)), None)
        if unfinished is not None:
            raise JobError(f"waits for {unfinished.name}, which is not done")
        store.make(job, progress)
    except ExpungeError as error:
        with contextlib.suppress(OSError):  # on a full disk only the caller receives the reason
            write_note(_failure(store, job.key), {"job": job.name, "reason": str(error)})
        return str(error)
    return None


def run_task(path: Path, index: int) -> int:
    """Run the jobs of one task of a job file, one after another, and print the outcome of each.

    Returns:
        0, or 1 if a job failed.

    Raises:
        ConfigError: The file is no job file, or has no such task.
    """
    job_file = JobFile.read(path)
    if not 0 <= index < len(job_file.tasks):
        raise ConfigError(f"--index: {path} lists {len(job_file.tasks)} tasks, from 0 on, got {index}")
    quiet()
    job_file.prepare()
    store = Store(Path(job_file.store))
    failed = False
    for key in job_file.tasks[index]:
        job = job_file.job(key)
        reason = do_job(job, store, silent)
        say(f"{job.name}: {'done' if reason is None else f'failed: {reason}'}", flush=True)
        failed = failed or reason is not None
    return 1 if failed else 0


def failure(store: Store, key: str) -> str | None:
    """Return the reason of a job's last failure; None if it did not fail."""
    try:
        return str(read_note(_failure(store, key))["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return f"unknown: {_failure(store, key)} with the reason cannot be read: {error}"


def forget_failure(store: Store, key: str) -> None:
    """Delete the failure record of a job, so that it can run again."""
    _failure(store, key).unlink(missing_ok=True)


def _failure(store: Store, key: str) -> Path:
    return store.root / FAILURES / f"{key[:32]}.json"
