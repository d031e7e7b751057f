"""From a finished graph to its report: what was stored, gathered; nothing is computed again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from expunge.benchmarks import Benchmark
from expunge.core.errors import JobError
from expunge.core.records import text_records
from expunge.engine.job import in_order
from expunge.engine.run import RunOutcome
from expunge.engine.store import Store
from expunge.metrics.aggregate import band
from expunge.metrics.api import find_family
from expunge.metrics.forget_quality import ks_between
from expunge.metrics.results import read_results
from expunge.pipelines.audit_jobs.results import AuditSubject, audit_lines
from expunge.pipelines.meta_evaluation.jobs import meta_section
from expunge.pipelines.stories.results import stories_model
from expunge.pipelines.study.example_explorer import explorer, making
from expunge.pipelines.study.graph import ModelNode, StudyGraph
from expunge.pipelines.study.harness import EVAL_FILE
from expunge.pipelines.study.work import TRAJECTORY, cut_answers, reading_notes
from expunge.report.model import TOFU_SHOWN, AuditLine, MissingResult, ReportModel, ReportRun, ReportSample, SeedRange

N_SAMPLES = 6
_TEXTS = ".texts.parquet"
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError)  # what reading a damaged file ends in


def report_model(graph: StudyGraph, outcome: RunOutcome, store: Store, command: str) -> ReportModel:
    """The report's model: a run per measured model, a line per job that is missing, and sample generations."""
    if graph.stories is not None:
        made = making(graph, outcome, command)
        try:
            return stories_model(graph.study.name, graph.stories, outcome, store, command, made)
        except (OSError, ValueError) as error:
            raise JobError(f"{graph.study.name}: what was measured {_unread(error)}") from None
    benchmark = graph.setting.benchmark
    runs: list[ReportRun] = []
    lost: list[MissingResult] = []
    texts: dict[str, Mapping[int, str]] = {}
    spoken: list[Mapping[str, dict[int, str]]] = []
    for leaf in graph.leaves:
        if leaf.metrics.key in outcome.failures:
            failed = next(j for j in (leaf.model, leaf.records, leaf.metrics) if j and j.key in outcome.failures)
            lost.append(MissingResult(failed.name, outcome.failures[failed.key]))
            continue
        # measured already, though what it was measured of cannot be read now
        damaged = [j for j in (leaf.model, leaf.records) if j is not None and j.key in outcome.failures]
        lost += [MissingResult(j.name, outcome.failures[j.key]) for j in damaged]
        try:
            said = {} if leaf.records in damaged else _texts(leaf, store)
            runs.append(_run(graph, leaf, outcome, store))
        except (OSError, ValueError) as error:
            lost.append(MissingResult(leaf.records.name, _unread(error)))
            continue
        spoken.append(said)
        if leaf.harness is not None and leaf.harness.key in outcome.failures:
            lost.append(MissingResult(leaf.harness.name, outcome.failures[leaf.harness.key]))
        if benchmark.shown_set is not None:
            texts.setdefault(leaf.label, said.get(benchmark.shown_set, {}))
    told: list[AuditLine] = []
    for audited in graph.audits:
        try:
            if audited.job.key in outcome.records:
                told += audit_lines(audited, store, _seed(graph, audited.subject))
        except BROKEN as error:
            lost.append(MissingResult(audited.job.name, _unread(error)))
    lost += [
        MissingResult(a.job.name, outcome.failures[a.job.key]) for a in graph.audits if a.job.key in outcome.failures
    ]
    meta, asked = graph.meta, graph.study.meta
    done = [] if meta is None or asked is None or meta.key not in outcome.records else [(meta, asked)]
    return ReportModel(
        title=f"Unlearning study {graph.study.name}",
        study=graph.study.name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sets={name: len(benchmark.sets[name]) for name in sorted(benchmark.sets)},
        runs=tuple(runs),
        notes=(*_notes(graph, outcome), *graph.setting.benchmark.notes),
        missing=tuple(lost),
        samples=_samples(graph, texts),
        shown=(*shown_metrics(benchmark), *dict.fromkeys(n for run in runs for n in run.results if "/" in n)),
        utility=benchmark.utility,
        null_band=null_band(runs),
        audits=tuple(told),
        explorer=explorer(benchmark, list(zip(runs, spoken, strict=True))),
        making=making(graph, outcome, command),
        directions={metric.name: find_family(metric.family).higher_is for metric in benchmark.panel},
        sections=tuple(meta_section(job, outcome.records[job.key], store, of) for job, of in done),
    )


def _unread(error: Exception) -> str:
    return f"cannot be read: {' '.join(str(error).split())}; `expunge verify` names what is damaged"


N_SHOWN = 8


def shown_metrics(benchmark: Benchmark) -> tuple[str, ...]:
    """The metrics of the report's table: those the benchmark names, else TOFU's where it has them, else the first."""
    names = [metric.name for metric in benchmark.panel]
    return benchmark.shown or tuple(n for n in TOFU_SHOWN if n in names) or tuple(names[:N_SHOWN])


