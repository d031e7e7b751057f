"""Measure a model in memory: score the examples of a task once for all metrics, then compute the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import fingerprint
from expunge.core.records import texts_table, token_records
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder, Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import score_tokens
from expunge.evaluation.result import EvalResult
from expunge.evaluation.speculative import drafts_of
from expunge.metrics.api import Metric, MetricResult
from expunge.metrics.compute import OptionalRecords, compute, requests, with_parents
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer, pick_device


class GenerationLimits(Protocol):
    """The limits of a benchmark on the generations of one set."""

    @property
    def max_new_tokens(self) -> int:
        """The largest number of new tokens."""
        ...

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts that end a generation."""
        ...


class EvalTask(Protocol):
    """What is measured: named examples and metrics. Every `benchmarks.Benchmark` is one."""

    @property
    def name(self) -> str:
        """The benchmark's name."""
        ...

    @property
    def split(self) -> str:
        """The name of the split."""
        ...

    @property
    def eval_name(self) -> str:
        """The start of the names of its result files."""
        ...

    @property
    def sets(self) -> Mapping[str, ExampleSet]:
        """The examples by name."""
        ...

    @property
    def panel(self) -> tuple[Metric, ...]:
        """The metrics."""
        ...

    @property
    def generation(self) -> Mapping[str, Any]:
        """Limits on generations, by set."""
        ...


def evaluate_task(
    model: Any,
    tokenizer: Any,
    task: EvalTask,
    *,
    metrics: Sequence[str | Metric] | None = None,
    retain_results: EvalResult | Mapping[str, MetricResult] | str | Path | None = None,
    template: Template | Mapping[str, Any] | None = None,
    generation: Generation | Mapping[str, Any] | None = None,
    batch_tokens: int | None = None,
    seed: int = 0,
) -> EvalResult:
    """Measure a model on a task. `expunge.evaluate` documents the arguments."""
    model, tokenizer = resolve_model(model, tokenizer)
    encoder = Encoder(resolve_template(template, tokenizer), tokenizer)
    how = resolve_generation(generation, seed)
    chosen = choose_metrics(task.panel, metrics)
    wanted = requests(chosen)
    was_training = model.training
    tables = {}
    try:
        tokens = {}
        for rows, names in wanted.tokens.items():
            table = score_tokens(model, task.sets[rows], names, encoder, token_budget=batch_tokens)
            tables[f"{rows}.tokens"], tokens[rows] = table, token_records(table)
        texts = {}
        for rows, references in wanted.texts.items():
            drafts = drafts_of(tokens[rows], "answer") if rows in tokens else None
            made = generate_texts(
                model, task.sets[rows], "answer", encoder, how, token_budget=batch_tokens, drafts=drafts
            )
            tables[f"{rows}.texts"] = texts_table(made)
            for variant in references:
                texts[rows, variant] = [
                    dataclasses.replace(t, reference=task.sets[rows][t.row_id].answers[variant]) for t in made
                ]
    finally:
        model.train(was_training)
    results = compute(chosen, tokens, texts, retain_of(retain_results), OptionalRecords())
    meta = {
        "benchmark": task.name,
        "forget_split": task.split,
        "template": fingerprint(dataclasses.replace(encoder.template, max_length=2)),
        "rows": {n: task.sets[n].fingerprint() for n in sorted({m.rows for m in chosen if m.rows})},
    }
    examples = {m.name: m.rows for m in chosen if m.rows}
    return EvalResult(results, meta=meta, examples=examples, records=tables, prefix=task.eval_name)


def resolve_model(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    """Return the model and the tokenizer, loaded if they are names. Raises ConfigError."""
    source = str(model) if isinstance(model, str | Path) else None
    if tokenizer is None:
        if source is None:
            raise ConfigError("evaluate: tokenizer: missing; a model object needs its tokenizer")
        tokenizer = source
    if isinstance(tokenizer, str | Path):
        tokenizer = load_tokenizer(str(tokenizer), TokenizerArgs())
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if source is not None:
        model = load_model(source, ModelArgs(), device=pick_device("auto"))
    elif not isinstance(model, torch.nn.Module):
        raise ConfigError(f"evaluate: model: expected a model or its name, got a {type(model).__name__}")
    return model, tokenizer


def resolve_template(template: Template | Mapping[str, Any] | None, tokenizer: Any) -> Template:
    """Return the template. By default the tokenizer's chat template if it has one, else plain tags."""
    if isinstance(template, Template):
        return template
    given = dict(template or {})
    tags = any(key.endswith("_tag") for key in given)
    if "apply_chat_template" not in given and not tags and tokenizer.chat_template:
        given["apply_chat_template"] = True
    return decode(Template, given, where="template")


def resolve_generation(generation: Generation | Mapping[str, Any] | None, seed: int) -> Generation:
    """Return the generation settings, decoded if they are a mapping."""
    if isinstance(generation, Generation):
        return generation
    return decode(Generation, {"seed": seed, **(generation or {})}, where="generation")


def choose_metrics(panel: Sequence[Metric], chosen: Sequence[str | Metric] | None) -> list[Metric]:
    """Return the metrics to compute: the whole panel, or the chosen ones with those that they read."""
    if chosen is None:
        return list(panel)
    own = [m for m in chosen if isinstance(m, Metric)]
    known = [m for m in panel if m.name not in {o.name for o in own}] + own
    names = [m if isinstance(m, str) else m.name for m in chosen]
    for name in names:
        if name not in {m.name for m in known}:
            raise ConfigError(f"metrics: no metric named {name!r}{nearest(name, [m.name for m in known])}")
    return with_parents(known, names)


def retain_of(
    results: EvalResult | Mapping[str, MetricResult] | str | Path | None,
) -> Mapping[str, MetricResult] | None:
    """Return the results of the retain model by metric name."""
    if isinstance(results, str | Path):
        results = EvalResult.load(results)
    return results.results if isinstance(results, EvalResult) else results
