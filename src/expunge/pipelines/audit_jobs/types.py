"""The job types of audits: models in 4 bits, analyses of a model, relearning, and the findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from expunge.audits import Analysis, AuditInputs, AuditOutputs, AuditPlan, RelearnSpec
from expunge.audits.api import opens_of
from expunge.benchmarks.metric_suite import FORGET, HOLDOUT
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import LATER
from expunge.engine.job import JobContext, keyed, shared, unkeyed
from expunge.metrics.results import write_results
from expunge.pipelines.audit_jobs.results import EVAL_NAME, probe_results, write_findings
from expunge.pipelines.study.context_source import ContextSource, RowsRef, derivation
from expunge.pipelines.study.task_config import TaskConfig
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study_jobs import READING
from expunge.pipelines.study_jobs.job_values import AuditRef, ModelInput, Panel, TaskJob
from expunge.training.config import TrainArgs

WITHOUT_WRAPPER = (
    "Audits of states and weights (lens, depth, probe, tamper, the states of forensic) read a wrapped model "
    "without its wrapper."
)


def audit_inputs(task: TaskConfig, setting: TaskContext) -> AuditInputs:
    """Return the rows that audits are made of. Raises ConfigError if the benchmark has nothing to forget."""
    benchmark, sets = setting.benchmark, setting.benchmark.sets
    name = FORGET if FORGET in sets else benchmark.forget_set
    if name not in sets:
        raise ConfigError(f"audits: benchmark={benchmark.name} has no rows to forget")
    return AuditInputs(
        forget=dataclasses.replace(sets[name], name=name),
        retain=sets.get(benchmark.retain_set),
        holdout=dataclasses.replace(sets[HOLDOUT], name=HOLDOUT) if HOLDOUT in sets else None,
        opens=opens_of(setting.template),
        samples=task.eval.sampling.samples,
    )


def audit_context(setting: TaskContext, audit_plan: AuditPlan) -> TaskContext:
    """Return the context of an audit's jobs: its own rows, and only the metrics of its probes."""
    benchmark = dataclasses.replace(
        setting.benchmark, sets=audit_plan.sets, panel=(), eval_name=EVAL_NAME, full_sets=(), retain_sets=()
    )
    return dataclasses.replace(setting, benchmark=benchmark)


@derivation("audit")
def _derived(setting: TaskContext, task: TaskConfig, args: Mapping[str, Any]) -> TaskContext:
    """Return the context of one audit, by its name and settings."""
    return audit_context(setting, AuditRef(args["name"], args["args"]).make().expand(audit_inputs(task, setting)))


def planned(source: ContextSource, audit: AuditRef) -> tuple[AuditInputs, AuditPlan]:
    """Return the inputs and the plan of an audit, recomputed from the task of its jobs."""
    inputs = audit_inputs(source.task, source.before.load())
    return inputs, audit.make().expand(inputs)


@dataclass(frozen=True)
class AnalysisRef:
    """An analysis by the name of its class, with its revision and all its settings."""

    name: str
    revision: int
    args: Mapping[str, Any]

    @classmethod
    def of(cls, analysis: Analysis) -> AnalysisRef:
        """Refer to an analysis."""
        settings = dataclasses.asdict(analysis)  # type: ignore[call-overload]
        return cls(type(analysis).__name__, analysis.revision, settings)

    @property
    def identity(self) -> Mapping[str, Any]:
        """The part of a key."""
        plain: dict[str, Any] = keyed({"name": self.name, "revision": self.revision, **self.args})
        return plain


