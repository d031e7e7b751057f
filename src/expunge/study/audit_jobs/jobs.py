"""Audits as jobs: what an audit asks for is done to each unlearned model and to its controls, then read."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.audits import (
    Analysis,
    Audit,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Change,
    Nf4Spec,
    RelearnSpec,
    audit_identity,
    make_audit,
)
from expunge.audits.api import audit_name
from expunge.benchmarks.metric_suite import FORGET, HOLDOUT
from expunge.core.errors import ConfigError
from expunge.data.examples import ExampleSet
from expunge.metrics.api import Metric
from expunge.metrics.compute import identity as panel_identity
from expunge.metrics.results import write_results
from expunge.study import measuring, work
from expunge.study.audit_jobs.results import EVAL_NAME, AuditEntry, AuditSubject, probe_results, write_told
from expunge.study.audit_jobs.work import in_nf4, relearn, relearn_args
from expunge.study.config import StudyConfig
from expunge.study.evaluation_jobs import REVISION
from expunge.study.job import Job, Progress
from expunge.study.task_context import TaskContext
from expunge.study.training_jobs import TrainingJobs

CONTROLS = ("retain", "full")


def check_audits(study: StudyConfig) -> list[Audit]:
    """The audits of a study. Raises ConfigError for a wrong name or setting, or where they cannot be held."""
    made = [make_audit(entry, f"audits[{i}]") for i, entry in enumerate(study.audits)]
    if made and not study.methods:
        raise ConfigError("audits: there is nothing to audit; name `methods`")
    for i, audit in enumerate(made):
        if "nf4" in getattr(audit, "forms", ()) and importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(f"audits[{i}].forms: nf4 needs bitsandbytes; pip install 'expunge[quant]'")
    return made


def audited(label: str, links: Mapping[str, str], sets: Mapping[str, ExampleSet], whole: str) -> bool:
    """Whether a model of this label is audited: of a chain of requests, the last alone, which was to forget all rows.

    links: the forget sets by the names of their requests; whole: the set they are parts of. Raises ConfigError where
    the requests leave forget rows out, which no model was asked to forget.
    """
    if "" in links:
        return True
    n, of = sum(len(sets[name]) for name in links.values()), len(sets[whole])
    if n < of:
        raise ConfigError(
            f"audits: the requests name {n} of {of} forget rows, and audits read all; name every row once"
        )
    return "@" not in label or label.endswith(f"@{list(links)[-1]}")


def audit_jobs(study: StudyConfig, setting: TaskContext, subjects: Sequence[AuditSubject]) -> tuple[AuditEntry, ...]:
    """A job for each audit and unlearned model, above the probes of the model and of its controls.

    Raises ConfigError where the rows do not allow what an audit asks for.
    """
    out: list[AuditEntry] = []
    audits = check_audits(study)
    if not audits:
        return ()
    names = [audit_name(audit) for audit in audits]
    ground = audit_inputs(study, setting)
    for i, audit in enumerate(audits):
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} {names[: i + 1].count(names[i])}"
        asked = audit.expand(ground)
        maker = _AuditJobs(study, setting, asked)
        beside = {(s.train_seed, s.role): s for s in subjects if s.role in CONTROLS}
        probes = {
            subject.name: maker.probes(subject, {role: beside.get((subject.train_seed, role)) for role in CONTROLS})
            for subject in subjects
        }
        for subject in subjects:
            if subject.role != "unlearn":
                continue
            sides = {
                s.role: probes[s.name] for s in subjects if s.role in CONTROLS and s.train_seed == subject.train_seed
            }
            job = maker.told(f"{subject.name} {name}", audit, ground, {"model": probes[subject.name], **sides})
            out.append(AuditEntry(name, subject, job))
    return tuple(out)


def audit_inputs(study: StudyConfig, setting: TaskContext) -> AuditInputs:
    """The rows that audits are made of. Raises ConfigError if the benchmark has nothing to forget."""
    benchmark, template = setting.benchmark, setting.template
    sets = benchmark.sets
    name = FORGET if FORGET in sets else benchmark.forget_set
    if name not in sets:
        raise ConfigError(f"audits: benchmark={benchmark.name} has no rows to forget")
    tags = (template.user_start_tag, template.user_end_tag + template.asst_start_tag)
    return AuditInputs(
        forget=dataclasses.replace(sets[name], name=name),
        retain=sets.get(benchmark.retain_set),
        holdout=dataclasses.replace(sets[HOLDOUT], name=HOLDOUT) if HOLDOUT in sets else None,
        opens=("", "\n") if template.apply_chat_template else tags,
        samples=study.eval.sampling.samples,
    )


class _AuditJobs(TrainingJobs):
    """Makes the jobs of one audit: over its own rows, with the panels of its probes."""

    def __init__(self, study: StudyConfig, setting: TaskContext, asked: AuditPlan) -> None:
        benchmark = dataclasses.replace(
            setting.benchmark, sets=asked.sets, panel=(), eval_name=EVAL_NAME, full_sets=(), retain_sets=()
        )
        super().__init__(dataclasses.replace(setting, benchmark=benchmark), study.eval)
        self._study, self._asked = study, asked

    def probes(self, subject: AuditSubject, controls: Mapping[str, AuditSubject | None]) -> dict[str, Job]:
        """What is measured of one model, by probe; what needs a control that is not there is left out."""
        return {
            probe.name: self._probe(subject, probe, controls)
            for probe in self._asked.probes
            if not isinstance(probe.change, Analysis) or all(controls[role] for role in probe.change.beside)
        }

    def _probe(self, subject: AuditSubject, probe: AuditProbe, controls: Mapping[str, AuditSubject | None]) -> Job:
        label = f"{subject.name} {probe.name}"
        if isinstance(probe.change, Analysis):
            beside = {role: held.model for role in probe.change.beside if (held := controls[role])}
            return self._looked(label, subject.model, probe.change, beside)
        if isinstance(probe.change, RelearnSpec):
            return self._relearned(label, subject.model, probe.change, probe.panel)
        model = self._changed(label, subject.model, probe.change)
        maker = _with_panel(self, probe.panel)
        return maker.metrics(label, maker.records(label, model), None)

    def _changed(self, label: str, model: Job | None, change: Change) -> Job | None:
        """The job that makes a changed model; its weights may go when they have been scored."""
        if change is None or isinstance(change, RelearnSpec | Analysis):
            return model
        if isinstance(change, Nf4Spec):
            job = Job(
                kind="edit",
                label=label,
                identity={"revision": REVISION, "edit": {"name": "nf4"}, **self._source_identity(model)},
                parents={} if model is None else {"model": model},
                do=lambda folder, parents, progress: in_nf4(folder, self._source(parents), self.setting, progress),
            )
        else:
            job = self.edited(label, change, model, ())
        # a method of the study may be the same edit, under another name
        return dataclasses.replace(job, identity={**job.identity, "audit": True}, passing=True)

    def _looked(self, label: str, model: Job | None, look: Analysis, beside: Mapping[str, Job | None]) -> Job:
        """Something read off the model itself, with the controls it asks for at hand."""
        parents = {"model": model, **beside}

        def do(folder: Path, found: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            sources = {role: str(found.get(role, self.setting.model.source)) for role in parents}
            sets = {name: self.setting.benchmark.sets[name] for name in look.sets}
            encoder = self.setting.encoder(sources["model"])

            def load(role: str) -> Any:
                return work.load_trained(sources[role], self.setting).eval()

            results = look.measure(load, sets, encoder)
            write_results(folder, results, self.meta(), prefix=self.eval_file.removesuffix("EVAL.json"))
            progress(1, 1)
            return {"results": len(results)}

        given = [role for role, job in parents.items() if job is None]
        return Job(
            kind="inside",
            label=label,
            identity={
                "revision": REVISION,
                "look": {"name": type(look).__name__, "revision": look.revision, **dataclasses.asdict(look)},  # type: ignore[call-overload]
                "rows": {name: self._rows[name] for name in look.sets},
                "given": given,
                **self._source_identity(None if given else model),
            },
            parents={role: job for role, job in parents.items() if job is not None},
            do=do,
            estimate=self._sizes.read(look.sets, sum(len(self.setting.benchmark.sets[n]) for n in look.sets)),
        )

    def _relearned(self, label: str, model: Job | None, change: RelearnSpec, panel: Sequence[Metric]) -> Job:
        args = relearn_args(change, self._study)
        scored = {m.rows: m.tokens for m in panel if m.rows}
        identity = {
            "revision": REVISION,
            "trained": self._rows[change.rows],
            "scored": {name: [self._rows[name], tokens] for name, tokens in scored.items()},
            "steps": change.steps,
            "args": args.identity,
            "columns": measuring.COLUMNS["tokens"],
            **self._source_identity(model),
        }

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            return relearn(folder, self._source(parents), self.setting, change, scored, args, progress)

        return Job(
            kind="relearn",
            label=label,
            identity=identity,
            parents={} if model is None else {"model": model},
            do=do,
            estimate=self._sizes.fit({"retain": (change.rows,)}, args),
        )

    def told(self, label: str, audit: Audit, ground: AuditInputs, sides: Mapping[str, Mapping[str, Job]]) -> Job:
        """The reading of all that was measured of a model and its controls."""
        parents = {f"{who} {probe}": job for who, jobs in sides.items() for probe, job in jobs.items()}
        panels = {probe.name: panel_identity(probe.panel) for probe in self._asked.probes}

        def do(folder: Path, found: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            read = {
                who: probe_results(self._asked, {probe: found[f"{who} {probe}"] for probe in jobs})
                for who, jobs in sides.items()
            }
            told = audit.read(ground, AuditOutputs(read["model"], read.get("retain"), read.get("full")))
            write_told(folder, told)
            progress(1, 1)
            return {reading.name: reading.verdict for reading in told.readings}

        identity = {
            "revision": REVISION,
            "audit": audit_identity(audit),
            "ground": {"rows": dict(sorted(self._rows.items())), "samples": ground.samples},
            "panels": panels,
        }
        return Job(kind="audit", label=label, identity=identity, parents=parents, do=do)


def _with_panel(maker: _AuditJobs, panel: Sequence[Metric]) -> TrainingJobs:
    benchmark = dataclasses.replace(maker.setting.benchmark, panel=tuple(panel))
    return TrainingJobs(dataclasses.replace(maker.setting, benchmark=benchmark), maker.evaluation)
