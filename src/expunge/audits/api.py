"""What an audit is: the jobs it asks for, on a model and on its two controls, and the reading of what they found.

An audit never trains and never sees a model. `expand` says what is to be done (`AuditProbe`s: a change of the model,
and metrics of what comes of it); the study makes jobs of that. `read` holds the results of the unlearned model against
those of the retain and the full model, which went through the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from expunge.audits.verdict import ControlPosition, verdict
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.records import Floats
from expunge.core.registry import Registry
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Encoder
from expunge.methods.weight_edits import WeightEdit
from expunge.metrics.aggregate import bootstrap_interval
from expunge.metrics.api import Metric, MetricResult

STATISTIC = {
    "probability": "prob",
    "answer_loss": "avg_loss",
    "rouge": "rougeL_recall",
}  # the number of a row, by family; of all others it is `score`


AS_IT_IS = "as_it_is"  # the probe of an unchanged model


@dataclass(frozen=True)
class RelearnSpec:
    """Train on some rows, and measure after each of the steps (0: before the first)."""

    rows: str
    steps: tuple[int, ...]
    learning_rate: float | None
    batch_size: int
    seed: int


@dataclass(frozen=True)
class Nf4Spec:
    """Hold the linear layers in 4-bit NormalFloat, by bitsandbytes."""


Models = Callable[[str], Any]  # loads "model", the one that is looked at, or the control of a name, in eval mode


class Analysis:
    """Something that is read off the model itself: a frozen dataclass of what decides the numbers.

    sets: the rows it reads, by name. beside: the controls whose models it needs at hand, "full" or "retain".
    """

    revision: ClassVar[int] = 1
    beside: ClassVar[tuple[str, ...]] = ()
    sets: tuple[str, ...]

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Results by name; a number per row is its `score`. A model is loaded each time it is asked for."""
        raise NotImplementedError


Change = RelearnSpec | Nf4Spec | Analysis | WeightEdit | None  # an Edit makes other weights of the model's


@dataclass(frozen=True)
class AuditProbe:
    """One change of a model (None: as it is) and the metrics that are read off what it gives.

    The results of a Relearn are found under `name@step`, of all others under `name`; a Look has no panel, its results
    bear the names it gives them.
    """

    name: str
    change: Change
    panel: tuple[Metric, ...]


