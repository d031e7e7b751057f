"""Settles what a task names: its rows, its panel, its model, before any job is planned."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from expunge.benchmarks import Benchmark, find_benchmark
from expunge.benchmarks.extras import with_extras
from expunge.core.errors import DataError
from expunge.data.refusals import REFUSALS, read_refusals
from expunge.data.template import Template
from expunge.evaluation.config import check_backend
from expunge.metrics.added import added_metrics
from expunge.models.config import check_source, has_chat_template, looks_local
from expunge.pipelines.study import harness
from expunge.pipelines.study.config import TaskConfig, benchmark_config
from expunge.pipelines.study.requests import narrowed
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.sweep.selection import with_part


def benchmark_of(task: TaskConfig) -> Benchmark:
    """The rows and the panel. Raises ConfigError or DataError."""
    return find_benchmark(task.benchmark).make(benchmark_config(task))


def resolve_task(task: TaskConfig) -> TaskContext:
    """What the jobs of a study or a single job share; `data.request` narrows the forget rows. Raises ConfigError or
    DataError."""
    if task.eval.lm_eval.tasks:
        harness.check_tasks(task.eval.lm_eval)
    refusals = read_refusals(Path(task.data.refusals).expanduser()) if task.data.refusals else REFUSALS
    check_backend(task.eval.generation)
    check_backend(task.eval.sampling, where="eval.sampling")
    benchmark = benchmark_of(task)
    check_holdout(benchmark)
    for key in ("embedder", "original"):
        named = getattr(task.eval, key)
        if named is not None:
            check_source(named, f"eval.{key}")
    benchmark = with_extras(benchmark, task.eval.extras, samples=task.eval.sampling.samples, refusals=refusals)
    added = added_metrics(task.eval.metrics, benchmark.panel, benchmark.sets)
    benchmark = dataclasses.replace(benchmark, panel=(*benchmark.panel, *added))
    setting = with_part(TaskContext(benchmark, task.model, template_of(task), refusals), task.eval.rows)
    return setting if task.data.request is None else narrowed(setting, task.data.request)


def template_of(task: TaskConfig) -> Template:
    """Return the template, `apply_chat_template: null` settled if the tokenizer is a local folder or is to be made."""
    source = task.model.tokenizer_source
    if source is not None and not looks_local(source):
        return task.template_args  # a hub id: the encoder settles it
    return task.template_args.resolved(tokenizer_has_one=source is not None and has_chat_template(source))


def check_holdout(benchmark: Benchmark) -> None:
    """Rows that no model has seen must not be among those to be forgotten, nor among those an attack tells them from.

    Raises DataError with the first that is.
    """
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
                    f"{(row.question or row.answer)[:60]!r}; no model may have seen a {unseen} row"
                )
