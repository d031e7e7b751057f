"""The verdict on an erasure: against a model that never saw the rows, or else against the stated target."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import NOT_MEASURABLE, UNDECIDED, AuditFinding, interval_alone
from expunge.metrics.utility import utility_answer
from expunge.metrics.verdict import (
    DAMAGED,
    DIRECT,
    KEPT,
    Verdict,
    VerdictAnswer,
    direct_findings,
    make_verdict,
    number_with_interval,
)
from expunge.models.config import model_name
from expunge.pipelines.erase.attacks import AttackResult
from expunge.pipelines.erase.general import ability_changes, gibberish_in
from expunge.pipelines.erase.goal_values import GoalValue
from expunge.pipelines.erase.goals import BeforeAfter, ability_goal, forgetting_goal
from expunge.pipelines.erase.request import UTILITY, EraseRun
from expunge.pipelines.erase.rows import KNOWN

NO_CONTROL = "there is no model that never saw the rows to compare it with"


def erase_verdict(erasing: EraseRun, measured: BeforeAfter, attacks: Sequence[AttackResult]) -> Verdict:
    """Return the verdict on the new model, with the model before as the target model."""
    control: list[Mapping[str, MetricResult]] = [] if measured.control is None else [measured.control]
    findings = [(DIRECT, one) for one in direct_findings([measured.after], control, [measured.before])]
    findings += [(attack.name, reading) for attack in attacks for reading in attack.readings]
    findings += [(attack.name, AuditFinding(attack.name, note=attack.reason)) for attack in attacks if attack.reason]
    utility = utility_answer([measured.after], [measured.before], UTILITY, erasing.request.floor)
    changes = ability_changes(measured.before, measured.after)
    if changes:
        text = f"{utility.sentence} General items solved: {changes[0]}."
        utility = dataclasses.replace(utility, word=_kept_word(utility.word, ability_goal(changes[0])), sentence=text)
    broken = gibberish_in(measured.before, measured.after)
    name = model_name(str(erasing.request.study.model.source))
    verdict = make_verdict(name, findings, utility, gibberish=broken, reason=NO_CONTROL)
    return verdict if control else dataclasses.replace(verdict, forgot=_by_target(erasing, measured))


def _kept_word(word: str, ability: GoalValue) -> str:
    """Return the word on utility together with general ability: `kept` needs both intervals above the margin."""
    if word not in (KEPT, UNDECIDED):
        return word
    if ability.state == "not achieved":
        return DAMAGED
    return word if ability.state == "achieved" else UNDECIDED


def _by_target(erasing: EraseRun, measured: BeforeAfter) -> VerdictAnswer:
    """Return whether the stated target is achieved. Without a control, a trace cannot be excluded."""
    before, after = measured.answered(measured.before), measured.answered(measured.after)
    goal = forgetting_goal(measured, erasing.request.target)
    missing = f"{NO_CONTROL[0].upper()}{NO_CONTROL[1:]}, so a trace cannot be excluded."
    if goal is None:
        return VerdictAnswer(NOT_MEASURABLE, f"The model before hardly knew the answers. {missing}", metric=KNOWN)
    values_R = measured.column(measured.after)
    low, high = interval_alone(values_R[~np.isnan(values_R)])
    text = (
        f"The probability of the answers was {before:.3g} and is {number_with_interval(after, low, high)}: "
        f"{goal.shown} of the knowledge is left, the target is {goal.limit:.0%}{goal.remark}. {missing}"
    )
    return VerdictAnswer(f"target {goal.state}", text, after, low, high, control=before, metric=KNOWN)
