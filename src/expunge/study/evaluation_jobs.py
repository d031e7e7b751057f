"""Makes the jobs that measure a model of one setting: its records, the panel over them, and lm-evaluation-harness."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.fingerprints import file_sha256, fingerprint
from expunge.evaluation.config import Generation
from expunge.metrics.api import MetricResult
from expunge.metrics.compute import identity as panel_identity
from expunge.metrics.results import read_results
from expunge.models.config import source_identity, tokenizer_identity
from expunge.models.load import context_of, load_tokenizer
from expunge.study import harness, measuring
from expunge.study.config import EvalConfig
from expunge.study.estimate import WorkEstimator, sizes
from expunge.study.job import Job, Progress
from expunge.study.task_context import TaskContext, check_retain_file

REVISION = 1  # of the jobs themselves: raised when the same settings would give other numbers
RECORDS_REVISION = 2  # of the gathering alone; 1 gave the files the names of the sets that were scored first


class EvaluationJobs:
    """Makes the jobs that measure models. Each identity names what decides the result, and nothing else."""

    def __init__(self, setting: TaskContext, evaluation: EvalConfig) -> None:
        self.setting, self.evaluation = setting, evaluation
        self._rows = {name: rows.fingerprint() for name, rows in setting.benchmark.sets.items()}
        self._sizes: WorkEstimator = sizes(setting)
        self._parts = measuring.parts(setting.benchmark.panel)
        self._estimates = {p: self._sizes.score(p, self._limited(p)) for p in self._parts if p.of is None}
        self._panel = panel_identity(setting.benchmark.panel)
        self._rendered = setting.rendered_template()
        self._held = measuring.ModelCache()
        self._logs: dict[Path, tuple[Mapping[str, MetricResult], str]] = {}

    def records(self, label: str, model: Job | None, original: Job | str | None = None) -> Job:
        """All records of a model, gathered from a job for each set of rows and kind.

        original: the model that agreement compares with, a job's or a folder; `eval.original` comes before it.
        """
        given = self.evaluation.original or original
        # Parts bear the model's name, not that of the task: another task finds them where they lie.
        whose = model.label if model else Path(str(self.setting.model.source)).name
        made: dict[str, Job] = {}
        for part in self._parts:
            if part.spec.needs == "original" and given is None:
                continue  # the metrics that read it say that there is no original model
            if part.of is None:
                made[part.file] = self._scored(whose, model, part, given)
            elif self.evaluation.embedder is not None:
                texts = made[f"{part.rows}.{part.of}.parquet"]
                made[part.file] = self._compared(whose, part, texts, self.evaluation.embedder)

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            self._held.drop()  # this model's last part is done
            return measuring.gather(folder, parents)

        return Job(kind="records", label=label, identity={"revision": RECORDS_REVISION}, parents=made, do=do)

    def check_lengths(self, source: str) -> None:
        """Raise DataError for a row that the context of a model in a folder cannot hold; no weight is read."""
        context = context_of(source)
        if context is None:
            return
        longest = {n: s.max_length or self.setting.template.max_length for n, s in self.setting.benchmark.sets.items()}
        parts = [p for p in self._parts if p.of is None and longest[p.rows] > context]  # the template cuts the others
        if not parts:
            return
        encoder = self.setting.encoder(source)
        for part in parts:
            measuring.check_lengths(context, self.setting, encoder, part, self._limited(part))

    def _how(self, part: measuring.RecordPart) -> Generation:
        """How texts of a part are generated."""
        return self.evaluation.sampling if part.spec.settings == "sampling" else self.evaluation.generation

    def _limited(self, part: measuring.RecordPart) -> Generation:
        """The same, no longer than the benchmark allows."""
        return measuring.limited(self._how(part), self.setting.benchmark.generation.get(part.rows))

    def _scored(self, label: str, model: Job | None, part: measuring.RecordPart, original: Job | str | None) -> Job:
        """One kind of records of one set of rows. Only what decides them is in the identity, so others stay."""
        how = self._how(part)
        writes = part.spec.settings is not None
        parents = {} if model is None else {"model": model}
        decides: dict[str, Any] = {"generation": how} if writes else {"reads": part.names}
        limits = self.setting.benchmark.generation.get(part.rows)
        if writes and limits is not None:
            decides["limits"] = limits
        if part.spec.needs == "original":
            if isinstance(original, Job):
                parents["original"] = original
            else:
                decides["original"] = source_identity(str(original), None)

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            other = None if original is None else str(parents.get("original", original))
            source = self._source(parents)
            return measuring.score(folder, source, self.setting, part, how, self._held, progress, original=other)

        return Job(
            kind="score",
            label=f"{label} {part.rows} {part.kind}",
            identity={
                "revision": REVISION,
                "records": part.kind,
                "rows": self._rows[part.rows],
                "columns": measuring.COLUMNS[part.kind],  # records of an older shape are made again
                **decides,
                **self._source_identity(model),
            },
            parents=parents,
            do=do,
            estimate=self._estimates[part],
            together=part.spec.collective,
        )

    def _compared(self, label: str, part: measuring.RecordPart, texts: Job, embedder: str) -> Job:
        """The similarity of stored generations to answers."""
        return Job(
            kind="score",
            label=f"{label} {part.rows} {part.kind}",
            identity={
                "revision": REVISION,
                "records": part.kind,
                "rows": self._rows[part.rows],
                "reads": part.names,
                "embedder": source_identity(embedder, None),
            },
            parents={"texts": texts},
            do=lambda folder, parents, progress: measuring.compare_texts(
                folder, parents["texts"], self.setting, part, embedder, progress
            ),
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
        """The panel over a model's records, against the retain model's results if there are any.

        shadows: the records of the retain models that attacks with reference models read, never this model's own.
        """
        panel = self.setting.benchmark.panel
        sets = self.setting.benchmark.sets
        for metric in panel:
            if metric.where and metric.rows:
                measuring.rows_where(sets[metric.rows], metric)
        meta = self.meta()
        given, mark = self._retain_log(retain_file) if retain_file else (None, None)

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            against = given
            if "retain" in parents:
                against = read_results(parents["retain"] / self.eval_file)[0]
            others = [path for role, path in parents.items() if role.startswith("shadow_")]
            facts = measuring.measure(folder, parents["records"], self.setting, panel, against, meta, others)
            progress(1, 1)
            return facts

        identity: dict[str, Any] = {"revision": REVISION, "panel": self._panel}
        if mark is not None:
            identity["retain_logs"] = mark
        parents = {"records": records} | ({"retain": retain} if retain else {})
        if any(m.shadows for m in panel):
            parents |= {f"shadow_{i}": job for i, job in enumerate(shadows)}
        return Job(kind="metrics", label=label, identity=identity, parents=parents, do=do)

    def harness(self, label: str, model: Job | None) -> Job | None:
        """The tasks of lm-evaluation-harness on a model, if any are asked for."""
        config = self.evaluation.lm_eval
        if not config.tasks:
            return None

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            meta = {"benchmark": "lm_eval", "tasks": list(config.tasks)}
            return harness.measure_tasks(folder, self._source(parents), self.setting.model, config, meta, progress)

        return Job(
            kind="lm_eval",
            label=label,
            identity={"revision": REVISION, **harness.identity(config), **self._source_identity(model)},
            parents={} if model is None else {"model": model},
            do=do,
        )

    def _retain_log(self, retain_file: Path) -> tuple[Mapping[str, MetricResult], str]:
        """The results of a retain log that fits this setting, and its SHA-256; read once. Raises ConfigError."""
        if retain_file not in self._logs:
            n_forget = len(self.setting.benchmark.sets.get("forget_eval", ()))
            results = check_retain_file(retain_file, self.meta(), n_forget, self._tokenizer_mark)
            self._logs[retain_file] = results, file_sha256(retain_file)
        return self._logs[retain_file]

    def _tokenizer_mark(self) -> str | None:
        """The mark of the tokenizer this setting reads with; None where a job has yet to make it."""
        source = self.setting.model.tokenizer_source
        if source is None:
            return None
        return measuring.tokenizer_mark(load_tokenizer(source, self.setting.model.tokenizer_args))

    @property
    def eval_file(self) -> str:
        """The name of the results file, as the field knows it: TOFU_EVAL.json."""
        return f"{self.setting.benchmark.eval_name}_EVAL.json"

    def meta(self) -> dict[str, Any]:
        """What stands in a results file about what was measured; a retain log is checked against it."""
        benchmark = self.setting.benchmark
        return {
            "benchmark": benchmark.name,
            "forget_split": benchmark.split,
            "truth_ratio": self.evaluation.truth_ratio,
            "template": fingerprint(dataclasses.replace(self.setting.template, max_length=2)),
            "rows": {n: self._rows[n] for n in sorted({m.rows for m in benchmark.panel if m.rows})},
        }

    def _source(self, parents: Mapping[str, Path]) -> str:
        """Where a job's model lies: with its parent, or at the configured source."""
        return str(parents["model"]) if "model" in parents else str(self.setting.model.source)

    def _source_identity(self, start: Job | None) -> dict[str, Any]:
        """The template, the weights' type and, where no job made them, the model and the tokenizer."""
        model = self.setting.model
        out: dict[str, Any] = {"template": self.setting.template, "dtype": model.model_args.dtype}
        if start is None and model.source:
            out["model"] = source_identity(model.source, model.model_args.revision, model.model_args.adapter)
        if self._rendered is not None:
            out["rendered"] = self._rendered
        named = model.tokenizer_args.pretrained_model_name_or_path
        if named:
            out["tokenizer"] = tokenizer_identity(named, model.tokenizer_args.revision)
        return out
