"""Collect the stored results of a finished graph for its report, without new computations."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from expunge.benchmarks import Benchmark
from expunge.core.errors import ExpungeError, JobError, one_line
from expunge.core.records import text_records
from expunge.engine.job import in_order
from expunge.engine.run import RunOutcome
from expunge.engine.store import Store
from expunge.metrics.aggregate import band
from expunge.metrics.api import find_family
from expunge.metrics.fluency import gibberish
from expunge.metrics.forget_quality import ks_between
from expunge.metrics.results import read_results
from expunge.pipelines.study.example_explorer import explorer, making
from expunge.pipelines.study.graph import ModelNode, StudyGraph
from expunge.pipelines.study.requests import ranges
from expunge.pipelines.study_jobs import LM_EVAL_FILE, TRAJECTORY, cut_answers, reading_notes
from expunge.report.model import TOFU_SHOWN, AuditLine, MissingResult, ReportModel, ReportRun, ReportSample, SeedRange
from expunge.report.section import Section

if TYPE_CHECKING:
    from expunge.pipelines.audit_jobs.results import AuditSubject

N_SAMPLES = 6
_TEXTS = ".texts.parquet"
BROKEN = (ExpungeError, OSError, ValueError, KeyError, TypeError, AttributeError)  # errors of reading a damaged file
Questions = tuple[str, int | str | None, Mapping[str, Sequence[Any]]]  # label, seed, the columns of the probes


@dataclass
class _Measured:
    """The measured models of a graph, in its order, and the jobs without a result."""

    runs: list[ReportRun] = field(default_factory=list)
    outputs: list[Mapping[str, dict[int, str]]] = field(default_factory=list)
    """The generated texts of each run, by set and row."""
    texts: dict[str, Mapping[int, str]] = field(default_factory=dict)
    """The texts of the shown set, by label."""
    missing: list[MissingResult] = field(default_factory=list)


def report_model(graph: StudyGraph, outcome: RunOutcome, store: Store, command: str) -> ReportModel:
    """Return the report's model: a run per measured model, a line per missing job, and sample generations."""
    if graph.stories is not None:
        from expunge.pipelines.stories.results import stories_model

        making_of = making(graph, outcome, command)
        try:
            return stories_model(graph.study.name, graph.stories, outcome, store, command, making_of)
        except BROKEN as error:
            raise JobError(f"{graph.study.name}: the stored results {_unread(error)}") from None
    benchmark = graph.setting.benchmark
    measured = _measured(graph, outcome, store)
    audit_rows, questions = _audit_rows(graph, outcome, store, measured.missing)
    runs = _with_gibberish(measured.runs, measured.outputs, benchmark.forget_set)
    probes = [
        (r, table) for label, seed, table in questions for r in runs if table and (r.label, r.seed) == (label, seed)
    ]
    traced = set(benchmark.traced.values())  # the same rows as those of other sets
    shown = (*shown_metrics(benchmark, graph.study.eval.metrics), *_of_harness(runs))
    return ReportModel(
        title=f"Unlearning study {graph.study.name}",
        study=graph.study.name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sets=counted({name: len(rows) for name, rows in sorted(benchmark.sets.items()) if name not in traced}),
        runs=tuple(runs),
        notes=(*_notes(graph, outcome), *graph.setting.benchmark.notes),
        missing=tuple(measured.missing),
        samples=_samples(graph, measured.texts),
        shown=shown,
        utility=benchmark.measured_utility,
        null_band=null_band(runs),
        audits=tuple(audit_rows),
        explorer=explorer(benchmark, list(zip(runs, measured.outputs, strict=True)), probes),
        making=making(graph, outcome, command),
        directions={metric.name: find_family(metric.family).higher_is for metric in benchmark.panel},
        sections=_sections(graph, outcome, store, runs),
    )


