"""A job: what it is (identity), what it waits for (parents), and how to do it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.fingerprints import fingerprint

Progress = Callable[[int, int], None]  # units done, units in all
CHECKPOINTS = ".checkpoints"
LOCKS = ".locks"
Do = Callable[[Path, Mapping[str, Path], Progress], Mapping[str, Any]]


@dataclass(frozen=True)
class Estimate:
    """The work of a job: tokens that go through the model, floating-point operations, and bytes of the model that it
    writes (0 where unknown).

    memory: bytes on a GPU at the most (`study.memory`). shapeless: why they are not known of a job that reads a model.
    """

    tokens: int = 0
    flops: float = 0.0
    bytes: int = 0
    memory: float = 0.0
    shapeless: str = ""


READING = "reading"  # in a job's facts: how its model was read, where not as any other


def store_around(folder: Path) -> Path | None:
    """Return the root of the store that a job's folder is made in; None for a folder outside of a store."""
    root = folder.parent.parent
    return root if (root / LOCKS).is_dir() else None


def reading_notes(record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Of a finished job: the notes on how its model was read."""
    return tuple((record or {}).get("facts", {}).get(READING, ()))


def cut_answers(record: Mapping[str, Any] | None) -> dict[str, int]:
    """Of a finished job: how many answers of each set were cut, where any were."""
    facts = (record or {}).get("facts", {})
    cut = {**facts.get("truncated_rows", {}), **facts.get("truncated_answers", {})}
    return {name: n for name, n in cut.items() if n}


@dataclass(frozen=True, eq=False)
class Job:
    """One node of a study's graph.

    `do(folder, parents, progress)` fills a fresh folder, reading the parents' folders, and returns facts for the job's
    record. `identity` must determine the result together with the parents; `label` only names it for people.
    implied: the roles of parents whose contents the rest already determines (a reference of the parent model); they are
    left out of the key. passing: this job's result is there for its readers alone, and may go when they are done.
    resumes: an unfinished attempt is gone on from; `do` is told where to keep it, as `parents[CHECKPOINTS]`.
    together: where there are several processes, all call `do` at the same time (`study.collective`).
    """

    kind: str
    label: str
    identity: Mapping[str, Any]
    do: Do
    parents: Mapping[str, Job] = field(default_factory=dict)
    estimate: Estimate = Estimate()
    implied: frozenset[str] = frozenset()
    passing: bool = False
    resumes: bool = False
    together: bool = False

    @functools.cached_property
    def key(self) -> str:
        """Fingerprint of the job: kind, identity and the parents' fingerprints."""
        parents = {role: p.key for role, p in self.parents.items() if role not in self.implied}
        return fingerprint({"kind": self.kind, "identity": self.identity, "parents": parents})

    @property
    def folder_name(self) -> str:
        """`label-fingerprint`, safe as a folder's name."""
        return f"{re.sub(r'[^A-Za-z0-9._=-]+', '-', self.label).strip('-')[:60]}-{self.key[:12]}"

    @property
    def name(self) -> str:
        """`kind label`, as people see it."""
        return f"{self.kind} {self.label}"


def in_order(wanted: Iterable[Job], done: Callable[[Job], bool] | None = None) -> list[Job]:
    """The wanted jobs and all their ancestors, parents first, each fingerprint once.

    With `done`, a passing parent that is no longer there is left out where the job that read it is done.
    """
    seen: dict[str, Job] = {}

    def visit(job: Job) -> None:
        if job.key in seen:
            return
        for parent in job.parents.values():
            if done is None or not parent.passing or done(parent) or not done(job):
                visit(parent)
        seen[job.key] = job

    for job in wanted:
        visit(job)
    return list(seen.values())
