"""Resolve a task's rows, metric suite and model before any job is planned."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.benchmarks import Benchmark, find_benchmark
from expunge.core.errors import ConfigError, DataError
from expunge.data.refusals import REFUSALS, read_refusals
from expunge.data.template import Template
from expunge.evaluation.config import check_backend
from expunge.metrics.compute import in_order
from expunge.models.config import adapter_base, check_source, has_chat_template, looks_local
from expunge.models.load import check_tokenizer, with_scoring_dtype
from expunge.pipelines.study.task_config import EvalConfig, TaskConfig, benchmark_config
from expunge.pipelines.study.task_context import TaskContext

if TYPE_CHECKING:
    from expunge.data.alternates import Alternates


def benchmark_of(task: TaskConfig) -> Benchmark:
    """Return the rows and the panel. Raises ConfigError or DataError."""
    return find_benchmark(task.benchmark).make(benchmark_config(task))


def resolve_task(task: TaskConfig, store: Path | None = None) -> TaskContext:
    """Return the context of a study's or a single job's jobs. `data.request` selects a part of the forget rows.

    store: a store that keeps the digests of token ids. Raises ConfigError or DataError.
    """
    if task.eval.lm_eval.tasks:
        from expunge.pipelines.study_jobs.harness import check_tasks

        check_tasks(task.eval.lm_eval)
    refusals = read_refusals(Path(task.data.refusals).expanduser()) if task.data.refusals else REFUSALS
    check_backend(task.eval.generation)
    check_backend(task.eval.sampling, where="eval.sampling")
    benchmark = benchmark_of(task)
    check_holdout(benchmark)
    if task.eval.judge:
        from expunge.judges.make import choose_judge

        choose_judge(task.eval.judge, "eval.judge")
    for key in ("embedder", "original"):
        named = getattr(task.eval, key)
        if named is not None:
            check_source(named, f"eval.{key}")
    if task.eval.embedder is not None:
        _check_embedder(task.eval.embedder)
    if task.eval.extras:
        from expunge.benchmarks.extras import with_extras

        benchmark = with_extras(benchmark, task.eval.extras, samples=task.eval.sampling.samples, refusals=refusals)
    suite = tuple(benchmark.panel)
    benchmark = _with_metrics(benchmark, task.eval)
    context = TaskContext(
        benchmark,
        with_scoring_dtype(task.model),
        template_of(task),
        refusals,
        alternates=_alternates(task, benchmark),
        store=store,
    )
    if task.eval.rows.part != "all":
        from expunge.pipelines.sweep.selection import with_part

        context = with_part(context, task.eval.rows, suite)
    if task.data.request is not None:
        from expunge.pipelines.study.requests import narrowed

        context = narrowed(context, task.data.request)
    return context


def _with_metrics(benchmark: Benchmark, evaluation: EvalConfig) -> Benchmark:
    """Return the benchmark with the metrics that the settings choose. Raises ConfigError."""
    panel = tuple(benchmark.panel)
    in_order(panel)  # rejects an invalid panel before anything is scored
    if evaluation.metrics:
        from expunge.metrics.added import chosen_metrics

        panel = chosen_metrics(evaluation.metrics, panel, benchmark.sets)
    if evaluation.compat == "openunlearning":
        from expunge.benchmarks.metric_suite import as_openunlearning

        panel = as_openunlearning(panel)
    return dataclasses.replace(benchmark, panel=panel)


def _alternates(task: TaskConfig, benchmark: Benchmark) -> Alternates | None:
    """Return the other answers of `data.alternates`, checked against the forget examples. Raises DataError."""
    if task.data.alternates is None:
        return None
    from expunge.data.alternates import read_alternates

    alternates = read_alternates(Path(task.data.alternates).expanduser(), task.data.alternate_key)
    alternates.of(benchmark.sets[benchmark.forget_set])
    return alternates


def _check_embedder(source: str) -> None:
    """Raise ConfigError for a folder that an embedder is not read from: an adapter, or one without a tokenizer."""
    if adapter_base(source) is not None:
        raise ConfigError(f"eval.embedder: {source} contains only an adapter; merge it into its base model")
    check_tokenizer(source, "eval.embedder")


def template_of(task: TaskConfig) -> Template:
    """Return the template, with `apply_chat_template: null` resolved for a local or a new tokenizer."""
    source = task.model.tokenizer_source
    if source is not None and not looks_local(source):
        return task.template_args  # a hub id: the encoder resolves it
    return task.template_args.resolved(tokenizer_has_one=source is not None and has_chat_template(source))


def check_holdout(benchmark: Benchmark) -> None:
    """Raise DataError if a holdout row is also a row to forget or a member row of a membership attack."""
    rows = {m.name: m.rows or "" for m in benchmark.panel}
    attacks = [m.parents for m in benchmark.panel if m.family == "attack_auc"]
    pairs = [(benchmark.forget_set, "holdout")]
    pairs += [(rows.get(p.get("members", ""), ""), rows.get(p.get("others", ""), "")) for p in attacks]
    for seen, unseen in dict.fromkeys(pairs):
        known = {(r.question, r.answer): r.row_id for r in benchmark.sets.get(seen, ())}
        for row in benchmark.sets.get(unseen, ()):
            if (row.question, row.answer) in known:
                raise DataError(
                    f"{unseen} row {row.row_id} is {seen} row {known[row.question, row.answer]} as well: "
                    f"{(row.question or row.answer)[:60]!r}; {unseen} rows must be new to every model"
                )
