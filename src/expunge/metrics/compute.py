"""Find the records that metrics read, and compute metrics from records, parents first."""

from __future__ import annotations

import graphlib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from expunge.core.errors import ConfigError, nearest
from expunge.core.records import Absent, Records
from expunge.metrics.api import Metric, MetricInputs, MetricResult, find_family, missing

Names = Mapping[str, tuple[str, ...]]  # rows -> arguments of a kind
RecordsByKind = Mapping[str, Mapping[str, Records | Absent]]  # kind -> rows -> records, or the reason for none


class RecordRequests(Mapping[str, Names]):
    """The records that a list of metrics reads: kind -> rows -> names, sorted. A kind that none reads has no rows.

    A token name is a variant ("answer") or a stem ("perturbed" for all of perturbed_0, perturbed_1, ...). Generations
    do not depend on the answer that they are compared with, so each set's prompts are continued once.
    """

    def __init__(self, by_kind: Mapping[str, Names]) -> None:
        self._by_kind = dict(by_kind)

    def __getitem__(self, kind: str) -> Names:
        return self._by_kind.get(kind, {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_kind)

    def __len__(self) -> int:
        return len(self._by_kind)

    @property
    def tokens(self) -> Names:
        """Return the answers that are read teacher-forced, by rows."""
        return self["tokens"]

    @property
    def texts(self) -> Names:
        """Return the answers that greedy generations are compared with, by rows."""
        return self["texts"]

    @property
    def rows(self) -> set[str]:
        """Return the names of all sets that are read."""
        return {rows for names in self._by_kind.values() for rows in names}


def requests(metrics: Iterable[Metric]) -> RecordRequests:
    """Return the union of the records that the metrics read, each set and name once, sorted."""
    by_kind: dict[str, dict[str, set[str]]] = {}
    for metric in in_order(metrics):
        for kind, names in metric.reads.items():
            if metric.rows is not None:
                by_kind.setdefault(kind, {}).setdefault(metric.rows, set()).update(names)
    return RecordRequests(
        {kind: {r: tuple(sorted(names)) for r, names in sorted(of.items())} for kind, of in sorted(by_kind.items())}
    )


def compute(
    metrics: Iterable[Metric],
    records: RecordsByKind,
    retain: Mapping[str, MetricResult] | None = None,
    *,
    subsets: Mapping[str, Collection[int]] | None = None,
    shadows: Sequence[Mapping[str, MetricResult]] = (),
) -> dict[str, MetricResult]:
    """Compute every metric, parents before the metrics that read them; the results have the order of the metrics.

    Args:
        metrics: The metrics.
        records: Record kind -> set name -> records, or an Absent with the reason for none.
        retain: The results of the retain model by metric name.
        subsets: Metric -> the examples that its `where` selects.
        shadows: The results of the retain models that are not measured, by metric name.

    Returns:
        The results by metric name. Records that do not exist give a missing result with its reason.

    Raises:
        ConfigError: If the list of metrics is wrong (unknown family, argument or parent, a cycle, a repeated name).
    """
    listed = list(metrics)
    references = shadows or ((retain,) if retain else ())
    sets = {metric.name: metric.rows or metric.name for metric in listed}
    done: dict[str, MetricResult] = {}
    for metric in in_order(listed):
        inputs = _inputs(metric, records, (subsets or {}).get(metric.name))
        if isinstance(inputs, MetricResult):
            done[metric.name] = inputs
            continue
        by_role = {role: [of[name] for of in references if name in of] for role, name in metric.parents.items()}
        inputs = replace(
            inputs,
            parents={role: done[name] for role, name in metric.parents.items()},
            parent_sets={role: sets[name] for role, name in metric.parents.items()},
            retain=(retain or {}).get(metric.retain) if metric.retain is not None else None,
            shadows=by_role if metric.shadows else {},
        )
        result = find_family(metric.family).compute(inputs, **metric.args)
        if not isinstance(result, MetricResult):
            raise ConfigError(
                f"metric {metric.name}: family {metric.family} returned {type(result).__name__}, no MetricResult; "
                'return mean_over_rows(...) or missing("reason")'
            )
        done[metric.name] = result
    return {metric.name: done[metric.name] for metric in listed}


def with_parents(metrics: Iterable[Metric], names: Collection[str]) -> list[Metric]:
    """Return the named metrics of a list and all metrics that they read, in order."""
    needed = set(names)
    out = []
    for metric in reversed(in_order(metrics)):
        if metric.name in needed:
            needed |= set(metric.parents.values())
            out.append(metric)
    return out[::-1]


def in_order(metrics: Iterable[Metric]) -> list[Metric]:
    """Return the metrics, checked, each after its parents. Raises ConfigError."""
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
    """Return the identity for a fingerprint: each metric's definition and its family's revision, sorted by name."""
    listed = sorted(in_order(metrics), key=lambda m: m.name)
    return [asdict(m) | {"revision": find_family(m.family).revision} for m in listed]


def _check(metric: Metric) -> None:
    """Raise ConfigError for an unknown family, or an unknown, wrong or missing argument."""
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
    if metric.rows is None and (metric.reads or metric.where):
        raise ConfigError(f"metric {metric.name}: reads records, so `rows` must name a set of rows")
    for kind, arguments in metric.reads.items():
        if not arguments:
            raise ConfigError(f"metric {metric.name}: reads.{kind}: missing; name an answer, such as 'answer'")


def _check_value(where: str, hint: Any, value: Any) -> None:
    """Raise ConfigError unless an argument's value has the type of the family's signature."""
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        words = [word for word in get_args(hint) if isinstance(word, str)]
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Input ")
        problem = f"no such choice{nearest(str(value), words)}" if words else message
        raise ConfigError(f"{where}: {value!r}: {problem}") from None


def _inputs(metric: Metric, records: RecordsByKind, subset: Collection[int] | None) -> MetricInputs | MetricResult:
    """Return the records that a metric reads, cut to its examples, or the missing result with the reason."""
    if metric.where and not subset:
        return missing(f"no row of {metric.rows!r} is one of {dict(metric.where)!r}")
    inputs: dict[str, Records] = {}
    for kind, names in metric.reads.items():
        of = records.get(kind, {}).get(metric.rows or "")
        if isinstance(of, Absent):
            return missing(of.reason)
        if of is None:
            return missing(f"no {kind} records of the rows {metric.rows!r} were made")
        cut = of.of_rows(subset) if metric.where and subset is not None else of
        lacking = cut.lacking(names)
        if lacking:
            return missing(f"no {lacking} of the rows {metric.rows!r} were scored")
        inputs[kind] = cut
    return MetricInputs(metric, inputs)
