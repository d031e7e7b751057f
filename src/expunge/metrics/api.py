"""A metric is a pure function over stored records. It never sees a model, a path or a configuration.

A *family* (probability, rouge, truth_ratio, ...) is a function in a file of this folder. A *metric* is a named use of
a family on a set of rows (`forget_Q_A_Prob` = probability of the variant "answer" of the rows "forget"); benchmarks
list their metrics. Metrics read records, or the results of other metrics (`parents`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.errors import ConfigError, kind_of
from expunge.core.records import AnswerNumbers, ExampleNumbers, GeneratedText, GeneratedTexts, TokenRecords
from expunge.core.registry import Fidelity, Registry

FIRST_ROWS = "first_rows"  # in `extra`: the results cover only so many rows of the split, the first ones

Score = float | list[float]


@dataclass(frozen=True)
class Parts:
    """The parts of a metric that is a mean of other metrics, so that its rows can be resampled.

    examples: name of a part -> its set of examples; parts of one set share their rows. mean: of the parts' values, or
    `pooled`, over the rows of all parts. complement: 1 - x in place of each part x.
    """

    examples: Mapping[str, str]
    mean: Literal["harmonic", "arithmetic", "pooled"] = "harmonic"
    complement: bool = False


@dataclass(frozen=True)
class MetricResult:
    """One metric of one model.

    value: the aggregate; NaN if it could not be computed, and then `reason` gives the cause. per_row: row_id -> named
    statistics (numbers, or lists for rows with several answers), in row order. extra: further aggregates that belong
    to the same metric (the KS distance next to the p-value). parts: of a mean of other metrics, which have the rows.
    """

    value: float
    reason: str | None = None
    per_row: Mapping[int, Mapping[str, Score]] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    parts: Parts | None = None

    @functools.cached_property
    def by_row(self) -> dict[str, dict[int, float]]:
        """Each statistic by row, NaN without one; of a row with several answers their mean, skipping NaN."""
        names = dict.fromkeys(name for row in self.per_row.values() for name in row)
        out: dict[str, dict[int, float]] = {name: {} for name in names}
        for row, statistics in self.per_row.items():
            for name in names:
                value = statistics.get(name, math.nan)
                out[name][row] = mean_score(value) if isinstance(value, list) else value
        return out

    @functools.cached_property
    def averaged(self) -> tuple[str, ...]:
        """The statistics whose mean over rows is the value, in order."""
        out = []
        for name, rows in self.by_row.items():
            numbers = [v for v in rows.values() if v == v]  # not NaN
            if numbers and math.isclose(sum(numbers) / len(numbers), self.value, rel_tol=1e-9, abs_tol=1e-12):
                out.append(name)
        return tuple(out)

    def column(self, statistic: str) -> list[float]:
        """Return one statistic over all rows, in row order."""
        return [float(stats[statistic]) for stats in self.per_row.values()]  # type: ignore[arg-type]


def shared_statistic(results: Iterable[MetricResult]) -> str | None:
    """Return the first statistic whose mean over rows is the value in all results; None without one."""
    first, *others = results
    return next((name for name in first.averaged if all(name in other.averaged for other in others)), None)


def mean_score(answers: Sequence[float]) -> float:
    """Return the mean of the scores of a row's answers, skipping NaN; NaN if none is left."""
    there = [v for v in answers if not math.isnan(v)]
    return sum(there) / len(there) if there else math.nan


def missing(reason: str) -> MetricResult:
    """Return the result of a metric that cannot be computed."""
    return MetricResult(value=math.nan, reason=reason)


@dataclass(frozen=True)
class Metric:
    """A named use of a family on a set of examples.

    rows: the set it reads; where: only the examples whose meta matches, such as {"kind": "book"} (a list means any of
    these; a key that begins with "!" leaves out the examples that match).

    reads: record kind -> the arguments of that kind, such as {"tokens": ("answer", "perturbed")}. `expunge.evaluation`
    registers the kinds. The built-in ones, with their arguments:
        tokens              answers read teacher-forced: variants, or a stem ("perturbed" for perturbed_0, ...)
        texts, samples      greedy generations, and several samples at a temperature: the answer to compare them with
        texts_similarity,   similarity of the generations to that answer, by an embedding model
        samples_similarity
        grads               norms of the loss gradient of an answer
        agreement           the model against the original one, at the tokens of an answer
    An evaluation computes the union of these over all metrics, once.

    parents: role -> metric name, computed first. retain: name of the metric whose result on the retain model it reads.
    shadows: it reads the parents' results on all retain models that exist.
    """

    name: str
    family: str
    rows: str | None = None
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    args: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    retain: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    shadows: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", normal_reads(self.reads))

    @property
    def tokens(self) -> tuple[str, ...]:
        """Return the answers that it reads teacher-forced."""
        return self.reads.get("tokens", ())


