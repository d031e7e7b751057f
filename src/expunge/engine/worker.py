"""Run one job in a process that did not plan it: in a local pool, or on a node of a cluster."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, ExpungeError, JobError
from expunge.core.files import write_json
from expunge.engine.job import Job, Progress, silent
from expunge.engine.job_file import JobFile
from expunge.engine.store import Store

FAILURES = ".failures"


def quiet() -> None:
    """Silence libraries unless something is wrong; the progress view is ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def do_job(job: Job, store: Store, progress: Progress) -> str | None:
    """Run one job whose parents are done. Returns the reason if it fails, and keeps it next to the store's results."""
    forget_failure(store, job.key)
    try:
        lost = next((p for p in job.parents.values() if not store.done(p)), None)
        if lost is not None:
            raise JobError(f"waits for {lost.name}, which is not done")
        store.make(job, progress)
    except ExpungeError as error:
        with contextlib.suppress(OSError):  # on a full disk only the caller receives the reason
            write_json(_failure(store, job.key), {"job": job.name, "reason": str(error)})
        return str(error)
    return None


def run_task(path: Path, index: int) -> int:
    """Run the jobs of one task of a job file, one after another, and print how each ended.

    Returns:
        0, or 1 if a job failed.

    Raises:
        ConfigError: The file is no job file, or has no such task.
    """
    found = JobFile.read(path)
    if not 0 <= index < len(found.tasks):
        raise ConfigError(f"--index: {path} lists {len(found.tasks)} tasks, from 0 on, got {index}")
    quiet()
    found.prepare()
    store = Store(Path(found.store))
    failed = False
    for key in found.tasks[index]:
        job = found.job(key)
        reason = do_job(job, store, silent)
        print(f"{job.name}: {'done' if reason is None else f'failed: {reason}'}", flush=True)
        failed = failed or reason is not None
    return 1 if failed else 0


def failure(store: Store, key: str) -> str | None:
    """Why a job failed when it last ran; None if it did not."""
    try:
        return str(json.loads(_failure(store, key).read_text(encoding="utf-8"))["reason"])
    except FileNotFoundError:
        return None


def forget_failure(store: Store, key: str) -> None:
    """Let a job be tried again."""
    _failure(store, key).unlink(missing_ok=True)


def _failure(store: Store, key: str) -> Path:
    return store.root / FAILURES / f"{key[:32]}.json"
