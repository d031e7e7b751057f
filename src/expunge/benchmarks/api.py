"""The interface of a benchmark: the roles of its examples, and its metrics.

A function per benchmark builds it from the user's settings; `@benchmark` registers the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from expunge.core.decode import decode, strict
from expunge.core.errors import ConfigError, nearest
from expunge.core.registry import Fidelity, Registry
from expunge.data.examples import ExampleSet
from expunge.data.world import WorldConfig
from expunge.metrics.api import Metric


@dataclass(frozen=True)
class Limits:
    """End of a generation: after max_new_tokens, or before the first of the texts `stop`, which are cut off."""

    max_new_tokens: int
    stop: tuple[str, ...] = ()


PROBABILITY = "retain_Q_A_Prob"


@dataclass(frozen=True)
class Benchmark:
    """Sets of examples by name, their roles, and the metric suite. notes: choices that the user did not make.

    split, retain_split: names of the forget and the retain split. full_sets, retain_sets: training sets of the target
    and the retain model. Without full_sets the target model is the initial model; without retain_sets there is no
    retain model. forget_set and retain_set: the two sides of unlearning; a benchmark without unlearning has neither.
    shown_set: the set whose questions and generations a report shows, if any. generation: limits of generations, by
    set. shown: the metrics of a report, in order (none: the predefined ones in the panel). utility: the metric of
    remaining abilities. tokenizer: the folder of the tokenizer, if the examples are tokens; a model from scratch uses
    it. loss_sets: default sets of the mean token loss during training. traced: for a set, another one with the same
    rows and their reasoning traces, which training reads with train_on=trace or trace+answer.
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
    traced: Mapping[str, str] = field(default_factory=dict)
    preview: tuple[str, ...] = ()  # first rows, for the terminal alone: a report must not repeat the forget set

    def __post_init__(self) -> None:
        """Raise ConfigError for a role of a set that is not there."""
        for role in ("full_sets", "retain_sets"):
            for name in getattr(self, role):
                if name not in self.sets:
                    raise ConfigError(f"benchmark {self.name}: {role}: no set named {name!r}{nearest(name, self.sets)}")

    @property
    def measured_utility(self) -> str:
        """The metric of remaining abilities in the panel: `utility`, or without it the retain answers' probability."""
        names = {metric.name for metric in self.panel}
        return PROBABILITY if self.utility not in names and PROBABILITY in names else self.utility

    def __repr__(self) -> str:
        sets = ", ".join(f"{name} {len(rows)}" for name, rows in self.sets.items())
        metrics = ", ".join(metric.name for metric in self.panel) or "none"
        return f"Benchmark({self.name}, {self.split})\n  rows: {sets}\n  metrics: {metrics}"


@strict
@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """The user's choices for a benchmark. None: the benchmark's own default."""

    root: str | None = None
    """Local folder or hub id that replaces the benchmark's own. None: the benchmark's own."""
    forget_split: str | None = None
    """Name of the split to forget. None: the benchmark's default, if it has splits."""
    retain_split: str | None = None
    """Name of the split to retain. None: the one that belongs to `forget_split`."""
    holdout_split: str | None = None
    """Name of a split that no model has seen, for membership attacks. None: no such attacks, unless
    the benchmark has a holdout split of its own."""
    data_split: str | None = None
    """Part of the benchmark, such as News or Books of MUSE. None: the benchmark's default."""
    forget: str | None = None
    """File of examples to forget, for benchmarks of the user's own data. None for the others."""
    retain: str | None = None
    """File of examples to retain, for benchmarks of the user's own data. None for the others."""
    background: bool = False
    """Whether models from scratch also learn real-world answers."""
    truth_ratio: str = "geometric"
    """Aggregation of the wrong answers in the truth ratio: geometric or arithmetic."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Settings of the embedded world."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of this benchmark alone, at `data.args`; see `settings`."""


T = TypeVar("T")


def settings(config: BenchmarkConfig, cls: type[T]) -> T:
    """Decode `data.args` into the benchmark's own frozen dataclass. Raises ConfigError at the key."""
    return decode(cls, config.args, where="data.args")


def unused(config: BenchmarkConfig, name: str, *keys: str) -> None:
    """Raise ConfigError if one of these settings is set, because the benchmark does not support it."""
    for key in keys:
        if getattr(config, key):
            where = f"data.{key}" if key in ("root", "args", "background") else key
            hint = f"; write {where}=null" if isinstance(getattr(config, key), str) else ""
            if name == "custom":
                hint = "; leave it out: forget=FILE and retain=FILE name the rows"
            elif key in ("forget", "retain"):
                hint += ", or benchmark=custom, which reads such a file"
            raise ConfigError(f"{where}={getattr(config, key)}: the benchmark {name} has no such setting{hint}")


@dataclass(frozen=True)
class BenchmarkSpec:
    """A registered benchmark."""

    name: str
    about: str
    make: Callable[[BenchmarkConfig], Benchmark]
    fidelity: Fidelity = ""

    @property
    def page(self) -> str:
        """The user page of the benchmark: its function's docstring."""
        return (self.make.__doc__ or "").strip()


_BENCHMARKS: Registry[BenchmarkSpec] = Registry(
    "benchmark", lambda spec: spec.make, folder="benchmarks", decorator="benchmark"
)
F = TypeVar("F", bound=Callable[[BenchmarkConfig], Benchmark])


def benchmark(name: str, *, about: str, fidelity: Fidelity = "") -> Callable[[F], F]:
    """Register `make(config) -> Benchmark` under the name that users type."""

    def register(make: F) -> F:
        _BENCHMARKS.add(BenchmarkSpec(name, about, make, fidelity))
        return make

    return register


def benchmarks() -> Mapping[str, BenchmarkSpec]:
    """Return all benchmarks by name."""
    return _BENCHMARKS


def find_benchmark(name: str) -> BenchmarkSpec:
    """Return the benchmark with a name. Raises ConfigError with the nearest right name."""
    return _BENCHMARKS.find(name, "benchmark")
