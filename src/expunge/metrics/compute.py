"""From a list of metrics to what must be scored, and from records to results, parents first."""

from __future__ import annotations

import graphlib
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from expunge.core.errors import ConfigError, nearest
from expunge.core.records import ExampleNumbers, GeneratedText, TokenRecords
from expunge.metrics.aggregate import resolve
from expunge.metrics.api import Metric, MetricInputs, MetricResult, find_family, missing

Names = Mapping[str, tuple[str, ...]]
Texts = Mapping[tuple[str, str], list[GeneratedText]]


@dataclass(frozen=True)
class RecordRequests:
    """What a list of metrics reads: rows -> token names, and rows -> names of the answers generations are held against.

    A token name is a variant ("answer") or a stem ("perturbed" for all of perturbed_0, perturbed_1, ...). Generations
    do not depend on the answer they are held against: each rows' prompts are generated from once. samples, grads and
    agreement: the same for the other kinds of records. similar_texts and similar_samples: rows -> answers whose
    similarity to the generations is read.
    """

    tokens: Names
    texts: Names
    samples: Names = field(default_factory=dict)
    grads: Names = field(default_factory=dict)
    agreement: Names = field(default_factory=dict)
    similar_texts: Names = field(default_factory=dict)
    similar_samples: Names = field(default_factory=dict)


@dataclass(frozen=True)
class OptionalRecords:
    """Records of the kinds that most lists of metrics do not read.

    samples: like `texts` of `compute`. grads, agreement: rows -> answer -> numbers by row. kept: metric -> the rows its
    `where` leaves. shadows: the results of the retain models that are not measured, by metric name.
    """

    samples: Texts = field(default_factory=dict)
    grads: Mapping[str, Mapping[str, ExampleNumbers]] = field(default_factory=dict)
    agreement: Mapping[str, Mapping[str, ExampleNumbers]] = field(default_factory=dict)
    kept: Mapping[str, Collection[int]] = field(default_factory=dict)
    shadows: Sequence[Mapping[str, MetricResult]] = ()


def requests(metrics: Iterable[Metric]) -> RecordRequests:
    """The union of what the metrics read, each rows and name once, sorted."""
    wanted: dict[str, dict[str, set[str]]] = {}

    def want(kind: str, rows: str, *names: str) -> None:
        wanted.setdefault(kind, {}).setdefault(rows, set()).update(names)

    for metric in in_order(metrics):
        if metric.rows is None:
            continue
        if metric.tokens:
            want("tokens", metric.rows, *metric.tokens)
        if metric.texts is not None:
            kind = "samples" if metric.sampled else "texts"
            want(kind, metric.rows, metric.texts)
            if metric.similar:
                want(f"similar_{kind}", metric.rows, metric.texts)
        if metric.grads is not None:
            want("grads", metric.rows, metric.grads)
        if metric.agreement is not None:
            want("agreement", metric.rows, metric.agreement)
    plain = {kind: {r: tuple(sorted(names)) for r, names in sorted(of.items())} for kind, of in wanted.items()}
    return RecordRequests(**({"tokens": {}, "texts": {}} | plain))


def compute(
    metrics: Iterable[Metric],
    tokens: Mapping[str, TokenRecords],
    texts: Texts,
    retain: Mapping[str, MetricResult] | None = None,
    extra: OptionalRecords | None = None,
) -> dict[str, MetricResult]:
    """Compute every metric, parents before those that read them; the results stand in the metrics' given order.

    tokens: rows -> records. texts: (rows, name of the answer held against) -> generations. retain: results of the
    retain model by metric name. What was not recorded gives a missing result with its reason; a list of metrics that
    cannot be right (unknown family, argument or parent, a cycle, a name twice) raises ConfigError.
    """
    listed = list(metrics)
    more = extra or OptionalRecords()
    references = more.shadows or ((retain,) if retain else ())
    done: dict[str, MetricResult] = {}
    for metric in in_order(listed):
        found = _records(metric, tokens, texts, more)
        if isinstance(found, MetricInputs):
            shadows = {role: [of[name] for of in references if name in of] for role, name in metric.parents.items()}
            found = replace(
                found,
                parents={role: done[name] for role, name in metric.parents.items()},
                retain=(retain or {}).get(metric.retain) if metric.retain is not None else None,
                shadows=shadows if metric.shadows else {},
            )
            found = find_family(metric.family).compute(found, **metric.args)
        done[metric.name] = found
    return {metric.name: done[metric.name] for metric in listed}


def with_parents(metrics: Iterable[Metric], names: Collection[str]) -> list[Metric]:
    """The named metrics of a list and all that they read, in order."""
    wanted = set(names)
    kept = []
    for metric in reversed(in_order(metrics)):
        if metric.name in wanted:
            wanted |= set(metric.parents.values())
            kept.append(metric)
    return kept[::-1]


