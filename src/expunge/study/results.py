"""From a finished graph to its report: what was stored, gathered; nothing is computed again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow.parquet as pq

from expunge.core.records import text_records
from expunge.metrics.results import read_results
from expunge.report.model import Missing, ReportModel, Run, Sample
from expunge.study.graph import Graph, Leaf
from expunge.study.job import in_order
from expunge.study.run import Outcome
from expunge.study.store import Store

N_SAMPLES = 6


def report_model(graph: Graph, outcome: Outcome, store: Store, command: str) -> ReportModel:
    """The report's model: a run per measured model, a line per job that is missing, and sample generations."""
    runs: list[Run] = []
    lost: list[Missing] = []
    texts: dict[str, Mapping[int, str]] = {}
    for leaf in graph.leaves:
        if leaf.metrics.key in outcome.failures:
            failed = next(j for j in (leaf.model, leaf.records, leaf.metrics) if j.key in outcome.failures)
            lost.append(Missing(failed.name, outcome.failures[failed.key]))
            continue
        runs.append(_run(graph, leaf, outcome, store))
        texts.setdefault(leaf.label, _generations(leaf, store, graph.setting.benchmark.shown_set))
    benchmark = graph.setting.benchmark
    return ReportModel(
        title=f"Unlearning study {graph.study.name}",
        study=graph.study.name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sets={name: len(benchmark.sets[name].rows) for name in sorted(benchmark.sets)},
        runs=tuple(runs),
        notes=(*_notes(graph, outcome), *graph.setting.benchmark.notes),
        missing=tuple(lost),
        samples=_samples(graph, texts),
    )


def _run(graph: Graph, leaf: Leaf, outcome: Outcome, store: Store) -> Run:
    name = f"{graph.setting.benchmark.eval_name}_EVAL.json"
    record = outcome.records[leaf.model.key]
    return Run(
        label=leaf.label,
        role=leaf.role,  # type: ignore[arg-type]
        method=leaf.method,
        settings=leaf.settings,
        seed=_seed(graph, leaf),
        results=read_results(store.path(leaf.metrics) / name)[0],
        wall_s=float(record["wall_s"]),
        steps=record.get("facts", {}).get("steps"),
    )


def _seed(graph: Graph, leaf: Leaf) -> int | str | None:
    """The seed that tells a run from its like; training and unlearning seeds as `train/unlearn` where both vary."""
    if leaf.role != "unlearn" or leaf.seed is None:
        return leaf.train_seed
    return leaf.seed if len(graph.study.seeds.train) == 1 else f"{leaf.train_seed}/{leaf.seed}"


def _notes(graph: Graph, outcome: Outcome) -> tuple[str, ...]:
    template, truth = graph.study.template_args, graph.study.eval.truth_ratio
    notes = [f"Truth ratio: {truth} mean over the perturbed answers."]
    if template.compat != "clean":
        notes.append(f"Tokenised as {template.compat} does: the first answer token may go unscored.")
    for job in in_order(graph.jobs):
        facts = outcome.records.get(job.key, {}).get("facts", {})
        for name, n in {**facts.get("truncated_rows", {}), **facts.get("truncated_answers", {})}.items():
            if n:
                notes.append(f"{job.name}: {n} answers of {name} were cut at {template.max_length} tokens.")
    return tuple(notes)


def _generations(leaf: Leaf, store: Store, rows: str) -> dict[int, str]:
    table = pq.read_table(store.path(leaf.records) / f"{rows}.texts.parquet")
    return {t.row_id: t.generation for t in text_records(table)}


def _samples(graph: Graph, texts: Mapping[str, Mapping[int, str]]) -> tuple[Sample, ...]:
    rows = graph.setting.benchmark.sets[graph.setting.benchmark.shown_set].rows
    chosen = rows[:: max(1, len(rows) // N_SAMPLES)][:N_SAMPLES]
    return tuple(
        Sample(r.question, r.answers["answer"], {label: made.get(r.row_id, "") for label, made in texts.items()})
        for r in chosen
    )