def null_band(runs: Sequence[ReportRun]) -> dict[str, SeedRange]:
    """The spread of each metric over the retain models of several training seeds, where there are at least two.

    Retain models have no forget quality of their own; theirs is the KS distance of each pair of them, as
    `forget_quality.ks_distance`.
    """
    retain = [run.results for run in runs if run.role == "retain"]
    values: dict[str, list[float]] = {}
    for results in retain:
        for name, result in results.items():
            values.setdefault(name, []).append(result.value)
    ratios = [r["forget_truth_ratio"] for r in retain if "forget_truth_ratio" in r]
    pairs = [ks_between(one, other) for one, other in itertools.combinations(ratios, 2)]
    found = {name: (band(of), len(of)) for name, of in values.items()}
    if pairs:  # two retain models make one pair, whose distance is a band of one point
        found["forget_quality.ks_distance"] = (band([*pairs, *pairs[:1]] if len(pairs) == 1 else pairs), len(ratios))
    return {name: SeedRange(*spread, n=n) for name, (spread, n) in found.items() if spread is not None}


def _run(graph: StudyGraph, leaf: ModelNode, outcome: RunOutcome, store: Store) -> ReportRun:
    name = f"{graph.setting.benchmark.eval_name}_EVAL.json"
    record = {} if leaf.model is None else outcome.records.get(leaf.model.key, {})
    results = read_results(store.path(leaf.metrics) / name)[0]
    if leaf.harness is not None and leaf.harness.key in outcome.records:
        results |= read_results(store.path(leaf.harness) / EVAL_FILE)[0]
    return ReportRun(
        label=leaf.label,
        role=leaf.role,  # type: ignore[arg-type]
        method=leaf.method,
        settings=leaf.settings,
        seed=_seed(graph, leaf),
        results=results,
        wall_s=record.get("wall_s"),
        steps=record.get("facts", {}).get("steps"),
        tokens_per_s=record.get("facts", {}).get("speed", {}).get("tokens_per_s"),
        trajectory=() if leaf.model is None else _trajectory(store.path(leaf.model) / TRAJECTORY),
    )


def _trajectory(path: Path) -> tuple[Mapping[str, float], ...]:
    """What a run's evaluations on the way found; a number that is missing is left out."""
    if not path.is_file():
        return ()
    points = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    left_out = ("epoch", "phase")  # the step says where a point stands
    return tuple(
        {k: float(v) for k, v in point.items() if k not in left_out and isinstance(v, int | float)} for point in points
    )


def _seed(graph: StudyGraph, leaf: ModelNode | AuditSubject) -> int | str | None:
    """The seed that tells a run from its like; training and unlearning seeds as `train/unlearn` where both vary."""
    if leaf.role != "unlearn" or leaf.seed is None:
        return leaf.train_seed
    return leaf.seed if len(graph.study.seeds.train) == 1 else f"{leaf.train_seed}/{leaf.seed}"


def _notes(graph: StudyGraph, outcome: RunOutcome) -> tuple[str, ...]:
    template, truth = graph.study.template_args, graph.study.eval.truth_ratio
    ratios = any(metric.family == "truth_ratio" for metric in graph.setting.benchmark.panel)
    notes = [f"Truth ratio: {truth} mean over the perturbed answers."] if ratios else []
    if template.compat != "clean":
        notes.append(f"Tokenised as {template.compat} does: the first answer token may go unscored.")
    sets = graph.setting.benchmark.sets
    for job in in_order(graph.jobs):
        for name, n in cut_answers(outcome.records.get(job.key)).items():
            limit = (name in sets and sets[name].max_length) or template.max_length
            notes.append(f"{job.name}: {n} answers of {name} were cut at {limit} tokens.")
    read = [note for job in in_order(graph.jobs) for note in reading_notes(outcome.records.get(job.key))]
    return (*notes, *dict.fromkeys(read))


def _texts(leaf: ModelNode, store: Store) -> dict[str, dict[int, str]]:
    """What a model said to each row, by set: the greedy answers."""
    files = sorted(store.path(leaf.records).glob(f"*{_TEXTS}"))
    return {file.name.removesuffix(_TEXTS): _read(file) for file in files}


def _read(file: Path) -> dict[int, str]:
    return {t.row_id: t.generation for t in text_records(pq.read_table(file))}


def _samples(graph: StudyGraph, texts: Mapping[str, Mapping[int, str]]) -> tuple[ReportSample, ...]:
    if graph.setting.benchmark.shown_set is None:
        return ()
    rows = graph.setting.benchmark.sets[graph.setting.benchmark.shown_set].rows
    chosen = rows[:: max(1, len(rows) // N_SAMPLES)][:N_SAMPLES]
    return tuple(
        ReportSample(r.question, r.answers["answer"], {label: made.get(r.row_id, "") for label, made in texts.items()})
        for r in chosen
    )