def in_order(metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics, checked, each after its parents. Raises ConfigError."""
    by_name: dict[str, Metric] = {}
    for metric in metrics:
        if metric.name in by_name:
            raise ConfigError(f"metric {metric.name}: listed twice")
        _check(metric)
        by_name[metric.name] = metric
    graph: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for metric in by_name.values():
        for role, parent in metric.parents.items():
            if parent not in by_name:
                raise ConfigError(
                    f"metric {metric.name}: parents.{role}: no metric named {parent!r} in the list"
                    f"{nearest(parent, by_name)}"
                )
        graph.add(metric.name, *metric.parents.values())
    try:
        return [by_name[name] for name in graph.static_order()]
    except graphlib.CycleError as error:
        raise ConfigError(f"metrics: a cycle of parents: {' <- '.join(error.args[1])}") from None


def identity(metrics: Iterable[Metric]) -> list[dict[str, Any]]:
    """What a fingerprint covers: every metric's definition and the revision of its family, sorted by name."""
    listed = sorted(in_order(metrics), key=lambda m: m.name)
    return [asdict(m) | {"revision": find_family(m.family).revision} for m in listed]


def _check(metric: Metric) -> None:
    """Raise ConfigError for an unknown family, a foreign or wrong argument, or one it lacks."""
    function = find_family(metric.family).compute
    parameters = list(inspect.signature(function).parameters.values())[1:]
    hints = get_type_hints(function, include_extras=True)
    names = [p.name for p in parameters]
    for key, value in metric.args.items():
        if key not in names:
            raise ConfigError(
                f"metric {metric.name}: args.{key}: {metric.family} has no such argument{nearest(key, names)}"
            )
        _check_value(f"metric {metric.name}: args.{key}", hints.get(key, Any), value)
    for p in parameters:
        if p.default is p.empty and p.name not in metric.args:
            raise ConfigError(f"metric {metric.name}: args.{p.name}: missing, {metric.family} needs it")
    if metric.rows is None and (metric.reads_records or metric.where):
        raise ConfigError(f"metric {metric.name}: reads records, so `rows` must name a set of rows")
    if (metric.sampled or metric.similar) and metric.texts is None:
        raise ConfigError(f"metric {metric.name}: reads generations, so `texts` must name an answer")


def _check_value(where: str, hint: Any, value: Any) -> None:
    """Raise ConfigError unless an argument's value is what the family's signature says."""
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        words = [word for word in get_args(hint) if isinstance(word, str)]
        said = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
        problem = f"no such choice{nearest(str(value), words)}" if words else said
        raise ConfigError(f"{where}: {value!r}: {problem}") from None


def _records(
    metric: Metric, tokens: Mapping[str, TokenRecords], texts: Texts, extra: OptionalRecords
) -> MetricInputs | MetricResult:
    """The records a metric is given, cut to the rows it keeps, or why it cannot be computed."""
    empty = MetricInputs(metric, None, None, {}, None)
    if metric.rows is None:
        return empty
    records: TokenRecords | None = None
    generations: list[GeneratedText] | None = None
    kept = extra.kept.get(metric.name) if metric.where else None
    if metric.where and not kept:
        return missing(f"no row of {metric.rows!r} is one of {dict(metric.where)!r}")
    if metric.tokens:
        if metric.rows not in tokens:
            return missing(f"no answers of the rows {metric.rows!r} were scored")
        records = tokens[metric.rows] if kept is None else tokens[metric.rows].of_rows(kept)
        for name in metric.tokens:
            if not resolve(records, name):
                return missing(f"no {name!r} answers of the rows {metric.rows!r} were scored")
    if metric.texts is not None:
        generations = (extra.samples if metric.sampled else texts).get((metric.rows, metric.texts))
        if generations is None:
            several = "samples" if metric.sampled else "generations"
            return missing(f"no {several} for the rows {metric.rows!r} with the reference {metric.texts!r}")
        if kept is not None:
            generations = [t for t in generations if t.row_id in kept]
        if metric.similar and all(t.similarity is None for t in generations):
            return missing("no embedding model was named to measure similarity with (eval.embedder)")
    numbers: list[ExampleNumbers | None] = []
    for answer, of, lacks in (
        (metric.grads, extra.grads, f"no gradients of the rows {metric.rows!r} were scored"),
        (metric.agreement, extra.agreement, "no original model was given to compare with"),
    ):
        found = None if answer is None else of.get(metric.rows, {}).get(answer)
        if answer is not None and found is None:
            return missing(lacks)
        numbers.append(found if kept is None or found is None else found.of_rows(kept))
    return replace(empty, tokens=records, texts=generations, grads=numbers[0], agreement=numbers[1])
