"""The source of a job's rows, as data: the task, and the derivations from it.

A job does not carry its rows. It carries a `ContextSource` and the fingerprints of the rows it reads. In another
process the source loads the task once, and a row set that has changed since the job was planned is an error.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.data.examples import ExampleSet
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.task_config import LmEval, TaskConfig
from expunge.pipelines.study.task_context import TaskContext

KEPT = 16  # contexts that stay in a process
Derive = Callable[[TaskContext, TaskConfig, Mapping[str, Any]], TaskContext]
_DERIVATIONS: dict[str, Derive] = {}
_LOADED: OrderedDict[str, TaskContext] = OrderedDict()


def derivation(name: str) -> Callable[[Derive], Derive]:
    """Register a function that derives a context from another, by the name that sources use."""

    def register(derive: Derive) -> Derive:
        _DERIVATIONS[name] = derive
        return derive

    return register


@dataclass(frozen=True)
class Derivation:
    """One derivation: its registered name, its arguments, and the module that registers it."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    module: str = __name__


@dataclass(frozen=True)
class RowsRef:
    """A set of rows: its name in the context, and the fingerprint of its contents. The key covers the contents.

    token_ids: a digest of the token ids of its texts, which the key covers, too. None if a job creates the tokenizer:
    then the keys of its parents cover the tokenizer.
    """

    name: str
    fingerprint: str
    token_ids: str | None = None

    @property
    def identity(self) -> str | list[str]:
        """The part of a key."""
        return self.fingerprint if self.token_ids is None else [self.fingerprint, self.token_ids]


@dataclass(frozen=True)
class FileRef:
    """A file: its path, and the SHA-256 of its contents. The key covers only the contents."""

    path: str
    sha256: str

    @property
    def identity(self) -> str:
        """The part of a key."""
        return self.sha256

    @classmethod
    def of(cls, path: Path) -> FileRef:
        """Refer to a file with its present contents."""
        return cls(str(path), file_sha256(path))

    def checked(self) -> Path:
        """Return the path. Raises DataError if the file has changed."""
        path = Path(self.path)
        if not path.is_file() or file_sha256(path) != self.sha256:
            raise DataError(f"{path}: has changed since this job was planned; plan again")
        return path


@dataclass(frozen=True, kw_only=True)
class ContextSource:
    """The context of a job for another process: the task, then the derivations in order."""

    task: TaskConfig
    steps: tuple[Derivation, ...] = ()

    @classmethod
    def of(cls, task: TaskConfig, context: TaskContext | None = None) -> ContextSource:
        """Return the source of a task. context: the loaded context, if there is one."""
        own = {f.name: getattr(task, f.name) for f in dataclasses.fields(TaskConfig)}
        own["eval"] = dataclasses.replace(task.eval, lm_eval=LmEval())  # a harness job has its own settings
        source = cls(task=TaskConfig(**own))
        return source if context is None else source.holding(context)

    def then(self, name: str, args: Mapping[str, Any] | None = None, *, module: str = __name__) -> ContextSource:
        """Return the source of a derived context."""
        return ContextSource(task=self.task, steps=(*self.steps, Derivation(name, args or {}, module)))

    def holding(self, context: TaskContext) -> ContextSource:
        """Return the same source with its context, loaded already."""
        vars(self)["_context"] = context
        return self

    @property
    def before(self) -> ContextSource:
        """The source without its last derivation."""
        return ContextSource(task=self.task, steps=self.steps[:-1])

    @property
    def modules(self) -> frozenset[str]:
        """The modules that register its derivations."""
        return frozenset({__name__, *(step.module for step in self.steps)})

    @functools.cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self)

    def load(self) -> TaskContext:
        """Return the context. Loads it once in a process. Raises ConfigError or DataError."""
        context: TaskContext | None = vars(self).get("_context")
        if context is None:
            context = _LOADED.get(self._fingerprint) or self._loaded()
            _LOADED[self._fingerprint] = context
            _LOADED.move_to_end(self._fingerprint)
            while len(_LOADED) > KEPT:
                _LOADED.popitem(last=False)
            self.holding(context)
        return context

    def _loaded(self) -> TaskContext:
        if not self.steps:
            return resolve_task(self.task)
        last = self.steps[-1]
        if last.name not in _DERIVATIONS:
            raise ConfigError(f"no derivation named {last.name!r}{nearest(last.name, _DERIVATIONS)}")
        return _DERIVATIONS[last.name](self.before.load(), self.task, last.args)

    def checked(self, rows: Iterable[RowsRef] = (), refusals: tuple[str, ...] | None = None) -> TaskContext:
        """Return the context, after a comparison with the rows and refusals of the plan.

        Raises:
            DataError: A set of rows, or the refusals, have changed since.
        """
        context = self.load()
        for ref in rows:
            check_rows(context.benchmark.sets, ref)
        if refusals is not None and tuple(context.refusals) != refusals:
            raise DataError("data.refusals: the refusals have changed since this job was planned; plan again")
        return context


def check_rows(sets: Mapping[str, ExampleSet], ref: RowsRef) -> None:
    """Raise DataError if a set of rows differs from that of the plan."""
    if ref.name not in sets or sets[ref.name].fingerprint() != ref.fingerprint:
        raise DataError(f"the rows of {ref.name} have changed since this job was planned; plan again")


@derivation("requests")
def _requests(context: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    """Split the forget rows into a set for each request."""
    from expunge.pipelines.study.requests import with_requests

    requests = args["requests"]
    ranges = requests if isinstance(requests, int) else {name: (int(a), int(b)) for name, (a, b) in requests.items()}
    return with_requests(context, ranges)[0]


@derivation("watched")
def _watched(context: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    """Return the benchmark that evaluations during training read."""
    return dataclasses.replace(context, benchmark=context.watched or context.benchmark, watched=None)


@derivation("finished")
def _finished(context: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    """Return the context with a finished model in place of the configured one."""
    from expunge.pipelines.study.finished_models import model_of

    return dataclasses.replace(context, model=model_of(task.model, args["source"], args["revision"]))