def _measured(graph: StudyGraph, outcome: RunOutcome, store: Store) -> _Measured:
    """Return the runs whose stored results can be read, and a line for each job without one."""
    out = _Measured()
    shown = graph.setting.benchmark.shown_set
    for leaf in graph.leaves:
        if leaf.metrics.key in outcome.failures:
            failed = next(j for j in (leaf.model, leaf.records, leaf.metrics) if j and j.key in outcome.failures)
            out.missing.append(MissingResult(failed.name, outcome.failures[failed.key]))
            continue
        # measured already, although its model or records cannot be read now
        damaged = [j for j in (leaf.model, leaf.records) if j is not None and j.key in outcome.failures]
        out.missing += [MissingResult(j.name, outcome.failures[j.key]) for j in damaged]
        try:
            outputs = {} if leaf.records in damaged else _texts(leaf, store)
            out.runs.append(_run(graph, leaf, outcome, store))
        except BROKEN as error:
            out.missing.append(MissingResult(leaf.metrics.name, _unread(error)))
            continue
        out.outputs.append(outputs)
        if leaf.harness is not None and leaf.harness.key in outcome.failures:
            out.missing.append(MissingResult(leaf.harness.name, outcome.failures[leaf.harness.key]))
        if shown is not None:
            out.texts.setdefault(leaf.label, outputs.get(shown, {}))
    return out


def _audit_rows(
    graph: StudyGraph, outcome: RunOutcome, store: Store, missing: list[MissingResult]
) -> tuple[list[AuditLine], list[Questions]]:
    """Return the findings and the probes' questions of all audits. Adds audits without a result to `missing`."""
    rows: list[AuditLine] = []
    questions: list[Questions] = []
    for audited in graph.audits:
        from expunge.pipelines.audit_jobs.results import audit_lines, probe_columns

        seed = _seed(graph, audited.subject)
        try:
            if audited.job.key in outcome.records:
                rows += audit_lines(audited, store, seed)
                questions.append((audited.subject.label, seed, probe_columns(audited, store)))
        except BROKEN as error:
            missing.append(MissingResult(audited.job.name, _unread(error)))
    failures = [a.job for a in graph.audits if a.job.key in outcome.failures]
    missing += [MissingResult(job.name, outcome.failures[job.key]) for job in failures]
    return rows, questions


def _sections(graph: StudyGraph, outcome: RunOutcome, store: Store, runs: Sequence[ReportRun]) -> tuple[Section, ...]:
    """Return the sections on the meta-evaluation and on several requests, if the study has them."""
    sections: tuple[Section, ...] = ()
    if graph.meta is not None and graph.study.meta is not None and graph.meta.key in outcome.records:
        from expunge.pipelines.meta_evaluation.jobs import meta_section

        sections = (meta_section(graph.meta, outcome.records[graph.meta.key], store, graph.study.meta),)
    if graph.study.requests != 1:
        from expunge.pipelines.study.continual import requests_section

        benchmark = graph.setting.benchmark
        parts = ranges(graph.study.requests, len(benchmark.sets[benchmark.forget_set]))
        chains = requests_section(benchmark, parts, runs)
        sections += (chains,) if chains is not None else ()
    return sections


def _with_gibberish(
    runs: Sequence[ReportRun], outputs: Sequence[Mapping[str, Mapping[int, str]]], forget_set: str
) -> list[ReportRun]:
    """Return the runs with the reason why their answers to rows to keep are gibberish, compared with the target's."""

    def texts(of: Mapping[str, Mapping[int, str]]) -> list[str]:
        others = [name for name in of if name != forget_set and not name.startswith(("forget", "holdout"))]
        return [text for name in others for text in of[name].values()]

    before = [text for run, of in zip(runs, outputs, strict=True) if run.role == "full" for text in texts(of)]
    return [
        dataclasses.replace(run, gibberish=gibberish(texts(of), before)) if run.role == "unlearn" else run
        for run, of in zip(runs, outputs, strict=True)
    ]


