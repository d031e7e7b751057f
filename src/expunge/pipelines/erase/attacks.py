"""The audits of `expunge erase`: which fit into the budget, and what they say with and without a control."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.audits import Audit, audit_registry, make_audit
from expunge.audits.api import AS_IT_IS
from expunge.core.errors import ConfigError
from expunge.engine.job import Job
from expunge.engine.run import plan
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.pipelines.audit_jobs.jobs import audit_jobs
from expunge.pipelines.audit_jobs.results import AuditEntry, AuditSubject, audit_lines, probe_results
from expunge.pipelines.audit_jobs.types import audit_inputs
from expunge.pipelines.erase.request import EraseRun
from expunge.pipelines.erase.search import BudgetClock, Show, TrialResult, carry_on
from expunge.pipelines.study.config import MethodEntry
from expunge.report.model import AuditLine

MOST_RELEARNED = 8
WAYS = ("direct", "insist", "upper", "quoted", "plain", "paraphrased", "begun")
# By how much they tell for their cost, so that a short budget holds the first ones.
ORDER = ("prompting", "exposure", "relearn", "quantize")
HEADLINE = {"prompting": "worst_prob", "relearn": "rest", "quantize": "forget"}  # what to read of a probe


@dataclass(frozen=True)
class AttackResult:
    """An audit that was held: its readings against the controls, and plain numbers of the model and of the one before.

    found: what was done -> (the model's number, that of the model before unlearning). reason: why it was not held.
    """

    name: str
    readings: tuple[AuditLine, ...] = ()
    found: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    reason: str = ""
    audited: AuditEntry | None = None


def entries(n_forget: int) -> dict[str, dict[str, Any] | str]:
    """The settings of each audit in the order they are held, or why it cannot be."""
    relearn: dict[str, Any] | str = "it trains on some of the rows and scores others; fewer than 4 are too few"
    if n_forget >= 4:
        steps = [0, 1, 2, 4, 8]
        ways = ["same_rows", "unrelated"]
        relearn = {"name": "relearn", "rows": min(MOST_RELEARNED, n_forget // 2), "ways": ways, "steps": steps}
    made: dict[str, dict[str, Any] | str] = {
        "prompting": {"name": "prompting", "rouge": False, "ways": list(WAYS)},
        "exposure": {"name": "exposure", "ways": ["direct", "upper", "plain"]},
        "relearn": relearn,
        "quantize": {"name": "quantize", "forms": ["int8", "int4"]},
    }
    return {name: made[name] for name in ORDER if name in audit_registry()}


def run_audits(
    erasing: EraseRun, chosen: TrialResult, store: Store, show: Show, clock: BudgetClock
) -> list[AttackResult]:
    """Hold the audits that fit into what is left of the budget, one after the other."""
    out = []
    for name, entry in entries(len(erasing.sets["forget"])).items():
        if isinstance(entry, str):
            out.append(AttackResult(name, reason=entry))
            continue
        out.append(_run_audit(erasing, chosen, name, entry, store, show, clock))
    return out


def audit_of(erasing: EraseRun, chosen: TrialResult, entry: Mapping[str, Any]) -> tuple[AuditEntry, Audit]:
    """The job of one audit of the chosen model, beside the model before and the control."""
    own = {**erasing.request.study.unlearn, "learning_rate": chosen.trial.learning_rate}
    study = dataclasses.replace(
        erasing.request.study, audits=(entry,), unlearn=own, methods=(MethodEntry(trainer=chosen.trial.method),)
    )
    subjects = [
        AuditSubject("after", "after", "unlearn", 0, 0, chosen.job),
        AuditSubject("before", "before", "full", 0, None, None),
    ]
    if erasing.control is not None:
        subjects.append(AuditSubject("control", "control", "retain", 0, None, erasing.control))
    return audit_jobs(study, erasing.final, subjects)[0], make_audit(entry)


def _run_audit(
    erasing: EraseRun,
    chosen: TrialResult,
    name: str,
    entry: Mapping[str, Any],
    store: Store,
    show: Show,
    clock: BudgetClock,
) -> AttackResult:
    try:
        audited, audit = audit_of(erasing, chosen, entry)
    except ConfigError as error:
        return AttackResult(name, reason=str(error))
    needed = seconds_of([audited.job, chosen.job], store)
    if not store.there(audited.job) and needed > clock.left_s:
        why = f"not held: it takes about {needed:.0f} s, and {max(clock.left_s, 0):.0f} s of the budget were left"
        return AttackResult(name, reason=why)
    outcome = carry_on(f"audit {name}", [audited.job], store, show, clock=clock, until_s=clock.budget_s)
    if audited.job.key in outcome.failures:
        first = next(iter(outcome.failures.values()))
        return AttackResult(name, reason=first)
    return AttackResult(
        name,
        tuple(audit_lines(audited, store, audited.subject.seed)),
        _found(erasing, audit, audited, store),
        audited=audited,
    )


def seconds_of(jobs: list[Job], store: Store) -> float:
    """What is to be done of some jobs, by the pace of those that are done."""
    return sum(p.seconds or 0.0 for p in plan(jobs, store) if p.state != "hit")


def _found(erasing: EraseRun, audit: Audit, audited: AuditEntry, store: Store) -> dict[str, tuple[float, float]]:
    """The headline number of each probe, of the model and of the one before; of relearning after its last step."""
    metric = HEADLINE.get(audited.name)
    if metric is None:
        return {}
    asked = audit.expand(audit_inputs(erasing.request.study, erasing.final.setting))
    sides = {}
    for who in ("model", "full"):
        jobs = {p.name: audited.job.parents[f"{who} {p.name}"] for p in asked.probes}
        sides[who] = probe_results(asked, {name: store.path(job) for name, job in jobs.items()})
    out = {}
    for probe, results in sides["model"].items():
        way, _, step = probe.partition("@")
        if step and probe != [p for p in sides["model"] if p.startswith(f"{way}@")][-1]:
            continue
        if not (audited.name == "quantize" and probe == AS_IT_IS):
            shown = "the worst way to ask" if audited.name == "prompting" else probe.replace("@", ", step ")
            out[shown] = (_value(results, metric), _value(sides["full"][probe], metric))
    return out


def _value(results: Mapping[str, MetricResult], name: str) -> float:
    return results[name].value if name in results else math.nan
