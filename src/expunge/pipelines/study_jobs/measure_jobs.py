"""The jobs that measure models: records of rows, the metric suite over them, and lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.benchmarks import Limits
from expunge.core.on_use import ModuleOnUse
from expunge.engine.job import Job, JobContext, shared, unkeyed
from expunge.evaluation.config import Generation
from expunge.evaluation.kinds import RecordPart
from expunge.models.config import ModelConfig
from expunge.pipelines.study.context_source import FileRef, RowsRef
from expunge.pipelines.study.task_config import LmEval
from expunge.pipelines.study_jobs.job_values import ModelInput, Panel, TaskJob

if TYPE_CHECKING:
    from expunge.pipelines.study_jobs import harness, measuring
else:
    harness = ModuleOnUse("expunge.pipelines.study_jobs.harness")
    measuring = ModuleOnUse("expunge.pipelines.study_jobs.measuring")

LOADED = "loaded model"  # in the memory of a run: the settings of the model, and its cache


def model_cache(context: JobContext, model: ModelConfig) -> measuring.ModelCache:
    """Return the model that the last job loaded for scoring, so that consecutive jobs of one model load it once."""
    settings, cache = context.memory.get(LOADED, (None, None))
    if settings != model or cache is None:
        drop_model(context)
        cache = measuring.ModelCache()
        context.memory[LOADED] = model, cache
    cached: measuring.ModelCache = cache
    return cached


def drop_model(context: JobContext) -> None:
    """Release the loaded model."""
    if LOADED in context.memory:
        context.memory.pop(LOADED)[1].drop()


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreJob(TaskJob):
    """One kind of records of one set of rows. The key covers only the settings of these records."""

    kind: ClassVar[str] = "score"

    records: str
    rows: RowsRef
    columns: tuple[str, ...]
    """The columns of the records. Records with other columns are computed again."""
    reads: tuple[str, ...] = ()
    """The answers that are scored."""
    generation: Generation | None = None
    limits: Limits | None = None
    original: Mapping[str, Any] | None = None
    """Identity of the original model of an agreement, if no job trains it."""
    model: ModelInput
    part: RecordPart = unkeyed()
    how: Generation = shared()
    original_source: str | None = unkeyed(default=None)

    @property
    def collective(self) -> bool:
        """True: the processes of a launch divide the rows."""
        return self.part.spec.collective

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Score the rows with the model."""
        setting = self.source.checked([self.rows])
        cache = model_cache(context, setting.model)
        original = inputs.get("original", self.original_source)
        source = self.model_source(inputs)
        return measuring.score(
            out, source, setting, self.part, self.how, cache, context.progress,
            original=None if original is None else str(original),
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarityJob(TaskJob):
    """The similarity of stored generations to answers. Parent: `texts`."""

    kind: ClassVar[str] = "score"

    records: str
    rows: RowsRef
    reads: tuple[str, ...]
    embedder: Mapping[str, Any]
    embedder_source: str = unkeyed()
    part: RecordPart = unkeyed()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Compare the texts."""
        setting = self.source.checked([self.rows])
        return measuring.compare_texts(
            out, inputs["texts"], setting, self.part, self.embedder_source, context.progress
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class JudgementsJob(TaskJob):
    """A judge's scores of stored generations. Parent: `texts`."""

    kind: ClassVar[str] = "score"

    records: str
    rows: RowsRef
    judge: Mapping[str, Any]
    """Identity of the judge."""
    settings: Mapping[str, Any] = unkeyed()
    part: RecordPart = unkeyed()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Score the texts."""
        setting = self.source.checked([self.rows])
        return measuring.judge_generations(out, inputs["texts"], setting, self.part, self.settings, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordsJob(Job):
    """All records of one model, as links to its parts. Parents: the parts by file name."""

    kind: ClassVar[str] = "records"
    revision: ClassVar[int] = 2  # 1 gave the files the names of the sets that were scored first
    shares_task: ClassVar[Any] = "parents"

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Collect the parts, and release the loaded model after the last one."""
        drop_model(context)
        return measuring.gather(out, inputs)


@dataclass(frozen=True, eq=False, kw_only=True)
class MetricsJob(TaskJob):
    """The panel over a model's records.

    Parents: `records`; `retain`, the retain model's metrics; `shadow_0`, ...: records of other retain models.
    """

    kind: ClassVar[str] = "metrics"
    shares_task: ClassVar[Any] = "level"

    panel: Panel
    retain_log: FileRef | None = None
    """The retain model's results, if they come from a file."""
    meta: Mapping[str, Any] = shared()
    """The rows, the template and the benchmark in the results file."""
    eval_file: str = unkeyed()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Compute the metrics."""
        from expunge.metrics.results import read_results

        setting = self.source.checked(RowsRef(name, mark) for name, mark in self.meta["rows"].items())
        retain = None
        if "retain" in inputs:
            retain = read_results(inputs["retain"] / self.eval_file)[0]
        elif self.retain_log is not None:
            retain = read_results(self.retain_log.checked())[0]
        others = [path for role, path in inputs.items() if role.startswith("shadow_")]
        facts = measuring.measure(out, inputs["records"], setting, self.panel.metrics, retain, self.meta, others)
        context.progress(1, 1)
        return facts


@dataclass(frozen=True, eq=False, kw_only=True)
class HarnessJob(TaskJob):
    """Tasks of lm-evaluation-harness on a model."""

    kind: ClassVar[str] = "lm_eval"

    asked: Mapping[str, Any]
    """The tasks, their settings and the version of the harness."""
    model: ModelInput
    config: LmEval = shared()
    model_config: ModelConfig = shared()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Run the tasks."""
        meta = {"benchmark": "lm_eval", "tasks": list(self.config.names)}
        source = str(inputs.get("model", self.model_config.source))
        return harness.measure_tasks(
            out, source, self.model_config, self.config, meta, context.progress
        )  # fmt: skip