def counted(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the number of rows of each set; many sets with the same first word, such as 57 subjects, are one line."""
    groups: dict[str, list[str]] = {}
    for name in sizes:
        groups.setdefault(name.partition("_")[0], []).append(name)
    out: dict[str, int] = {}
    for first, names in groups.items():
        together = len(names) > MANY_SETS
        out |= (
            {f"{first}_* ({len(names)} sets)": sum(sizes[n] for n in names)}
            if together
            else {n: sizes[n] for n in names}
        )
    return out


def _unread(error: Exception) -> str:
    return f"cannot be read: {one_line(error)}; `expunge verify` lists damaged files"


N_SHOWN = 8
MANY_SETS = 20


def shown_metrics(benchmark: Benchmark, requested: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the metrics of the report's table: the benchmark's choice, else TOFU's if present, else the first.

    requested: names of metrics or families (`eval.metrics`), which are shown as well.
    """
    names = [metric.name for metric in benchmark.panel]
    own = benchmark.shown or tuple(n for n in TOFU_SHOWN if n in names) or tuple(names[:N_SHOWN])
    additional = [metric.name for metric in benchmark.panel if {metric.name, metric.family} & {*requested}]
    return tuple(dict.fromkeys([*own, *additional]))


def _of_harness(runs: Sequence[ReportRun]) -> list[str]:
    """Return the tasks of lm-evaluation-harness that the runs have."""
    return list(dict.fromkeys(name for run in runs for name in run.results if "/" in name))


def null_band(runs: Sequence[ReportRun]) -> dict[str, SeedRange]:
    """Return the spread of each metric over retain models, if there are at least two training seeds.

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
    spreads = {name: (band(of), len(of)) for name, of in values.items()}
    if pairs:  # two retain models make one pair, whose distance is a band of one point
        spreads["forget_quality.ks_distance"] = (band([*pairs, *pairs[:1]] if len(pairs) == 1 else pairs), len(ratios))
    return {name: SeedRange(*spread, n=n) for name, (spread, n) in spreads.items() if spread is not None}


def _run(graph: StudyGraph, leaf: ModelNode, outcome: RunOutcome, store: Store) -> ReportRun:
    name = f"{graph.setting.benchmark.eval_name}_EVAL.json"
    record = {} if leaf.model is None else outcome.records.get(leaf.model.key, {})
    results = read_results(store.file(leaf.metrics, name))[0]
    if leaf.harness is not None and leaf.harness.key in outcome.records:
        results |= read_results(store.file(leaf.harness, LM_EVAL_FILE))[0]
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
        folder="" if leaf.model is None else str(store.path(leaf.model)),
        trajectory=() if leaf.model is None else _trajectory(store.path(leaf.model) / TRAJECTORY),
    )


def _trajectory(path: Path) -> tuple[Mapping[str, float], ...]:
    """Return the numbers of a run's evaluations, without missing ones."""
    if not path.is_file():
        return ()
    points = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    left_out = ("epoch", "phase")  # the step identifies a point
    return tuple(
        {k: float(v) for k, v in point.items() if k not in left_out and isinstance(v, int | float)} for point in points
    )


def _seed(graph: StudyGraph, leaf: ModelNode | AuditSubject) -> int | str | None:
    """Return the seed that identifies a run; `train/unlearn` if both seeds vary."""
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
            shown = f"{limit} tokens" if limit else "model.template_args.max_length"
            notes.append(f"{job.name}: {n} answers of {name} were cut at {shown}.")
    read = [note for job in in_order(graph.jobs) for note in reading_notes(outcome.records.get(job.key))]
    return (*notes, *dict.fromkeys(read))


def _texts(leaf: ModelNode, store: Store) -> dict[str, dict[int, str]]:
    """Return a model's greedy answer to each row, by set."""
    files = [store.file(leaf.records, p.name) for p in sorted(store.path(leaf.records).glob(f"*{_TEXTS}"))]
    return {file.name.removesuffix(_TEXTS): _read(file) for file in files}


def _read(file: Path) -> dict[int, str]:
    return {t.row_id: t.generation for t in text_records(pq.ParquetFile(file).read())}


def _samples(graph: StudyGraph, texts: Mapping[str, Mapping[int, str]]) -> tuple[ReportSample, ...]:
    if graph.setting.benchmark.shown_set is None:
        return ()
    rows = graph.setting.benchmark.sets[graph.setting.benchmark.shown_set].rows
    selection = rows[:: max(1, len(rows) // N_SAMPLES)][:N_SAMPLES]
    return tuple(
        ReportSample(
            r.question, r.answers["answer"], {label: answers.get(r.row_id, "") for label, answers in texts.items()}
        )
        for r in selection
    )