def normal_reads(reads: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return `reads` with a tuple of names for each kind. One name may be written as a text. Raises ConfigError."""
    if not isinstance(reads, Mapping):
        raise ConfigError(f"reads: expected a mapping of record kinds to names, got {kind_of(reads)}")
    return {kind: (names,) if isinstance(names, str) else tuple(names) for kind, names in reads.items()}


@dataclass(frozen=True)
class MetricInputs:
    """The inputs of a family's function: only the records and results that its metric declares.

    records: record kind -> the records of the metric's examples. parents: role -> result. retain: the result on the
    retain model. shadows: parent role -> that parent's results on the retain models of all training seeds, never on the
    model that is measured. parent_sets: role -> the parent's set of examples.
    """

    metric: Metric
    records: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, MetricResult] = field(default_factory=dict)
    retain: MetricResult | None = None
    shadows: Mapping[str, Sequence[MetricResult]] = field(default_factory=dict)
    parent_sets: Mapping[str, str] = field(default_factory=dict)

    @property
    def tokens(self) -> TokenRecords | None:
        """Return the token records, if the metric reads any; `tokens["answer"]` has those of one answer."""
        return self.records.get("tokens")

    @property
    def texts(self) -> list[GeneratedText] | None:
        """Return the generations (greedy or sampled) with their references and similarities, if it reads any."""
        kind = next((k for k in ("texts", "samples") if k in self.records), None)
        if kind is None:
            return None
        texts: GeneratedTexts = self.records[kind]
        return texts.against(self.metric.reads[kind][0], self.records.get(f"{kind}_similarity"))

    def numbers(self, kind: str) -> ExampleNumbers:
        """Return the numbers by example of the first answer that the metric reads of a kind (see `answer_numbers`).

        Raises ConfigError if the metric does not read this kind.
        """
        if kind not in self.records:
            name, family = self.metric.name, self.metric.family
            raise ConfigError(f"metric {name}: family {family} reads {kind} records; set reads={{{kind!r}: ANSWER}}")
        records: AnswerNumbers = self.records[kind]
        return records[self.metric.reads[kind][0]]


@dataclass(frozen=True)
class MetricFamily:
    """A registered family."""

    name: str
    revision: int
    higher_is: str  # "more knowledge", "better forgetting", ...: the meaning of a larger value
    range: str
    paper: str
    compute: Callable[..., MetricResult]
    reads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # so that `eval.metrics=[name]` can add it
    fidelity: Fidelity = ""  # how the formula was checked

    @property
    def page(self) -> str:
        """The family's page: its function's docstring."""
        return (self.compute.__doc__ or "").strip()


_FAMILIES: Registry[MetricFamily] = Registry(
    "metric family", lambda entry: entry.compute, folder="metrics", decorator="family"
)


def family(
    name: str,
    *,
    revision: int = 1,
    higher_is: str = "",
    range: str = "",
    paper: str = "",
    reads: Mapping[str, str | Sequence[str]] | None = None,
    fidelity: Fidelity = "",
) -> Callable[[Callable[..., MetricResult]], Callable[..., MetricResult]]:
    """Register `compute(inputs: MetricInputs, **args) -> MetricResult` under a family name.

    Args:
        name: The name of the family.
        revision: Raise it when the same records give other numbers.
        higher_is: The meaning of a larger value.
        range: The range of values.
        paper: The source.
        reads: The records that the family reads by default, as in Metric. With it, `eval.metrics=[name]` adds the
            metric to any benchmark.
        fidelity: How the formula was checked (`core.registry`).
    """

    def register(compute: Callable[..., MetricResult]) -> Callable[..., MetricResult]:
        _FAMILIES.add(
            MetricFamily(name, revision, higher_is, range, paper, compute, normal_reads(reads or {}), fidelity)
        )
        return compute

    return register


def families() -> Mapping[str, MetricFamily]:
    """Return all families by name."""
    return _FAMILIES


def find_family(name: str) -> MetricFamily:
    """Return the family of a name. Raises ConfigError with the nearest right name."""
    return _FAMILIES.find(name)
