"""The jobs that make models: from scratch, by training and unlearning, and by editing weights; and what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expunge.engine.job import Job, JobContext, shared, unkeyed
from expunge.evaluation.config import Generation
from expunge.metrics.api import MetricResult
from expunge.metrics.results import read_results
from expunge.pipelines.study import work
from expunge.pipelines.study.context_source import FileRef, RowsRef, check_rows
from expunge.pipelines.study.job_values import EditRef, MethodRef, ModelInput, Panel, TaskJob
from expunge.pipelines.study.precomputed_references import IMPLIED, ReferenceSpec, compute_reference
from expunge.pipelines.study.requests import changed
from expunge.training.config import TrainArgs
from expunge.training.forward import ForwardSpec


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
    """What identifies the given tokenizer, if none is trained."""

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Build and save the model."""
        return work.base(out, self.source.checked(self.text), context.progress)


@dataclass(frozen=True)
class TrainEvaluation:
    """What evaluations during training read. losses: sets whose token loss is read. retain_log: the retain model's
    results, if they come from a file. generation: how texts are made, if any are."""

    panel: Panel
    rows: tuple[RowsRef, ...]
    losses: tuple[RowsRef, ...] = ()
    generation: Generation | None = None
    retain_log: FileRef | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainJob(TaskJob):
    """Training from a parent's model, or from the configured one.

    Parents: `model`, and what the method reads: `alternates`, `<side>_ref`, `<side>_teacher`, `retain_records`.
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
    """The parents with stored outputs of a reference or a teacher, and what each holds."""
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
        """Only the runs that read it need it."""
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
    """Other answers to the forget questions, sampled from the model that is to forget."""

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
class EditJob(TaskJob):
    """Weights made from other models' weights. Parents: `base` (else the configured model), `other_0`, ..."""

    kind: ClassVar[str] = "edit"

    edit: EditRef
    model: ModelInput | None = None
    """How the configured model is read, if no job made the base."""
    temporary: bool = False
    """Whether the weights may go once they are measured."""

    @property
    def ephemeral(self) -> bool:
        """Audits edit models only to measure them."""
        return self.temporary

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Edit and save the weights."""
        setting = self.source.load()
        models: dict[str, Path | str] = {"base": str(setting.model.source), **inputs}
        return work.apply_edit(out, models, setting, self.edit.make(), context.progress)


def parents_of(**jobs: Job | None) -> dict[str, Job]:
    """The parents that there are, by role."""
    return {role: job for role, job in jobs.items() if job is not None}
