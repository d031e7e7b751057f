"""Create the jobs that measure a model: its records, the metric suite over them, and lm-evaluation-harness."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks import Benchmark
from expunge.core.fingerprints import fingerprint
from expunge.engine.job import Job
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import limited, rows_where, tokenizer_mark
from expunge.evaluation.kinds import RecordPart, parts
from expunge.metrics.api import MetricResult
from expunge.models.config import ModelArgs
from expunge.models.identity import model_identity, source_identity, tokenisation_identity, tokenizer_identity
from expunge.models.load import context_of, load_tokenizer
from expunge.pipelines.study.context_source import ContextSource, FileRef, RowsRef
from expunge.pipelines.study.task_config import EvalConfig
from expunge.pipelines.study.task_context import TaskContext, check_retain_file
from expunge.pipelines.study_jobs.estimate import WorkEstimator, sizes
from expunge.pipelines.study_jobs.job_values import ModelInput, Panel
from expunge.pipelines.study_jobs.measure_jobs import (
    HarnessJob,
    JudgementsJob,
    MetricsJob,
    RecordsJob,
    ScoreJob,
    SimilarityJob,
)
from expunge.pipelines.study_jobs.model_jobs import parents_of


class EvaluationJobs:
    """Creates the jobs that measure models. source: the setting for another process."""

    def __init__(self, setting: TaskContext, evaluation: EvalConfig, source: ContextSource) -> None:
        self.setting, self.evaluation, self.source = setting, evaluation, source
        self._refs: dict[tuple[str, str], RowsRef] = {}
        self._sizes: WorkEstimator = sizes(setting)
        self._parts = parts(setting.benchmark.panel)
        self._estimates = {p: self._sizes.score(p, self._limited(p)) for p in self._parts if p.of is None}
        self._panel = Panel(tuple(setting.benchmark.panel))
        self._meta = self._made_meta()
        self._models: dict[bool, ModelInput] = {}
        self._logs: dict[Path, tuple[Mapping[str, MetricResult], FileRef]] = {}

    def records(self, label: str, model: Job | None, original: Job | str | None = None) -> Job:
        """Return the job of all records of a model, above a job for each set of rows and kind.

        original: the model that agreement compares with, a job or a folder; `eval.original` has precedence.
        """
        original_model = self.evaluation.original or original
        # Parts have the model's name, not the task's, so that other tasks share them.
        whose = model.label if model else Path(str(self.setting.model.source)).name
        parts: dict[str, Job] = {}
        for part in self._parts:
            if part.spec.needs == "original" and original_model is None:
                continue  # the metrics that read it report the missing original model
            if part.of is None:
                parts[part.file] = self._scored(whose, model, part, original_model)
                continue
            texts = parts[f"{part.rows}.{part.of}.parquet"]
            if part.spec.needs == "judge":
                if self.evaluation.judge:
                    parts[part.file] = self._judged(whose, part, texts)
            elif self.evaluation.embedder is not None:
                parts[part.file] = self._compared(whose, part, texts, self.evaluation.embedder)
        return RecordsJob(label=label, parents=parts)

    def _ref(self, name: str, benchmark: Benchmark | None = None) -> RowsRef:
        """Return the reference to a set of rows, with the digest of its token ids. benchmark: None is the setting's."""
        rows = (benchmark or self.setting.benchmark).sets[name]
        key = name, rows.fingerprint()
        if key not in self._refs:
            self._refs[key] = RowsRef(*key, self.setting.token_ids(rows))
        return self._refs[key]

    def check_lengths(self, source: str) -> None:
        """Raise DataError for a row beyond the context length of a model folder. Reads no weights."""
        context = context_of(source, self.setting.model.model_args)
        if context is None:
            return
        encoder = self.setting.encoder(source)
        longest = {n: s.max_length or encoder.max_length for n, s in self.setting.benchmark.sets.items()}
        parts = [
            p for p in self._parts if p.of is None and longest[p.rows] > context
        ]  # the template truncates the others
        if not parts:
            return
        from expunge.pipelines.study_jobs import measuring

        for part in parts:
            measuring.check_lengths(context, self.setting, encoder, part, self._limited(part))

    def _how(self, part: RecordPart) -> Generation:
        """Return the generation settings of a part."""
        return self.evaluation.sampling if part.spec.settings == "sampling" else self.evaluation.generation

    def _limited(self, part: RecordPart) -> Generation:
        """Return the generation settings of a part within the benchmark's limits."""
        return limited(self._how(part), self.setting.benchmark.generation.get(part.rows))

    def _scored(self, label: str, model: Job | None, part: RecordPart, original: Job | str | None) -> Job:
        """Return the job of one kind of records of one set of rows."""
        writes = part.spec.settings is not None
        compared = part.spec.needs == "original"
        folder = str(original) if compared and not isinstance(original, Job) else None
        return ScoreJob(
            label=f"{label} {part.rows} {part.kind}",
            parents=parents_of(model=model, original=original if compared and isinstance(original, Job) else None),
            source=self.source,
            records=part.kind,
            rows=self._ref(part.rows),
            columns=tuple(part.spec.key),
            reads=() if writes else part.names,
            generation=self._how(part) if writes else None,
            limits=self.setting.benchmark.generation.get(part.rows) if writes else None,
            original=None if folder is None else source_identity(folder, None),
            model=self.model_input(model),
            part=part,
            how=self._how(part),
            original_source=folder,
            estimate=self._estimates[part],
        )

    def _judged(self, label: str, part: RecordPart, texts: Job) -> Job:
        """Return the job that scores stored generations with the judge."""
        from expunge.judges.make import choose_judge

        return JudgementsJob(
            label=f"{label} {part.rows} {part.kind}",
            parents={"texts": texts},
            source=self.source,
            records=part.kind,
            rows=self._ref(part.rows),
            judge=choose_judge(self.evaluation.judge, "eval.judge").identity,
            settings=self.evaluation.judge,
            part=part,
        )

    def _compared(self, label: str, part: RecordPart, texts: Job, embedder: str) -> Job:
        """Return the job that compares stored generations with answers."""
        return SimilarityJob(
            label=f"{label} {part.rows} {part.kind}",
            parents={"texts": texts},
            source=self.source,
            records=part.kind,
            rows=self._ref(part.rows),
            reads=part.names,
            embedder=source_identity(embedder, None),
            embedder_source=embedder,
            part=part,
        )

    def metrics(
        self,
        label: str,
        records: Job,
        retain: Job | None,
        *,
        retain_file: Path | None = None,
        shadows: Sequence[Job] = (),
    ) -> Job:
        """Return the job of the metric suite over a model's records, with the retain model's results if any.

        shadows: the records of the retain models that attacks with reference models read, never this model's own.
        """
        panel = self.setting.benchmark.panel
        sets = self.setting.benchmark.sets
        for metric in panel:
            if metric.where and metric.rows:
                rows_where(sets[metric.rows], metric)
        parents = {"records": records} | ({"retain": retain} if retain else {})
        if any(m.shadows for m in panel):
            parents |= {f"shadow_{i}": job for i, job in enumerate(shadows)}
        return MetricsJob(
            label=label,
            parents=parents,
            source=self.source,
            panel=self._panel,
            retain_log=self._retain_log(retain_file)[1] if retain_file else None,
            meta=self._meta,
            eval_file=self.eval_file,
        )

    def harness(self, label: str, model: Job | None) -> Job | None:
        """Return the job of lm-evaluation-harness on a model, if it has tasks."""
        config = self.evaluation.lm_eval
        if not config.tasks:
            return None
        from expunge.pipelines.study_jobs import harness

        return HarnessJob(
            label=label,
            parents=parents_of(model=model),
            source=self.source,
            asked=harness.identity(config),
            model=self.model_input(model),
            config=config,
            model_config=self.setting.model,
        )

    def _retain_log(self, retain_file: Path) -> tuple[Mapping[str, MetricResult], FileRef]:
        """Return the results of a matching retain log, and the file. Reads it once. Raises ConfigError."""
        if retain_file not in self._logs:
            n_forget = len(self.setting.benchmark.sets.get("forget_eval", ()))
            results = check_retain_file(retain_file, self.meta(), n_forget, self.tokenizer_mark)
            self._logs[retain_file] = results, FileRef.of(retain_file)
        return self._logs[retain_file]

    def tokenizer_mark(self) -> str | None:
        """Return the mark of this setting's tokenizer; None if a job will create it."""
        source = self.setting.model.tokenizer_source
        if source is None:
            return None
        return tokenizer_mark(load_tokenizer(source, self.setting.model.tokenizer_args))

    @property
    def eval_file(self) -> str:
        """The usual name of the results file: TOFU_EVAL.json."""
        return f"{self.setting.benchmark.eval_name}_EVAL.json"

    def meta(self) -> Mapping[str, Any]:
        """Return the facts of the measurement for the results file, which a retain log must match."""
        return self._meta

    def _made_meta(self) -> Mapping[str, Any]:
        benchmark = self.setting.benchmark
        return {
            "benchmark": benchmark.name,
            "forget_split": benchmark.split,
            "truth_ratio": self.evaluation.truth_ratio,
            "template": fingerprint(dataclasses.replace(self.setting.template, max_length=2)),
            "rows": {n: benchmark.sets[n].fingerprint() for n in sorted({m.rows for m in benchmark.panel if m.rows})},
        }

    def model_input(self, start: Job | None) -> ModelInput:
        """Return the template, the weights' type and, if no job made them, the model and the tokenizer."""
        has_parent = start is not None
        if has_parent not in self._models:
            model = self.setting.model
            named = model.tokenizer_args.pretrained_model_name_or_path
            if not has_parent and model.tokenizer_args.revision != model.model_args.revision:
                named = model.tokenizer_source  # the model's own tokenizer, of another commit
            self._models[has_parent] = ModelInput(
                self.setting.template,
                model.model_args.dtype,
                None if has_parent or not model.source else model_identity(model),
                tokenizer_identity(named, model.tokenizer_args.revision) if named else None,
                self.setting.rendered_template,
                tokenisation_identity(),
                _options(model.model_args) or None,
                model.tokenizer_args.options or None,
                model.model_args.batched,
            )
        return self._models[has_parent]


def _options(args: ModelArgs) -> dict[str, Any]:
    """Return the further arguments, with the implementation of attention if it is named: each rounds in its own way."""
    named = {"attn_implementation": args.attn_implementation} if args.attn_implementation else {}
    return {**args.options, **named}
