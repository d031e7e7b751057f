"""What a benchmark is: which rows play which role, and which metrics are read off them. A function per benchmark makes
it from what the user chose; `@benchmark` registers the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.data.rows import RowSet
from expunge.data.world import WorldConfig
from expunge.metrics.api import Metric


@dataclass(frozen=True)
class Benchmark:
    """Rows by name, the roles they play, and the panel of metrics. notes: what was chosen that the user did not say.

    split, retain_split: the names of what is forgotten and of the rest. full_sets: what the full model is trained on.
    retain_sets: what the retain model is trained on. forget_set and retain_set: the two sides of unlearning.
    shown_set: the set whose questions and generations a report shows.
    """

    name: str
    split: str
    sets: Mapping[str, RowSet]
    panel: tuple[Metric, ...]
    full_sets: tuple[str, ...]
    retain_sets: tuple[str, ...]
    notes: tuple[str, ...] = ()
    forget_set: str = "forget"
    retain_set: str = "retain"
    shown_set: str = "forget_eval"
    retain_split: str = "retain"
    eval_name: str = "TOFU"


@dataclass(frozen=True, kw_only=True)
class Wanted:
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


def settings(wanted: Wanted, cls: type[T]) -> T:
    """`data.args` as the benchmark's own frozen dataclass. Raises ConfigError at the key."""
    return decode(cls, wanted.args, where="data.args")


def unused(wanted: Wanted, name: str, *keys: str) -> None:
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
    make: Callable[[Wanted], Benchmark]

    @property
    def page(self) -> str:
        """The benchmark's page: its function's docstring."""
        return (self.make.__doc__ or "").strip()


_BENCHMARKS: dict[str, BenchmarkSpec] = {}
F = TypeVar("F", bound=Callable[[Wanted], Benchmark])


def benchmark(name: str, *, about: str) -> Callable[[F], F]:
    """Register `make(wanted) -> Benchmark` under the name users type."""

    def register(make: F) -> F:
        if name in _BENCHMARKS and _BENCHMARKS[name].make.__qualname__ != make.__qualname__:
            raise ConfigError(f"benchmark {name}: registered twice, by {_BENCHMARKS[name].make} and {make}")
        _BENCHMARKS[name] = BenchmarkSpec(name, about, make)
        return make

    return register


def benchmarks() -> Mapping[str, BenchmarkSpec]:
    """All benchmarks by name."""
    return dict(sorted(_BENCHMARKS.items()))


def find_benchmark(name: str) -> BenchmarkSpec:
    """The benchmark of a name. Raises ConfigError with the nearest right name."""
    if name not in _BENCHMARKS:
        raise ConfigError(f"benchmark: no benchmark named {name!r}{nearest(name, _BENCHMARKS)}")
    return _BENCHMARKS[name]
