"""Collect stored rows, outputs and provenance of a study for the report's explorer."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from expunge.benchmarks import Benchmark
from expunge.core.fingerprints import canonical
from expunge.engine.run import RunOutcome
from expunge.metrics.api import Score
from expunge.pipelines.study.graph import StudyGraph
from expunge.report.model import Explorer, ReportEntry, ReportProvenance, ReportRun, RowScore

# family -> the name of its score, the statistic with the score, and the end of the range that means "still known"
SCORES: Mapping[str, tuple[RowScore, str]] = {
    "probability": (RowScore("probability"), "prob"),
    "rouge": (RowScore("ROUGE"), "rougeL_recall"),
    "truth_ratio": (RowScore("truth ratio", known="low"), "score"),
    "extraction_strength": (RowScore("extraction strength"), "score"),
}
Outputs = Mapping[str, Mapping[int, str]]  # set of rows -> row -> text


def explorer(
    benchmark: Benchmark,
    models: Sequence[tuple[ReportRun, Outputs]],
    probes: Sequence[tuple[ReportRun, Mapping[str, Sequence[Any]]]] = (),
) -> Explorer:
    """Return every row with a score or an output of some model, the forget rows first.

    If several metrics of one family read the same set, the first of the benchmark's suite counts: that of the true
    answer. probes: tables of generated questions by the audited run, with the columns kind, question, answer, model,
    retain and full; they come last.
    """
    tables = [_scores(benchmark, run) for run, _ in models]
    kinds = [family for family in SCORES if any(key[1] == family for table in tables for key in table)]
    names = [name for name in benchmark.sets if any(name == key[0] for table in tables for key in table)]
    names += [name for name in benchmark.sets if name not in names and any(name in outputs for _, outputs in models)]
    names.sort(key=lambda name: name != benchmark.shown_set)
    entries = []
    for name in names:
        for row in benchmark.sets[name].rows:
            outputs = tuple(texts.get(name, {}).get(row.row_id) for _, texts in models)
            scores = tuple(
                tuple(table.get((name, family), {}).get(row.row_id, math.nan) for family in kinds) for table in tables
            )
            entries.append(ReportEntry(name, row.row_id, row.question, row.answers.get("answer", ""), outputs, scores))
    entries += _probe_entries([run for run, _ in models], kinds, probes)
    roles = [run.role for run, _ in models]
    full, retain = (roles.index(role) if role in roles else None for role in ("full", "retain"))
    scores_shown = tuple(SCORES[family][0] for family in kinds)
    return Explorer(_names([run for run, _ in models]), scores_shown, tuple(entries), full, retain)


def _probe_entries(
    runs: Sequence[ReportRun], kinds: Sequence[str], probes: Sequence[tuple[ReportRun, Mapping[str, Sequence[Any]]]]
) -> list[ReportEntry]:
    """Return an entry for each generated question, with its probability in every model that has one."""
    if "probability" not in kinds:
        return []
    scores: dict[tuple[str, str, str], list[float]] = {}
    for run, table in probes:
        # of controls with several seeds the first one's column is shown
        own: dict[str, ReportRun] = {"model": run}
        own |= {str(r.role): r for r in reversed(runs) if r.role != "unlearn"}
        for i, key in enumerate(zip(table["kind"], table["question"], table["answer"], strict=True)):
            row = scores.setdefault(key, [math.nan] * len(runs))
            for role, one in own.items():
                if role in table and math.isnan(row[place := runs.index(one)]):
                    row[place] = _number(table[role][i])
    out = []
    for i, ((kind, question, answer), row) in enumerate(scores.items()):
        cells = tuple(tuple(v if name == "probability" else math.nan for name in kinds) for v in row)
        out.append(ReportEntry(f"probe: {kind}", i, question, answer, (None,) * len(runs), cells))
    return out


def _names(runs: Sequence[ReportRun]) -> tuple[str, ...]:
    several = {run.label for run in runs if sum(other.label == run.label for other in runs) > 1}
    return tuple(f"{run.label}, seed {run.seed}" if run.label in several else run.label for run in runs)


def _scores(benchmark: Benchmark, run: ReportRun) -> dict[tuple[str, str], dict[int, float]]:
    """Return one model's scores: (set, family) -> row -> score."""
    scores: dict[tuple[str, str], dict[int, float]] = {}
    for metric in benchmark.panel:
        if metric.family not in SCORES or metric.name not in run.results:
            continue
        rows = metric.rows or _rows_of_parents(benchmark, list(metric.parents.values()))
        if rows is None or (rows, metric.family) in scores:
            continue
        statistic = SCORES[metric.family][1]
        values = {k: _number(stats.get(statistic)) for k, stats in run.results[metric.name].per_row.items()}
        if values:
            scores[rows, metric.family] = values
    return scores


def _rows_of_parents(benchmark: Benchmark, parents: Collection[str]) -> str | None:
    """Return the one set that a metric's parents read, or None."""
    sets = {metric.rows for metric in benchmark.panel if metric.name in parents}
    return sets.pop() if len(sets) == 1 else None


def _number(value: Score | None) -> float:
    """Return a row's score; the mean if it has several answers."""
    if isinstance(value, list):
        return math.fsum(value) / len(value) if value else math.nan
    return math.nan if value is None else float(value)


def making(graph: StudyGraph, outcome: RunOutcome, command: str) -> ReportProvenance:
    """Return settings, versions, machines and seeds, from the study and the records of its jobs."""
    records = list(outcome.records.values())
    seeds = graph.study.seeds
    return ReportProvenance(
        config=yaml.safe_dump(canonical(graph.study), sort_keys=False, allow_unicode=True),
        versions=_distinct([record.get("versions", {}) for record in records]),
        machines=_distinct([record.get("machine", {}) for record in records]),
        seeds=f"training {list(seeds.train)}, unlearning {list(seeds.unlearn)}",
        commands=(command,) if command else (f"expunge run study={shlex.quote(graph.study.name)}",),
    )


def _distinct(groups: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(", ".join(f"{k} {v}" for k, v in group.items()) for group in groups if group))
