"""Carry out a graph: each job once, parents first. A failed job stops those that wait for it, and no others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.core.errors import ExpungeError, JobError
from expunge.engine.job import Job, in_order
from expunge.engine.store import Store

State = Literal["hit", "missing", "blocked"]
FLOPS_PER_SECOND = 6e10  # of a laptop's two cores, until the store has measured jobs to go by


@dataclass(frozen=True)
class PlannedJob:
    """A job of a plan: done already (hit), to be done (missing), or waiting for a parent (blocked)."""

    job: Job
    state: State
    seconds: float | None  # what it took (hit) or may take; None where the model's size is unknown


def plan(wanted: Sequence[Job], store: Store) -> list[PlannedJob]:
    """The state of every job. Reads the store's records and nothing else."""
    jobs = in_order(wanted, store.there)
    records = {job.key: found for job in jobs if (found := store.found(job)) is not None}
    rate = _rate(jobs, records)
    out = []
    for job in jobs:
        if job.key in records:
            state: State = "hit"
        else:
            state = "missing" if all(p.key in records for p in job.parents.values()) else "blocked"
        out.append(PlannedJob(job, state, _seconds(job, records.get(job.key), rate)))
    return out


def _rate(jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any] | None]) -> float:
    """Operations per second, from this store's finished jobs where there are any."""
    flops = wall = 0.0
    for job in jobs:
        record = records.get(job.key)
        if record and job.estimate.flops:
            flops += job.estimate.flops
            wall += float(record["wall_s"])
    return flops / wall if wall > 1 else FLOPS_PER_SECOND


def _seconds(job: Job, record: Mapping[str, Any] | None, rate: float) -> float | None:
    if record:
        return float(record["wall_s"])
    if job.estimate.tokens and not job.estimate.flops:
        return None
    return 1.0 + job.estimate.flops / rate


@dataclass(frozen=True)
class JobEvent:
    """What the runner tells: a job's state, and how far it is (done of total units)."""

    job: Job
    what: Literal["hit", "start", "progress", "done", "failed", "blocked"]
    done: int = 0
    total: int = 0
    wall_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class RunOutcome:
    """The records of the jobs that are done, why the others are not (by job key), and the first error itself."""

    records: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    first: ExpungeError | None = None


def run(wanted: Sequence[Job], store: Store, tell: Callable[[JobEvent], None]) -> RunOutcome:
    """Do every job that is not done. An error ends that job and what waits for it, and no others."""
    records: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    first: ExpungeError | None = None
    for job in in_order(wanted, store.there):
        try:
            found = store.record(job)
        except JobError as error:
            failures[job.key] = str(error)
            first = first or error
            tell(JobEvent(job, "failed", reason=str(error)))
            continue
        if found is not None:
            records[job.key] = found
            tell(JobEvent(job, "hit", wall_s=float(found.get("wall_s", 0.0))))
            continue
        lost = next((p for p in job.parents.values() if p.key in failures), None)
        if lost is not None:
            failures[job.key] = f"waits for {lost.name}, which failed"
            tell(JobEvent(job, "blocked", reason=failures[job.key]))
            continue
        started = time.monotonic()
        tell(JobEvent(job, "start"))

        def progress(done: int, total: int, job: Job = job, started: float = started) -> None:
            tell(JobEvent(job, "progress", done, total, time.monotonic() - started))

        try:
            records[job.key] = store.make(job, progress)
        except ExpungeError as error:
            failures[job.key] = str(error)
            first = first or error
            tell(JobEvent(job, "failed", reason=str(error), wall_s=time.monotonic() - started))
        else:
            tell(JobEvent(job, "done", wall_s=time.monotonic() - started))
    return RunOutcome(records, failures, first)
