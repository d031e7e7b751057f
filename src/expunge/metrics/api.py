"""What a metric is: a pure function over stored records. It never sees a model, a path or a configuration.

A *family* (probability, rouge, truth_ratio, ...) is a function in a file of this folder. A *metric* is a named use of
a family on a set of rows (`forget_Q_A_Prob` = probability of the variant "answer" of the rows "forget"); benchmarks
list their metrics. Metrics read records, or the results of other metrics (`parents`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expunge.core.records import ExampleNumbers, GeneratedText, TokenRecords
from expunge.core.registry import Registry

Score = float | list[float]


@dataclass(frozen=True)
class MetricResult:
    """One metric of one model.

    value: the aggregate; NaN where it could not be computed, and then `reason` says why. per_row: row_id -> named
    statistics (numbers, or lists for rows with several answers), in row order. extra: further aggregates that belong
    to the same metric (the KS distance beside the p-value).
    """

    value: float
    reason: str | None = None
    per_row: Mapping[int, Mapping[str, Score]] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)

    def column(self, statistic: str) -> list[float]:
        """One statistic over all rows, in row order."""
        return [float(stats[statistic]) for stats in self.per_row.values()]  # type: ignore[arg-type]


def missing(reason: str) -> MetricResult:
    """The result of a metric that cannot be computed."""
    return MetricResult(value=math.nan, reason=reason)


@dataclass(frozen=True)
class Metric:
    """A named use of a family.

    rows: the set of rows it reads; where: only those whose meta says so, such as {"kind": "book"} (a list is any of
    these, and a key that begins with "!" leaves out those that match). Which kinds of records it reads of them:
        tokens      the answers teacher-forced, in the order the family says: a variant, or a stem ("perturbed") for all
                    of perturbed_0, perturbed_1, ...
        texts       generations, held against this answer; with `sampled` several samples at a temperature in place of
                    the one; with `similar` each beside its similarity to the answer by an embedding model
        grads       norms of the loss gradient of this answer
        agreement   the model against the original one, at the tokens of this answer
    Scoring computes the union of these over all metrics, once.

    parents: role -> metric name, computed first. retain: name of the metric whose result on the retain model it reads.
    shadows: it reads the parents' results on all retain models that there are.
    """

    name: str
    family: str
    rows: str | None = None
    tokens: tuple[str, ...] = ()
    texts: str | None = None  # None, or the variant that serves as the true answer of the generations
    args: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    retain: str | None = None
    sampled: bool = False
    similar: bool = False
    grads: str | None = None
    agreement: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    shadows: bool = False

    @property
    def reads_records(self) -> bool:
        """Whether it reads records of rows, and not other metrics alone."""
        return bool(self.tokens or self.texts is not None or self.grads or self.agreement)


@dataclass(frozen=True)
class MetricInputs:
    """What a family's function is given: only what its metric declared.

    shadows: parent role -> that parent's results on the retain models, of all training seeds where a study has several
    (never on the model that is measured).
    """

    metric: Metric
    tokens: TokenRecords | None
    texts: list[GeneratedText] | None
    parents: Mapping[str, MetricResult]
    retain: MetricResult | None
    grads: ExampleNumbers | None = None
    agreement: ExampleNumbers | None = None
    shadows: Mapping[str, Sequence[MetricResult]] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricFamily:
    """A registered family."""

    name: str
    revision: int
    higher_is: str  # "more knowledge", "better forgetting", ...: what a larger value says
    range: str
    paper: str
    compute: Callable[..., MetricResult]

    @property
    def page(self) -> str:
        """The family's page: its function's docstring."""
        return (self.compute.__doc__ or "").strip()


_FAMILIES: Registry[MetricFamily] = Registry("metric family", lambda entry: entry.compute)


def family(
    name: str, *, revision: int, higher_is: str, range: str, paper: str
) -> Callable[[Callable[..., MetricResult]], Callable[..., MetricResult]]:
    """Register `compute(inputs: Inputs, **args) -> Result` under a family name."""

    def register(compute: Callable[..., MetricResult]) -> Callable[..., MetricResult]:
        _FAMILIES.add(MetricFamily(name, revision, higher_is, range, paper, compute))
        return compute

    return register


def families() -> Mapping[str, MetricFamily]:
    """All families by name."""
    return _FAMILIES.all()


def find_family(name: str) -> MetricFamily:
    """The family of a name. Raises ConfigError with the nearest right name."""
    return _FAMILIES.find(name)
