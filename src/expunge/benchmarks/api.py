"""What a benchmark is: which rows play which role, and which metrics are read off them. A function per benchmark makes
it from what the user chose; `@benchmark` registers the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.registry import Registry
from expunge.data.examples import ExampleSet
from expunge.data.world import WorldConfig
from expunge.metrics.api import Metric


@dataclass(frozen=True)
class Limits:
    """Where a generation ends: after max_new_tokens, or before the first of the texts `stop`, which are cut off."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """Rows by name, the roles they play, and the panel of metrics. notes: what was chosen that the user did not say.

    split, retain_split: the names of what is forgotten and of the rest. full_sets: what the full model is trained on.
    retain_sets: what the retain model is trained on. Without full_sets the full model is the given one; without
    retain_sets there is no retain model. forget_set and retain_set: the two sides of unlearning; a benchmark that only
    measures has neither among its sets. shown_set: the set whose questions and generations a report shows, if any.
    generation: limits of what is generated, by set. shown: the metrics a report shows, in order (none: those of the
    panel that reports know). utility: the metric that says what the model can still do. tokenizer: the folder of the
    tokenizer that the rows are tokens of, where they are tokens; a model from scratch takes it. loss_sets: what the
    mean token loss is read of during training, unless the user names others.
    """

    name: str
    split: str
    sets: Mapping[str, ExampleSet]
    panel: tuple[Metric, ...]
    full_sets: tuple[str, ...]
    retain_sets: tuple[str, ...]
    notes: tuple[str, ...] = ()
    forget_set: str = "forget"
    retain_set: str = "retain"
    shown_set: str | None = "forget_eval"
    retain_split: str = "retain"
    eval_name: str = "TOFU"
    generation: Mapping[str, Limits] = field(default_factory=dict)
    shown: tuple[str, ...] = ()
    utility: str = "model_utility"
    tokenizer: str | None = None
    loss_sets: tuple[str, ...] = ()
    preview: tuple[str, ...] = ()  # first rows, for the terminal alone: a report must not repeat what is forgotten


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What the user chose of a benchmark. None: the benchmark's own default.

    root: a local folder or hub id in place of the benchmark's own. forget, retain: files of rows, for benchmarks made
    of the user's data. args: settings of this benchmark alone, at `data.args`; see `settings`.
    """

    root: str | None = None
    forget_split: str | None = None
    retain_split: str | None = None
    holdout_split: str | None = None
    data_split: str | None = None
    forget: str | None = None
    retain: str | None = None
    background: bool = False
    truth_ratio: str = "geometric"
    world: WorldConfig = field(default_factory=WorldConfig)
    args: Mapping[str, Any] = field(default_factory=dict)


T = TypeVar("T")


def settings(wanted: BenchmarkConfig, cls: type[T]) -> T:
    """`data.args` as the benchmark's own frozen dataclass. Raises ConfigError at the key."""
    return decode(cls, wanted.args, where="data.args")


def unused(wanted: BenchmarkConfig, name: str, *keys: str) -> None:
    """Raise ConfigError if one of these choices was made: the benchmark has no such thing."""
    for key in keys:
        if getattr(wanted, key):
            where = f"data.{key}" if key in ("root", "args", "background") else key
            raise ConfigError(f"{where}={getattr(wanted, key)}: the benchmark {name} has no such setting")


@dataclass(frozen=True)
class BenchmarkSpec:
    """A registered benchmark."""

    name: str
    about: str
    make: Callable[[BenchmarkConfig], Benchmark]

    @property
    def page(self) -> str:
        """The benchmark's page: its function's docstring."""
        return (self.make.__doc__ or "").strip()


_BENCHMARKS: Registry[BenchmarkSpec] = Registry("benchmark", lambda spec: spec.make)
F = TypeVar("F", bound=Callable[[BenchmarkConfig], Benchmark])


def benchmark(name: str, *, about: str) -> Callable[[F], F]:
    """Register `make(wanted) -> Benchmark` under the name users type."""

    def register(make: F) -> F:
        _BENCHMARKS.add(BenchmarkSpec(name, about, make))
        return make

    return register


def benchmarks() -> Mapping[str, BenchmarkSpec]:
    """All benchmarks by name."""
    return _BENCHMARKS.all()


def find_benchmark(name: str) -> BenchmarkSpec:
    """The benchmark of a name. Raises ConfigError with the nearest right name."""
    return _BENCHMARKS.find(name, "benchmark")
