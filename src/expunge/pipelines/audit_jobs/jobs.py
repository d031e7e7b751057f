"""Audits as jobs: probes of each unlearned model and its controls, and a job that compares them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from expunge.audits import (
    Analysis,
    Audit,
    AuditInputs,
    AuditPlan,
    AuditProbe,
    Change,
    Nf4Spec,
    RelearnSpec,
    make_audit,
)
from expunge.audits.api import numbered_names
from expunge.audits.changes import check_forms, relearn_args
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.engine.job import Job
from expunge.evaluation.kinds import find_kind
from expunge.metrics.api import Metric
from expunge.pipelines.audit_jobs import types
from expunge.pipelines.audit_jobs.results import AuditEntry, AuditSubject
from expunge.pipelines.audit_jobs.types import (
    AnalysisJob,
    AnalysisRef,
    AuditJob,
    Nf4Job,
    RelearnJob,
    ScoredRows,
    audit_context,
    audit_inputs,
)
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study_jobs.job_values import AuditRef, Panel
from expunge.pipelines.study_jobs.model_jobs import parents_of
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs
from expunge.training.config import TrainArgs

CONTROLS = ("retain", "full")


def check_audits(study: StudyConfig) -> list[Audit]:
    """Return the audits of a study. Raises ConfigError for a wrong name or setting, or if they cannot run."""
    audits = [make_audit(entry, f"audits[{i}]") for i, entry in enumerate(study.audits)]
    if audits and not study.methods and not any(model.role == "unlearn" for model in study.finished_models):
        raise ConfigError(
            "audits: there is nothing to audit; name `methods`, or `finished_models` with the role unlearn"
        )
    for i, audit in enumerate(audits):
        check_forms(audit, f"audits[{i}]")
    return audits


def audited(label: str, links: Mapping[str, str], sets: Mapping[str, ExampleSet], whole: str) -> bool:
    """Return whether a model of this label is audited: of a chain of requests only the last, which forgets all rows.

    links: the forget sets by the names of their requests; whole: the set they are parts of. Raises ConfigError where
    the requests omit forget rows, which no model unlearns.
    """
    if "" in links:
        return True
    n, of = sum(len(sets[name]) for name in links.values()), len(sets[whole])
    if n < of:
        raise ConfigError(
            f"audits: the requests name {n} of {of} forget rows, and audits read all; name every row once"
        )
    return "@" not in label or label.endswith(f"@{list(links)[-1]}")


def audit_jobs(study: StudyConfig, maker: TrainingJobs, subjects: Sequence[AuditSubject]) -> tuple[AuditEntry, ...]:
    """Return a job for each audit and unlearned model, above the probes of the model and of its controls.

    Raises ConfigError if the rows do not suffice for an audit.
    """
    out: list[AuditEntry] = []
    audits = check_audits(study)
    if not audits:
        return ()
    ground = audit_inputs(study, maker.setting)
    for name, audit in zip(numbered_names(audits), audits, strict=True):
        ref, audit_plan = AuditRef.of(audit), audit.expand(ground)
        jobs = {s.name: _AuditJobs(study, s.jobs or maker, ref, audit_plan, ground) for s in subjects}
        beside = {(s.train_seed, s.role): s for s in subjects if s.role in CONTROLS}
        probes = {
            s.name: jobs[s.name].probes(s, {role: beside.get((s.train_seed, role)) for role in CONTROLS})
            for s in subjects
        }
        for subject in subjects:
            if subject.role != "unlearn":
                continue
            sides = {
                s.role: probes[s.name] for s in subjects if s.role in CONTROLS and s.train_seed == subject.train_seed
            }
            job = jobs[subject.name].findings(f"{subject.name} {name}", {"model": probes[subject.name], **sides})
            out.append(AuditEntry(name, subject, job))
    return tuple(out)


class _AuditJobs(TrainingJobs):
    """Creates the jobs of one audit: over its own rows, with the metrics of its probes."""

    def __init__(
        self, study: StudyConfig, maker: TrainingJobs, audit: AuditRef, audit_plan: AuditPlan, inputs: AuditInputs
    ) -> None:
        setting = audit_context(maker.setting, audit_plan)
        source = maker.source.then("audit", {"name": audit.name, "args": audit.args}, module=types.__name__)
        super().__init__(setting, study.eval, source.holding(setting))
        self._study, self._audit, self._asked, self._inputs = study, audit, audit_plan, inputs

    def probes(self, subject: AuditSubject, controls: Mapping[str, AuditSubject | None]) -> dict[str, Job]:
        """Return the measurements of one model by probe, without probes that need a missing control."""
        return {
            probe.name: self._probe(subject, probe, controls)
            for probe in self._asked.probes
            if not isinstance(probe.change, Analysis) or all(controls[role] for role in probe.change.beside)
        }

    def _probe(self, subject: AuditSubject, probe: AuditProbe, controls: Mapping[str, AuditSubject | None]) -> Job:
        label = f"{subject.name} {probe.name}"
        if isinstance(probe.change, Analysis):
            beside = {role: node for role in probe.change.beside if (node := controls[role])}
            return self._analysed(label, subject, probe, probe.change, beside)
        if isinstance(probe.change, RelearnSpec):
            return self._relearned(label, subject.model, probe.change, probe.panel)
        model = self._changed(label, subject.model, probe.change)
        maker = _with_panel(self, probe.panel)
        return maker.metrics(label, maker.records(label, model), None)

    def _changed(self, label: str, model: Job | None, change: Change) -> Job | None:
        """Return the job of a changed model. Its weights may go after scoring."""
        if change is None or isinstance(change, RelearnSpec | Analysis):
            return model
        if isinstance(change, Nf4Spec):
            return Nf4Job(
                label=label,
                parents=parents_of(model=model),
                source=self.source,
                model=self.model_input(model),
                form="nf4",
            )
        return self.edited(label, change, model, (), temporary=True)

    def _analysed(
        self, label: str, subject: AuditSubject, probe: AuditProbe, change: Analysis, beside: Mapping[str, AuditSubject]
    ) -> Job:
        """Return the job of an analysis of the model itself, with the controls that it needs."""
        parents = {"model": subject.model, **{role: node.model for role, node in beside.items()}}
        configured_roles = tuple(role for role, job in parents.items() if job is None)
        finished = {role: node.jobs for role, node in beside.items() if node.jobs is not None}
        n_rows = sum(len(self.setting.benchmark.sets[n]) for n in change.sets)
        return AnalysisJob(
            label=label,
            parents=parents_of(**parents),
            source=self.source,
            analysis=AnalysisRef.of(change),
            rows={name: self._ref(name) for name in change.sets},
            given=configured_roles,
            finished={role: jobs.model_input(None) for role, jobs in finished.items()} or None,
            contexts={role: jobs.source for role, jobs in finished.items()},
            model=self.model_input(None if configured_roles else subject.model),
            audit=self._audit,
            probe=probe.name,
            roles=tuple(parents),
            meta=self.meta(),
            eval_file=self.eval_file,
            estimate=self._sizes.read(change.sets, round(change.passes * n_rows)),
        )

    def _relearned(self, label: str, model: Job | None, change: RelearnSpec, panel: Sequence[Metric]) -> Job:
        args = relearn_args(change, decode(TrainArgs, dict(self._study.unlearn), where="unlearn"))
        scored = {m.rows: m.tokens for m in panel if m.rows}
        return RelearnJob(
            label=label,
            parents=parents_of(model=model),
            source=self.source,
            trained=self._ref(change.rows),
            scored={name: ScoredRows(self._ref(name), tuple(tokens)) for name, tokens in scored.items()},
            steps=change.steps,
            args=args,
            columns=tuple(find_kind("tokens").key),
            model=self.model_input(model),
            change=change,
            estimate=self._sizes.fit({"retain": (change.rows,)}, args),
        )

    def findings(self, label: str, sides: Mapping[str, Mapping[str, Job]]) -> Job:
        """Return the job of the findings from all measurements of a model and its controls."""
        return AuditJob(
            label=label,
            parents={f"{who} {probe}": job for who, jobs in sides.items() for probe, job in jobs.items()},
            source=self.source,
            audit=self._audit,
            rows={name: self._ref(name) for name in sorted(self.setting.benchmark.sets)},
            samples=self._inputs.samples,
            panels={probe.name: Panel(probe.panel) for probe in self._asked.probes},
        )


def _with_panel(maker: _AuditJobs, panel: Sequence[Metric]) -> TrainingJobs:
    benchmark = dataclasses.replace(maker.setting.benchmark, panel=tuple(panel))
    return TrainingJobs(dataclasses.replace(maker.setting, benchmark=benchmark), maker.evaluation, maker.source)