@dataclass(frozen=True, eq=False, kw_only=True)
class Nf4Job(TaskJob):
    """A model's weights as 4-bit NormalFloat holds them."""

    kind: ClassVar[str] = "edit"

    model: ModelInput
    form: str

    @property
    def ephemeral(self) -> bool:
        """True: the weights may go after measurement."""
        return True

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Round the weights and save them."""
        from expunge.pipelines.audit_jobs.work import in_nf4

        return in_nf4(out, self.model_source(inputs), self.source.load(), context.progress)


@dataclass(frozen=True, eq=False, kw_only=True)
class AnalysisJob(TaskJob):
    """An analysis of the model itself. Parents: `model`, and the controls that the analysis compares with."""

    kind: ClassVar[str] = "inside"

    analysis: AnalysisRef
    rows: Mapping[str, RowsRef]
    given: tuple[str, ...]
    """Roles of the configured model."""
    model: ModelInput
    finished: Mapping[str, ModelInput] | None = dataclasses.field(default=None, metadata=LATER)
    """Finished models by role, in place of the configured one."""
    contexts: Mapping[str, ContextSource] = unkeyed(default_factory=dict)
    """The contexts of the finished models by role."""
    audit: AuditRef = unkeyed()
    probe: str = unkeyed()
    roles: tuple[str, ...] = unkeyed()
    meta: Mapping[str, Any] = shared()
    eval_file: str = unkeyed()

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Load the models that the analysis needs, and measure."""
        from expunge.evaluation.wrapping import without_wrapper
        from expunge.pipelines.study_jobs.work import open_trained

        setting = self.source.checked(self.rows.values())
        _, audit_plan = planned(self.source, self.audit)
        analysis = next(probe.change for probe in audit_plan.probes if probe.name == self.probe)
        if not isinstance(analysis, Analysis):
            raise ConfigError(f"{self.name}: the probe {self.probe} of {self.audit.name} is no analysis")
        settings = {role: self.contexts[role].load() if role in self.contexts else setting for role in self.roles}
        sources = {role: str(inputs.get(role, settings[role].model.source)) for role in self.roles}
        sets = {name: setting.benchmark.sets[name] for name in analysis.sets}
        encoder = setting.encoder(sources["model"])

        def load(role: str) -> Any:
            model = open_trained(sources[role], settings[role], encoder, out)[0]
            bare = without_wrapper(model)
            if bare is not model:
                facts[READING] = [WITHOUT_WRAPPER]
            return bare.eval()

        facts: dict[str, Any] = {}
        results = analysis.measure(load, sets, encoder)
        write_results(out, results, self.meta, prefix=self.eval_file.removesuffix("EVAL.json"))
        context.progress(1, 1)
        return {"results": len(results), **facts}


@dataclass(frozen=True)
class ScoredRows:
    """A set to score, and the answers to read."""

    rows: RowsRef
    tokens: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class RelearnJob(TaskJob):
    """A model trained on some rows, scored after several steps; its weights are not stored. Parent: `model`."""

    kind: ClassVar[str] = "relearn"

    trained: RowsRef
    scored: Mapping[str, ScoredRows]
    steps: tuple[int, ...]
    args: TrainArgs
    columns: tuple[str, ...]
    model: ModelInput
    change: RelearnSpec = unkeyed()

    @property
    def seed(self) -> int | None:
        """The seed of the training."""
        return self.args.seed

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Train, and score after the steps."""
        from expunge.pipelines.audit_jobs.work import relearn

        setting = self.source.checked([self.trained, *(one.rows for one in self.scored.values())])
        scored = {one.rows.name: one.tokens for one in self.scored.values()}
        return relearn(
            out, self.model_source(inputs), setting, self.change, scored, self.args, context.progress
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class AuditJob(TaskJob):
    """The findings of one audit on one model. Parents: `<model, retain or full> <probe>`."""

    kind: ClassVar[str] = "audit"

    audit: AuditRef
    rows: Mapping[str, RowsRef]
    samples: int
    panels: Mapping[str, Panel]

    def run(self, inputs: Mapping[str, Path], out: Path, context: JobContext) -> Mapping[str, Any]:
        """Compare the model's results with those of its controls."""
        self.source.checked(self.rows.values())
        ground, audit_plan = planned(self.source, self.audit)
        folders: dict[str, dict[str, Path]] = {}
        for role, folder in inputs.items():
            who, _, probe = role.partition(" ")
            folders.setdefault(who, {})[probe] = folder
        read = {who: probe_results(audit_plan, of) for who, of in folders.items()}
        findings = self.audit.make().read(ground, AuditOutputs(read["model"], read.get("retain"), read.get("full")))
        write_findings(out, findings)
        context.progress(1, 1)
        return {reading.name: reading.verdict for reading in findings.readings}
