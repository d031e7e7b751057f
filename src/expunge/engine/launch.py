"""Where jobs run, as settings. Importing this loads no torch. None of it is part of a job's key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from expunge.core.decode import decode, strict


@strict
@dataclass(frozen=True, kw_only=True)
class SlurmArgs:
    """Resources of a Slurm job. `by_kind` changes them for a kind of job: {score: {time_min: 30}}.

    setup: shell lines before the job (module load ..., source env/bin/activate). env: variables for the job, such as
    HF_HOME. extra: further sbatch options by their long names. max_array: most tasks of one array; parallel: most of
    them at a time. python: the interpreter on the nodes.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time_min: int = 240
    nodes: int = 1
    cpus: int = 2
    gpus: int = 0
    mem_gb: float | None = None
    max_array: int = 1000
    parallel: int = 256
    python: str | None = None
    setup: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    by_kind: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("time_min", "nodes", "cpus", "max_array", "parallel"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if self.gpus < 0 or (self.mem_gb is not None and self.mem_gb <= 0):
            raise ValueError("gpus must be at least 0" if self.gpus < 0 else "mem_gb must be a number > 0")
        for kind in self.by_kind:
            resources(self, kind)


def resources(args: SlurmArgs, kind: str) -> SlurmArgs:
    """The resources of one kind of job. Raises ConfigError at the key."""
    own = asdict(args) | {"by_kind": {}}
    changed = dict(args.by_kind.get(kind, {}))
    return decode(SlurmArgs, own | changed, where=f"launch.slurm.by_kind.{kind}" if changed else "launch.slurm")


@strict
@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a study runs.

    kind: "local" (this machine) or "slurm" (a cluster; this command waits and shows the jobs). workers: processes that
    do jobs side by side on this machine; 0 is one for each device. per_device: jobs that share one GPU. threads: CPU
    threads of each worker; by default the cores are shared out.
    """

    kind: Literal["local", "slurm"] = "local"
    workers: int = 1
    per_device: int = 1
    threads: int | None = None
    slurm: SlurmArgs = field(default_factory=SlurmArgs)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError("workers must be at least 0 (0: one for each device)")
        if self.per_device < 1:
            raise ValueError("per_device must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")
