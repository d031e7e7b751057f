"""The audits of `expunge erase` that fit into the budget, and their results with and without a control."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.audits import Audit, audit_registry, make_audit
from expunge.audits.relearn import RelearnAudit
from expunge.core.errors import ConfigError
from expunge.engine.job import Job
from expunge.engine.run import plan
from expunge.engine.store import Store
from expunge.metrics.equivalence import NOT_MEASURABLE, AuditFinding
from expunge.pipelines.audit_jobs.jobs import audit_jobs
from expunge.pipelines.audit_jobs.results import AuditEntry, AuditSubject, audit_lines
from expunge.pipelines.budget import Budget
from expunge.pipelines.erase.request import EraseRun
from expunge.pipelines.erase.search import Show, carry_on
from expunge.pipelines.erase.trials import TrialResult, weights_rate
from expunge.pipelines.study.config import MethodEntry
from expunge.report.model import AuditLine

MOST_RELEARNED = 8
WAYS = ("direct", "insist", "upper", "quoted", "plain", "paraphrased")
# A prompt with half of the answer gives away its form: a model that never saw the row continues most tokens as well. So
# its probability has a meaning only next to a control.
WITH_CONTROL = ("begun",)
# By information per cost, so that a short budget runs the first ones.
ORDER = ("prompting", "exposure", "relearn", "quantize")


@dataclass(frozen=True)
class AttackResult:
    """The result of an audit: readings against the controls, and numbers of the model before and after.

    uncontrolled: attack -> the model's number with its interval and that of the model before unlearning, if there is no
    control. reason: why the audit did not run.
    """

    name: str
    readings: tuple[AuditLine, ...] = ()
    uncontrolled: Mapping[str, AuditFinding] = dataclasses.field(default_factory=dict)
    reason: str = ""
    audited: AuditEntry | None = None


def entries(erasing: EraseRun) -> dict[str, dict[str, Any] | str]:
    """Return the settings of each audit in order, or the reason why it cannot run."""
    n_forget = len(erasing.search.setting.benchmark.sets["forget_eval"])
    prompts = WAYS if erasing.control is None else (*WAYS, *WITH_CONTROL)
    relearn: dict[str, Any] | str = "it trains on some of the rows and scores others, so it needs at least 4"
    if n_forget >= 4:
        steps = [0, 1, 2, 4, 8]
        ways = ["same_rows", "unrelated"]
        relearn = {"name": "relearn", "rows": min(MOST_RELEARNED, n_forget // 2), "ways": ways, "steps": steps}
    settings: dict[str, dict[str, Any] | str] = {
        "prompting": {"name": "prompting", "rouge": False, "ways": list(prompts)},
        "exposure": {"name": "exposure", "ways": ["direct", "upper", "plain"]},
        "relearn": relearn,
        "quantize": {"name": "quantize", "forms": ["int8", "int4"]},
    }
    return {name: settings[name] for name in ORDER if name in audit_registry()}


def run_audits(erasing: EraseRun, winner: TrialResult, store: Store, show: Show, budget: Budget) -> list[AttackResult]:
    """Run the audits that fit into the remaining budget, one after another."""
    out = []
    for name, entry in entries(erasing).items():
        if isinstance(entry, str):
            out.append(AttackResult(name, reason=entry))
            continue
        out.append(_run_audit(erasing, winner, name, entry, store, show, budget))
    return out


def audit_of(erasing: EraseRun, winner: TrialResult, entry: Mapping[str, Any]) -> tuple[AuditEntry, Audit]:
    """Return the job of one audit of the selected model, with the model before and the control."""
    own = {**erasing.request.study.unlearn, "learning_rate": weights_rate(erasing, winner.trial)}
    study = dataclasses.replace(
        erasing.request.study, audits=(entry,), unlearn=own, methods=(MethodEntry(trainer=winner.trial.method),)
    )
    subjects = [
        AuditSubject("after", "after", "unlearn", 0, 0, winner.job),
        AuditSubject("before", "before", "full", 0, None, None),
    ]
    if erasing.control is not None:
        subjects.append(AuditSubject("control", "control", "retain", 0, None, erasing.control))
    return audit_jobs(study, erasing.final, subjects)[0], make_audit(entry)


def _run_audit(
    erasing: EraseRun,
    winner: TrialResult,
    name: str,
    entry: Mapping[str, Any],
    store: Store,
    show: Show,
    budget: Budget,
) -> AttackResult:
    try:
        audited, audit = audit_of(erasing, winner, entry)
    except ConfigError as error:
        return AttackResult(name, reason=str(error))
    needed = seconds_of([audited.job, winner.job], store)
    if not store.there(audited.job) and needed > budget.left_s:
        why = f"not run: it takes about {needed:.0f} s, and {max(budget.left_s, 0):.0f} s of the budget were left"
        return AttackResult(name, reason=why)
    outcome = carry_on(f"audit {name}", [audited.job], store, show, budget=budget, until_s=budget.limit_s)
    if audited.job.key in outcome.failures:
        first = next(iter(outcome.failures.values()))
        return AttackResult(name, reason=first)
    readings = tuple(audit_lines(audited, store, audited.subject.seed))
    if erasing.control is None:
        readings = tuple(map(_bounded, readings))
    numbers = {} if erasing.control is not None else _numbers_of(audit, readings)
    return AttackResult(name, readings, numbers, audited=audited)


def seconds_of(jobs: list[Job], store: Store) -> float:
    """Return the estimated seconds of the unfinished jobs, by the speed of finished ones."""
    return sum(p.seconds or 0.0 for p in plan(jobs, store) if p.state != "hit")


def _bounded(line: AuditLine) -> AuditLine:
    """Return a reading without a control with its interval cut at 0 and 1: it is a mean of probabilities or shares."""
    return dataclasses.replace(line, low=min(max(line.low, 0.0), 1.0), high=min(max(line.high, 0.0), 1.0))


def _numbers_of(audit: Audit, readings: Sequence[AuditLine]) -> dict[str, AuditFinding]:
    """Return the findings by attack if there is no control to compare them with."""
    shown = {"worst_prob": "the worst prompt form"}
    if isinstance(audit, RelearnAudit):
        shown = {way: f"{way}, step {audit.steps[-1]}" for way in audit.ways}
    return {
        shown.get(one.name, one.name): one
        for one in readings
        if one.verdict == NOT_MEASURABLE and math.isfinite(one.value)
    }
