"""Jobs for tests of the engine: one that a closure describes, and one that is plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from expunge.engine.job import Job, JobContext, local

Do = Callable[[Path, Mapping[str, Path], Callable[[int, int], None]], Mapping[str, Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class CallJob(Job):
    """A job that calls `do(out, inputs, progress)`. It belongs to its process: no job file can hold it."""

    kind: str = "test"  # type: ignore[misc]
    what: Mapping[str, Any] = field(default_factory=dict)
    do: Do = local()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        return self.do(out, inputs, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class TextJob(Job):
    """Writes its text and those of its parents."""

    kind: ClassVar[str] = "text"

    text: str
    times: int = 1

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        read = "".join((folder / "text").read_text() for _, folder in sorted(inputs.items()))
        (out / "text").write_text(self.text * self.times + read)
        return {"letters": len(self.text)}
