"""Run a graph: each job once, parents first. A failed job blocks only the jobs that depend on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expunge.core.errors import ExpungeError, JobError
from expunge.engine.job import Job, in_order
from expunge.engine.lease import claimed
from expunge.engine.store import Store

State = Literal["hit", "missing", "blocked"]
FLOPS_PER_SECOND = 6e10  # two laptop cores; used until the store has measured jobs


@dataclass(frozen=True)
class PlannedJob:
    """A job of a plan: done already (hit), to be done (missing), or waiting for a parent (blocked)."""

    job: Job
    state: State
    seconds: float | None  # actual time (hit) or estimate; None if the model's size is unknown
    damage: str = ""  # why a stored result cannot be used; a run computes nothing in its place


def plan(targets: Sequence[Job], store: Store) -> list[PlannedJob]:
    """Return the state of every job. Reads the store's records and compares small files with their checksums."""
    jobs = in_order(targets, store.settled)
    records: dict[str, Mapping[str, Any]] = {}
    damage: dict[str, str] = {}
    for job in jobs:
        try:
            record = store.record(job)
        except JobError as error:
            damage[job.key] = str(error)
        else:
            records |= {} if record is None else {job.key: record}
    rate = _rate(jobs, records)
    out = []
    for job in jobs:
        if job.key in records:
            state: State = "hit"
        else:
            state = "missing" if all(p.key in records for p in job.parents.values()) else "blocked"
        out.append(PlannedJob(job, state, _seconds(job, records.get(job.key), rate), damage.get(job.key, "")))
    return out


def _rate(jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any]]) -> float:
    """Return floating-point operations per second, from the finished jobs of this store if there are any."""
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
    """A report of the runner: a job's state and progress (done of total units)."""

    job: Job
    what: Literal["hit", "start", "progress", "done", "failed", "blocked"]
    done: int = 0
    total: int = 0
    wall_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class RunOutcome:
    """The records of finished jobs, the reasons of the others (by job key), and the first error."""

    records: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    first: ExpungeError | None = None


def run(targets: Sequence[Job], store: Store, tell: Callable[[JobEvent], None]) -> RunOutcome:
    """Run every job that is not done. An error ends only that job and the jobs that depend on it."""
    records: dict[str, Mapping[str, Any]] = {}
    failures: dict[str, str] = {}
    first: ExpungeError | None = None
    with claimed(store.root, (job.key for job in in_order(targets))):
        for job in in_order(targets, store.settled):
            try:
                record = store.record(job)
            except JobError as error:
                failures[job.key] = str(error)
                first = first or error
                tell(JobEvent(job, "failed", reason=str(error)))
                continue
            if record is not None:
                records[job.key] = record
                tell(JobEvent(job, "hit", wall_s=float(record.get("wall_s", 0.0))))
                continue
            failed_parent = next((p for p in job.parents.values() if p.key in failures), None)
            if failed_parent is not None:
                failures[job.key] = f"waits for {failed_parent.name}, which failed"
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
