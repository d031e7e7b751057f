"""A job as data: its fields describe the result, `run` computes it, and its key is a fingerprint of both.

    @dataclass(frozen=True, eq=False, kw_only=True)
    class CountJob(Job):
        kind: ClassVar[str] = "count"
        text: str

        def run(self, inputs, out, context):
            (out / "n").write_text(str(len(self.text)))
            return {"n": len(self.text)}

The key covers the kind, the revision, the fields and the parents' keys. A field that does not change the result (a
path, a device) is declared with `unkeyed()`. A field with the value of its default leaves no trace in the key, so a new
optional field keeps the keys of old jobs; to change a default, raise `revision`. A value whose class has a property
`identity` is covered by that property.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from expunge.core.errors import ConfigError
from expunge.core.fingerprints import canonical, fingerprint

Progress = Callable[[int, int], None]  # units done, units in all
KEYED, STORED, SHARED = "keyed", "stored", "shared"


def silent(done: int, total: int) -> None:
    """Report no progress."""


def unkeyed(**options: Any) -> Any:
    """Return a field that does not change the result: the key leaves it out."""
    return field(metadata={KEYED: False}, **options)


def shared(**options: Any) -> Any:
    """Return an unkeyed field that many jobs have in common: a job file holds its value once."""
    return field(metadata={KEYED: False, SHARED: True}, **options)


def local(**options: Any) -> Any:
    """Return an unkeyed field of the planning process: a job file leaves it out."""
    return field(metadata={KEYED: False, STORED: False}, **options)


@dataclass(frozen=True)
class Estimate:
    """The work of a job, estimated before it runs.

    tokens, flops: tokens that pass through the model, and floating-point operations. bytes: of the model that the job
    writes (0: unknown). memory: bytes on a GPU at most. shapeless: why `memory` is unknown, for a job that reads a
    model.
    """

    tokens: int = 0
    flops: float = 0.0
    bytes: int = 0
    memory: float = 0.0
    shapeless: str = ""


@dataclass(frozen=True)
class JobContext:
    """The services of a runner for a running job.

    checkpoints: the folder of a resumable job's unfinished attempt. memory: objects that consecutive jobs
    of one process share, such as a loaded model, by a name that the job chooses.
    """

    progress: Progress = silent
    checkpoints: Path | None = None
    memory: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One node of a graph of jobs. Subclasses add fields, set `kind` and define `run`.

    label names the job for people. parents: the jobs whose results it reads, by role.
    """

    kind: ClassVar[str]
    """The folder of the store that holds the results."""
    revision: ClassVar[int] = 1
    """Raise it if the same fields give another result."""
    excluded_from_key: ClassVar[frozenset[str]] = frozenset()
    """Roles of parents that the other fields and parents determine already."""

    shares_task: ClassVar[Literal["", "parents", "level"]] = ""
    """Jobs of seconds share one task of a cluster: with their parents, or with all jobs of their kind and depth."""

    label: str = unkeyed()
    parents: Mapping[str, Job] = unkeyed(default_factory=dict)
    estimate: Estimate = local(default=Estimate())

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = _TYPES.get(cls.__name__)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ConfigError(f"job type {cls.__name__}: defined twice, in {known.__module__} and {cls.__module__}")
        _TYPES[cls.__name__] = cls
        cls.__repr__ = Job.__repr__  # type: ignore[method-assign]  # the one of a dataclass would show all parents

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.label})"

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Compute the result into the empty folder `out`.

        Args:
            inputs: The folders of the parents' results, by role.
            out: A fresh folder to fill.
            context: Progress and checkpoints.

        Returns:
            Facts for the job's record, as plain JSON values.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no run")

    @property
    def ephemeral(self) -> bool:
        """Whether the result may be deleted once all dependent jobs are done."""
        return False

    @property
    def resumable(self) -> bool:
        """Whether an unfinished attempt continues from its checkpoints."""
        return False

    @property
    def collective(self) -> bool:
        """Whether all processes of a launch run the job together (`engine.collective`)."""
        return False

    @property
    def seed(self) -> int | None:
        """The seed that the record shows."""
        return None

    @property
    def modules(self) -> frozenset[str]:
        """The modules that a process imports before it decodes this job."""
        return frozenset({type(self).__module__})

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        """The keyed fields as plain values, with the revision."""
        out: dict[str, Any] = {"revision": self.revision}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.metadata.get(KEYED, True) and not _is_default(f, value):
                out[f.name] = keyed(value)
        return out

    @functools.cached_property
    def key(self) -> str:
        """Fingerprint of the job: kind, revision, keyed fields and the parents' keys."""
        parents = {role: p.key for role, p in self.parents.items() if role not in self.excluded_from_key}
        return fingerprint({"kind": self.kind, "identity": self.identity, "parents": parents})

    @property
    def folder_name(self) -> str:
        """`label-fingerprint`, safe as a folder's name and not hidden: hidden folders of a store hold no results."""
        return f"{re.sub(r'[^A-Za-z0-9._=-]+', '-', self.label).strip('-').lstrip('.-')[:60]}-{self.key[:12]}"

    @property
    def name(self) -> str:
        """`kind label`, for messages."""
        return f"{self.kind} {self.label}"

    def relabelled(self, label: str, parents: Mapping[str, Job]) -> Job:
        """Return the same job under another label, above relabelled parents of equal keys."""
        copy = dataclasses.replace(self, label=label, parents=parents)
        vars(copy)["key"] = self.key  # labels do not count, so the key is not computed again
        return copy


_TYPES: dict[str, type[Job]] = {}


def job_types() -> Mapping[str, type[Job]]:
    """Return the job types of all imported modules, by class name."""
    return _TYPES


def keyed(value: Any) -> Any:
    """Return the keyed part of a value as plain values. Raises TypeError for a value without a stable form."""
    if value is None or type(value) in (str, int, bool):
        return value
    kind: Any = type(value)
    if hasattr(kind, "identity"):
        return value.identity  # plain values, or dataclasses that count whole
    if hasattr(kind, "__dataclass_fields__"):
        return {name: keyed(getattr(value, name)) for name in _keyed_names(kind)}
    if isinstance(value, Mapping):
        return {key: keyed(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(one) for one in value]
    return canonical(value)


@functools.cache
def _keyed_names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls) if f.metadata.get(KEYED, True))


def _is_default(f: dataclasses.Field[Any], value: Any) -> bool:
    if f.default is not dataclasses.MISSING:
        return bool(value == f.default)
    return f.default_factory is not dataclasses.MISSING and bool(value == f.default_factory())


def in_order(targets: Iterable[Job], done: Callable[[Job], bool] | None = None) -> list[Job]:
    """Return jobs and all their ancestors, parents first, each key once.

    With `done`, an ephemeral parent that is not done is left out if the job that reads it is done.
    """
    seen: dict[str, Job] = {}

    def visit(job: Job) -> None:
        if job.key in seen:
            return
        for parent in job.parents.values():
            if done is None or not parent.ephemeral or done(parent) or not done(job):
                visit(parent)
        seen[job.key] = job

    for job in targets:
        visit(job)
    return list(seen.values())
