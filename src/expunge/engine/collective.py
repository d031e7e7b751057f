"""One job in several processes: the first runs all jobs, and announces the jobs that all run together.

Only the first process handles locks, hits, missing parents and removed files. The others write to a temporary folder.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.engine.job import Job, JobContext, in_order


@contextlib.contextmanager
def announced(job: Job, inputs: Mapping[str, Path], context: JobContext) -> Iterator[None]:
    """Let all processes of the launch run the collective job of this block."""
    checkpoints = None if context.checkpoints is None else str(context.checkpoints)
    paths = {role: str(path) for role, path in inputs.items()}
    distributed.broadcast({"job": job.key, "inputs": paths, "checkpoints": checkpoints})
    yield
    distributed.meet()


def help_with(targets: Sequence[Job]) -> None:
    """Run the jobs that the first process announces, until it is done. Raises JobError for an unknown job."""
    jobs = {job.key: job for job in in_order(targets)}
    memory: dict[Any, Any] = {}
    while (call := distributed.broadcast(None)) is not None:
        if call["job"] not in jobs:
            raise JobError("the processes of this launch have different settings or different data")
        inputs = {role: Path(path) for role, path in call["inputs"].items()}
        checkpoints = None if call["checkpoints"] is None else Path(call["checkpoints"])
        with tempfile.TemporaryDirectory() as folder:
            jobs[call["job"]].run(inputs, Path(folder), JobContext(checkpoints=checkpoints, memory=memory))
        distributed.meet()


def all_done() -> None:
    """Release the other processes."""
    distributed.broadcast(None)
