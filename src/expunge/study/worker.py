"""Doing one job of a study in a process that did not plan it: in a local pool, or on a node of a cluster."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from expunge.core.errors import ConfigError, ExpungeError, JobError
from expunge.core.files import write_json
from expunge.study.grid import study_graph
from expunge.study.job import Job, Progress, in_order
from expunge.study.launch import StudySpec
from expunge.study.store import Store

FAILURES = ".failures"


def quiet() -> None:
    """Libraries speak only when something is wrong; the progress view is ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def jobs_of(recipe: StudySpec) -> dict[str, Job]:
    """All jobs of a study by key. Raises ConfigError or DataError."""
    return {job.key: job for job in in_order(study_graph(recipe.tree).jobs)}


def do_job(jobs: dict[str, Job], key: str, store: Store, progress: Progress) -> str | None:
    """Do one job whose parents are done; the reason if it fails, which is also kept beside the store's artifacts.

    Raises ConfigError if the study has no such job: its settings or its data have changed since it was planned.
    """
    if key not in jobs:
        raise ConfigError(f"job {key[:12]}: this study has no such job; its settings or data have changed since")
    job = jobs[key]
    forget_failure(store, key)
    try:
        lost = next((p for p in job.parents.values() if not store.done(p)), None)
        if lost is not None:
            raise JobError(f"waits for {lost.name}, which is not done")
        store.make(job, progress)
    except ExpungeError as error:
        with contextlib.suppress(OSError):  # on a full disk the caller alone is told
            write_json(_failure(store, key), {"job": job.name, "reason": str(error)})
        return str(error)
    return None


def failure(store: Store, key: str) -> str | None:
    """Why a job failed when it was last tried; None if it did not."""
    try:
        return str(json.loads(_failure(store, key).read_text(encoding="utf-8"))["reason"])
    except FileNotFoundError:
        return None


def forget_failure(store: Store, key: str) -> None:
    """Let a job be tried anew."""
    _failure(store, key).unlink(missing_ok=True)


def _failure(store: Store, key: str) -> Path:
    return store.root / FAILURES / f"{key[:32]}.json"
