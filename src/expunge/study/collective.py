"""One job in several processes: the first does all jobs, and calls the others to those that they do together.

So locks, hits, what has vanished and what is made again are the first one's business alone. What the others write goes
to a folder of their own that nobody keeps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.study.job import Job, Progress, in_order


def do_together(job: Job, folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
    """Do a job, with all processes if it is one of those."""
    if not job.together or distributed.here().alone:
        return job.do(folder, parents, progress)
    distributed.told({"job": job.key, "parents": {role: str(path) for role, path in parents.items()}})
    facts = job.do(folder, parents, progress)
    distributed.meet()
    return facts


def help_with(wanted: Sequence[Job]) -> None:
    """Do the jobs that the first process calls to, until it is done. Raises JobError if it calls to an unknown one."""
    jobs = {job.key: job for job in in_order(wanted)}
    while (called := distributed.told(None)) is not None:
        if called["job"] not in jobs:
            raise JobError("the processes of this launch were given other settings, or read other data")
        parents = {role: Path(path) for role, path in called["parents"].items()}
        with tempfile.TemporaryDirectory() as folder:
            jobs[called["job"]].do(Path(folder), parents, lambda done, total: None)
        distributed.meet()


def all_done() -> None:
    """Let the others go."""
    distributed.told(None)
