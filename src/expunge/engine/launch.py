"""Settings of the place where jobs run. They are not part of a job's key. This module does not import torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError, nearest

# These words become lines of a shell script.
WORD = re.compile(r"[A-Za-z0-9_.,:@+-]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
MOST_WORKERS = 256  # processes on one machine; each one imports torch


@strict
@dataclass(frozen=True, kw_only=True)
class SlurmArgs:
    """Resources of a Slurm job."""

    partition: str | None = None
    """The partition. None: the cluster's default."""
    account: str | None = None
    """The account to charge. None: your default."""
    qos: str | None = None
    """The quality of service. None: the cluster's default."""
    time_min: int = 240
    """The time limit in minutes."""
    nodes: int = 1
    """Nodes of a job."""
    cpus: int = 2
    """CPU cores of a job."""
    gpus: int = 0
    """GPUs of a job."""
    mem_gb: float | None = None
    """Memory in GB. None: the cluster's default."""
    max_array: int = 1000
    """Maximum number of tasks of one array."""
    parallel: int = 256
    """Maximum number of tasks of an array that run at the same time."""
    python: str | None = None
    """The interpreter on the nodes. None: this one."""
    setup: tuple[str, ...] = ()
    """Shell lines before the job, such as module load."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the job, such as HF_HOME."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further sbatch options by their long names."""
    by_kind: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Changes for a kind of job: {score: {time_min: 30}}."""

    def __post_init__(self) -> None:
        for key in ("time_min", "nodes", "cpus", "max_array", "parallel"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if self.gpus < 0 or (self.mem_gb is not None and self.mem_gb <= 0):
            raise ValueError("gpus must be at least 0" if self.gpus < 0 else "mem_gb must be a number > 0")
        for key in ("partition", "account", "qos"):
            value = getattr(self, key)
            if value is not None and WORD.fullmatch(value) is None:
                raise ValueError(f"{key} must have letters, digits and . , : @ + _ - only")
        for name, value in self.env.items():
            if VARIABLE.fullmatch(name) is None or not str(value).isprintable():
                raise ValueError(f"env: {name!r:.40} must be a variable's name, and its value one line of text")
        for name, value in self.extra.items():
            if OPTION.fullmatch(name) is None or not str(value).isprintable():
                raise ValueError(f"extra: {name!r:.40} must be a long option of sbatch, and its value one line of text")
        if self.python is not None and not self.python.isprintable():
            raise ValueError("python must be one line of text")
        for kind in self.by_kind:
            resources(self, kind)


def check_kinds(args: SlurmArgs, kinds: Iterable[str]) -> None:
    """Raise ConfigError for a kind of job in `by_kind` that is not one of these."""
    allowed = sorted(set(kinds) - {""})
    for kind in args.by_kind:
        if kind not in allowed:
            raise ConfigError(f"launch.slurm.by_kind.{kind}: no kind of job{nearest(kind, allowed)}")


def resources(args: SlurmArgs, kind: str) -> SlurmArgs:
    """Return the resources of one kind of job. Raises ConfigError at the key."""
    own = asdict(args) | {"by_kind": {}}
    changed = dict(args.by_kind.get(kind, {}))
    return decode(SlurmArgs, own | changed, where=f"launch.slurm.by_kind.{kind}" if changed else "launch.slurm")


@strict
@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How a study runs. These settings are not part of a job's key."""

    kind: Literal["local", "slurm"] = "local"
    """local (this machine) or slurm (a cluster)."""
    workers: int = 1
    """Processes that do jobs at the same time on this machine. 0: one for each device."""
    per_device: int = 1
    """Jobs that share one GPU."""
    threads: int | None = None
    """CPU threads of each worker. None: the cores divided by the workers."""
    slurm: SlurmArgs = field(default_factory=SlurmArgs)
    """Resources of Slurm jobs."""

    def __post_init__(self) -> None:
        for key, most in (("workers", MOST_WORKERS), ("per_device", MOST_WORKERS), ("threads", 4096)):
            if (getattr(self, key) or 0) > most:
                raise ValueError(f"{key} must be at most {most}")
        if self.workers < 0:
            raise ValueError("workers must be at least 0 (0: one for each device)")
        if self.per_device < 1:
            raise ValueError("per_device must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads must be at least 1")
