"""The jobs that create models: from scratch, by training, by unlearning, by weight edits and by wrappers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from expunge.core.on_use import ModuleOnUse
from expunge.engine.job import Job, JobContext, shared, unkeyed
from expunge.evaluation.config import Generation
from expunge.metrics.api import MetricResult
from expunge.pipelines.study.context_source import FileRef, RowsRef, check_rows
from expunge.pipelines.study.task_context import changed
from expunge.pipelines.study_jobs.job_values import EditRef, MethodRef, ModelInput, Panel, TaskJob, WrapperRef
from expunge.pipelines.study_jobs.precomputed_references import IMPLIED, ReferenceSpec, compute_reference
from expunge.training.config import TrainArgs
from expunge.training.phases import ForwardSpec

if TYPE_CHECKING:
    from expunge.data.examples import ExampleSet
    from expunge.pipelines.study.context_source import ContextSource
    from expunge.pipelines.study.task_context import TaskContext
    from expunge.pipelines.study_jobs import work
else:
    work = ModuleOnUse("expunge.pipelines.study_jobs.work")


@dataclass(frozen=True, eq=False, kw_only=True)
class BaseJob(TaskJob):
    """A tokenizer and a freshly initialised model."""

    kind: ClassVar[str] = "base"

    preset: Mapping[str, Any]
    vocab_size: int | None
    init_seed: int
    text: tuple[RowsRef, ...] = ()
    """The rows that the tokenizer is trained on."""
    tokenizer: Mapping[str, Any] | None = None
    """Identity of the benchmark's tokenizer, if none is trained."""

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Build and save the model."""
        return work.base(out, self.source.checked(self.text), context.progress)


@dataclass(frozen=True)
class TrainEvaluation:
    """The inputs of evaluations during training.

    losses: sets whose token loss is read. retain_log: the retain model's results, if they come from a file.
    generation: the settings of generated texts, if any.
    """

    panel: Panel
    rows: tuple[RowsRef, ...]
    losses: tuple[RowsRef, ...] = ()
    generation: Generation | None = None
    retain_log: FileRef | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainJob(TaskJob):
    """Training from a parent's model, or from the configured one.

    Parents: `model`, and the inputs of the method: `alternates`, `<side>_ref`, `<side>_teacher`, `retain_records`.
    """

    kind: ClassVar[str] = "train"
    excluded_from_key: ClassVar[frozenset[str]] = IMPLIED

    objective: MethodRef
    args: TrainArgs
    rows: Mapping[str, tuple[RowsRef, ...]]
    """The sets of each side."""
    model: ModelInput
    refusals: tuple[str, ...] | None = None
    evaluation: TrainEvaluation | None = None
    references: Mapping[str, ForwardSpec] = unkeyed(default_factory=dict)
    """The parents with stored outputs of a reference or a teacher, and the spec of each."""
    generation: Generation = shared(default_factory=Generation)

    @property
    def resumable(self) -> bool:
        """A training run continues from its checkpoints."""
        return True

    @property
    def collective(self) -> bool:
        """All processes of a launch train together."""
        return True

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.args.seed

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Train and save the model."""
        setting = self.source.checked((ref for refs in self.rows.values() for ref in refs), self.refusals)
        retain: Path | Mapping[str, MetricResult] | None = inputs.get("retain_records")
        if self.evaluation is not None:
            watched = setting.watched or setting.benchmark
            for ref in self.evaluation.rows:
                check_rows(watched.sets, ref)
            if retain is None and self.evaluation.retain_log is not None:
                from expunge.metrics.results import read_results

                retain = read_results(self.evaluation.retain_log.checked())[0]
        return work.fit(
            out, self.model_source(inputs), setting, self.objective.make(),
            {side: tuple(ref.name for ref in refs) for side, refs in self.rows.items()}, self.args, context.progress,
            alternates=inputs.get("alternates"),
            references={r.removesuffix("_ref"): (inputs[r], what) for r, what in self.references.items()},
            retain=retain, generation=self.generation, checkpoints=context.checkpoints, label=self.label,
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class UnlearnJob(TrainJob):
    """Unlearning: a training with a forget term."""

    kind: ClassVar[str] = "unlearn"


@dataclass(frozen=True, eq=False, kw_only=True)
class ReferenceJob(TaskJob):
    """Outputs of one model on some rows, computed once for all runs that read them."""

    kind: ClassVar[str] = "reference"

    rows: tuple[RowsRef, ...]
    spec: ReferenceSpec
    model: ModelInput
    refusals: tuple[str, ...] | None = None

    @property
    def ephemeral(self) -> bool:
        """True: only the runs that read it need it."""
        return True

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Run the model on the rows and store its outputs."""
        setting = self.source.checked(self.rows, self.refusals)
        alternates = inputs.get("alternates")
        return compute_reference(
            out, self.model_source(inputs), setting, self.spec, context.progress, alternates=alternates
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class AlternatesJob(TaskJob):
    """Other answers to the forget questions, sampled from the start model."""

    kind: ClassVar[str] = "alternates"

    rows: RowsRef
    generation: Generation
    refusals: tuple[str, ...]
    model: ModelInput

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Sample the answers."""
        setting = changed(self.source.checked([self.rows], self.refusals), forget_set=self.rows.name)
        return work.alternates(out, self.model_source(inputs), setting, self.generation, context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class FileAlternatesJob(TaskJob):
    """Other answers to the forget questions, from a file of the user."""

    kind: ClassVar[str] = "alternates"

    rows: RowsRef
    file: FileRef
    column: str

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Copy the answers in the order of the questions."""
        from expunge.data.alternates import read_alternates

        setting = self.source.checked([self.rows])
        answers = read_alternates(self.file.checked(), self.column).of(setting.benchmark.sets[self.rows.name])
        work.write_alternates(out, answers)
        return {}


@dataclass(frozen=True, eq=False, kw_only=True)
class EditJob(TaskJob):
    """Weights made from other models' weights. Parents: `base` (else the configured model), `other_0`, ..."""

    kind: ClassVar[str] = "edit"

    edit: EditRef
    model: ModelInput | None = None
    """The settings of the configured model, if no job creates the base."""
    temporary: bool = False
    """Whether the weights may go after measurement."""

    @property
    def ephemeral(self) -> bool:
        """Audits edit models only to measure them."""
        return self.temporary

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Edit and save the weights."""
        setting = self.source.load()
        models: dict[str, Path | str] = {"base": str(setting.model.source), **inputs}
        return work.apply_edit(out, models, setting, self.edit.make(), context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class StatisticsEditJob(TaskJob):
    """Weights edited with hidden states of their model. Parent: `model` (else the configured model)."""

    kind: ClassVar[str] = "edit"

    edit: EditRef
    rows: Mapping[str, tuple[RowsRef, ...]]
    """The rows of the sides "forget" and "retain"."""
    refusals: tuple[str, ...]
    model: ModelInput

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Read the hidden states, edit and save the weights."""
        setting, sides = _sides(self.source, self.rows, self.refusals)
        return work.edit_with_statistics(
            out, self.model_source(inputs), setting, self.edit.make(), sides, context.progress
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class WrapJob(TaskJob):
    """A model with a wrapper around it. Parents: `model` (else the configured model), and the helpers that it reads."""

    kind: ClassVar[str] = "wrap"

    wrapper: WrapperRef
    rows: Mapping[str, tuple[RowsRef, ...]]
    """The rows of the sides "forget" and "retain", which the wrapper may read."""
    refusals: tuple[str, ...]
    model: ModelInput

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Compute the wrapper's tensors, and save it with the model."""
        setting, sides = _sides(self.source, self.rows, self.refusals)
        source, rule = self.model_source(inputs), self.wrapper.make()
        from expunge.models.wrapper_api import wrapper_registry

        helpers = [inputs[role] for role in wrapper_registry()[self.wrapper.name].helpers]
        return work.wrap_model(out, source, setting, rule, sides, helpers, context.progress, label=self.label)


def _sides(
    source: ContextSource, rows: Mapping[str, Sequence[RowsRef]], refusals: tuple[str, ...]
) -> tuple[TaskContext, dict[str, list[ExampleSet]]]:
    """Load the task with checked rows. Returns its context, and the sets of each side."""
    setting = source.checked([ref for refs in rows.values() for ref in refs], refusals)
    return setting, {side: [setting.benchmark.sets[ref.name] for ref in refs] for side, refs in rows.items()}


def parents_of(**jobs: Job | None) -> dict[str, Job]:
    """Return the parents that are not None, by role."""
    return {role: job for role, job in jobs.items() if job is not None}