@dataclass(frozen=True)
class AuditPlan:
    """What an audit asks for: rows by the names its metrics use, probes, and what cannot be asked (name -> reason)."""

    sets: Mapping[str, ExampleSet]
    probes: tuple[AuditProbe, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AuditInputs:
    """What a study has for audits. forget: the rows that were to be forgotten; holdout: rows no model has seen.

    Both bear the names of the benchmark's own sets, so that what has been scored of them is not scored again.
    opens: what a template writes before a question and between it and its answer. samples: of `eval.sampling`.
    """

    forget: ExampleSet
    retain: ExampleSet | None
    holdout: ExampleSet | None
    opens: tuple[str, str] = ("", " ")
    samples: int = 1


Results = Mapping[str, Mapping[str, MetricResult]]  # probe -> metric -> result


@dataclass(frozen=True)
class AuditOutputs:
    """The results of a model, and of its controls where there are such."""

    model: Results
    retain: Results | None
    full: Results | None

    @property
    def lacking(self) -> str | None:
        """Why there is nothing to hold the model against, if so."""
        if self.retain is None:
            return "there is no retain model to hold it against"
        return "there is no full model to hold it against" if self.full is None else None

    def columns(self, probe: str, metric: Metric) -> tuple[Floats, Floats, Floats]:
        """One number per row of the model, the retain and the full model, aligned; NaN where a row has none."""
        sides = [of[probe][metric.name] for of in (self.model, self.retain, self.full) if of is not None]
        ids = sorted(set().union(*(r.per_row for r in sides)))
        model, retain, full = (rows_of(result, metric, ids) for result in sides)
        return model, retain, full


def rows_of(result: MetricResult, metric: Metric, ids: Sequence[int]) -> Floats:
    """A metric's number of each of some rows, shape (R,); NaN where a row has none."""
    name = STATISTIC.get(metric.family, "score")
    values = [result.per_row.get(i, {}).get(name, math.nan) for i in ids]
    return np.array([math.nan if isinstance(v, list) else v for v in values], dtype=float)


@dataclass(frozen=True)
class Finding:
    """One finding on one model.

    value: what was measured, with its 95 % interval over rows; retain, full: the same of the controls. position: 0 is
    the retain model, 1 the full one. NaN where there is none, and then `note` says why. details: further numbers.
    """

    name: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    retain: float = math.nan
    full: float = math.nan
    position: float = math.nan
    position_low: float = math.nan
    position_high: float = math.nan
    verdict: str = "missing"
    note: str = ""
    details: Mapping[str, float] = field(default_factory=dict)


def held_against(
    name: str,
    sides: tuple[Floats, Floats, Floats],
    where: ControlPosition,
    *,
    margin: float,
    known: float,
    note: str = "",
    details: Mapping[str, float] | None = None,
) -> Finding:
    """The reading of a number per row of the model, the retain and the full model, and the position between them."""
    means = []
    for column in sides:
        kept = column[~np.isnan(column)]
        means.append(float(kept.mean()) if len(kept) else math.nan)
    kept = sides[0][~np.isnan(sides[0])]
    low, high = bootstrap_interval(kept) if len(kept) > 1 else (math.nan, math.nan)
    said, more = verdict(where, margin=margin, known=known)
    return Finding(
        name, means[0], low, high, means[1], means[2], where.value, where.low, where.high, said,
        "; ".join(part for part in (more, note) if part), details or {},
    )  # fmt: skip


@dataclass(frozen=True)
class AuditFindings:
    """What an audit says of a model: its readings, and a table of rows (columns of equal length), if it has one."""

    readings: tuple[Finding, ...]
    rows: Mapping[str, Sequence[Any]] = field(default_factory=dict)


class Audit(Protocol):
    """A frozen dataclass of settings."""

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """The jobs, from the rows alone. Raises ConfigError."""
        ...

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """What the results say of the model."""
        ...


@dataclass(frozen=True)
class AuditSpec:
    """A registered audit."""

    name: str
    revision: int
    cls: type[Any]
    paper: str

    @property
    def page(self) -> str:
        """The audit's page: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[AuditSpec] = Registry("audit", lambda spec: spec.cls)
C = TypeVar("C", bound=type[Any])


def audit(name: str, *, revision: int, paper: str) -> Callable[[C], C]:
    """Register a frozen dataclass as an audit under the name users type."""

    def register(cls: C) -> C:
        _REGISTRY.add(AuditSpec(name, revision, cls, paper))
        return cls

    return register


def audit_registry() -> Mapping[str, AuditSpec]:
    """All audits by name."""
    return _REGISTRY.all()


def make_audit(entry: str | Mapping[str, Any], where: str = "audits") -> Audit:
    """An audit from its name, or from a mapping with `name` and its settings. Raises ConfigError at the key."""
    given = {"name": entry} if isinstance(entry, str) else dict(entry)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where}.name: missing; an audit is a name, or a group of keys with one")
    made: Audit = decode(_REGISTRY.find(name, f"{where}.name").cls, given, where=where)
    return made


def audit_name(made: Audit) -> str:
    """The name users type."""
    return _REGISTRY.of(made).name


def audit_identity(made: Audit) -> dict[str, Any]:
    """What a fingerprint covers of an audit: name, revision and every setting."""
    spec = _REGISTRY.of(made)
    return {"name": spec.name, "revision": spec.revision, "args": dataclasses.asdict(made)}  # type: ignore[call-overload]


def chosen(rows: ExampleSet, n: int, seed: int, name: str, among: Sequence[int] | None = None) -> ExampleSet:
    """At most n rows of a set, drawn by the seed, in their order, as a set of their own."""
    ids = np.arange(len(rows)) if among is None else np.array(among, dtype=np.int64)
    drawn = np.random.default_rng(seed).permutation(ids)[:n]
    return some(rows, sorted(drawn.tolist()), name)


def some(rows: ExampleSet, ids: Sequence[int], name: str) -> ExampleSet:
    """The rows of these numbers as a set of their own, numbered from 0."""
    made = tuple(dataclasses.replace(rows[i], row_id=k) for k, i in enumerate(ids))
    return dataclasses.replace(rows, name=name, rows=made)


def keys_of(rows: Sequence[Example]) -> set[str]:
    """The entities that some rows are about."""
    return {key for row in rows for key in row.meta.get("keys", ())}


def check_judging(margin: float, known: float) -> None:
    """Raise ValueError unless 0 <= margin < known."""
    if not 0 <= margin < 1:
        raise ValueError("margin must be at least 0 and below 1")
    if not margin < known <= 1:
        raise ValueError("known must be above margin and at most 1")
