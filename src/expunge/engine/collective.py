"""One job in several processes: the first runs all jobs, and calls the others to the jobs that all run together.

Locks, hits, lost parents and removed files are the first process's work alone. The others write to a folder of
their own that is deleted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.engine.job import Job, JobContext, in_order


def run_job(job: Job, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
    """Run a job; a collective one together with all processes of the launch."""
    if not job.collective or distributed.here().alone:
        return job.run(inputs, out, context)
    checkpoints = None if context.checkpoints is None else str(context.checkpoints)
    called = {"job": job.key, "inputs": {role: str(path) for role, path in inputs.items()}, "checkpoints": checkpoints}
    distributed.told(called)
    facts = job.run(inputs, out, context)
    distributed.meet()
    return facts


def help_with(wanted: Sequence[Job]) -> None:
    """Run the jobs that the first process calls to, until it is done. Raises JobError for an unknown one."""
    jobs = {job.key: job for job in in_order(wanted)}
    memory: dict[Any, Any] = {}
    while (called := distributed.told(None)) is not None:
        if called["job"] not in jobs:
            raise JobError("the processes of this launch were given other settings, or read other data")
        inputs = {role: Path(path) for role, path in called["inputs"].items()}
        checkpoints = None if called["checkpoints"] is None else Path(called["checkpoints"])
        with tempfile.TemporaryDirectory() as folder:
            jobs[called["job"]].run(inputs, Path(folder), JobContext(checkpoints=checkpoints, memory=memory))
        distributed.meet()


def all_done() -> None:
    """Let the other processes go."""
    distributed.told(None)
