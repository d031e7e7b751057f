"""The goals of an erasure: the values before and after, and whether each goal was achieved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.core.records import Floats
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import KNOWN, NO_TRACE, OVER, TRACE, AuditFinding, interval_alone, mean_interval
from expunge.metrics.utility import share_of_utility
from expunge.metrics.verdict import Verdict, number_with_interval
from expunge.pipelines.erase.attacks import AttackResult
from expunge.pipelines.erase.general import MARGIN, AbilityChange, ability_changes, gibberish_in
from expunge.pipelines.erase.goal_values import LITTLE, EraseFinding, GoalValue, State, goal_line, residual
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.request import UTILITY, EraseRun, longest_example
from expunge.pipelines.erase.rows import CONTENT
from expunge.pipelines.erase.rows import KNOWN as ANSWERED
from expunge.pipelines.erase.trials import TrialResult

# A model below the control is distinguishable too: it is not like a model that never saw the rows.
AUDIT_STATES: Mapping[str, State] = {
    NO_TRACE: "achieved",
    OVER: "not achieved",
    TRACE: "not achieved",
    KNOWN: "not achieved",
}
HALF = 0.5  # share of the knowledge of a row; if more is left, the row is still known
MOST_NAMED = 10  # rows that are still known, by number
RELEARNED = {
    "same_rows": "on some of the rows to forget, scored on the others",
    "unrelated": "on rows to keep",
}


@dataclass(frozen=True)
class BeforeAfter:
    """Results of the model before and after, and of a model that never saw the rows, if there is one.

    known: the rows to forget that the model before knows; None: all.
    """

    before: Mapping[str, MetricResult]
    after: Mapping[str, MetricResult]
    control: Mapping[str, MetricResult] | None
    known: tuple[int, ...] | None = None

    @property
    def rows(self) -> list[int]:
        """The rows to forget that count."""
        return [i for i in sorted(self.before[ANSWERED].per_row) if self.known is None or i in self.known]

    def answered(self, side: Mapping[str, MetricResult]) -> float:
        """Return the mean probability of the answers that the model before knows."""
        result = side[ANSWERED]
        if self.known is None or not result.per_row:
            return result.value
        values = [prob_of(result, i) for i in self.rows]
        there = [value for value in values if math.isfinite(value)]
        return math.fsum(there) / len(there) if there else math.nan

    def column(self, side: Mapping[str, MetricResult]) -> Floats:
        """Return the probability of each known row, shape (R,)."""
        return np.array([prob_of(side[ANSWERED], i) for i in self.rows if i in side[ANSWERED].per_row])

    @property
    def unseen_R(self) -> Floats | None:
        """The probabilities of the holdout rows, shape (R,), if they are the reference; else None."""
        if self.control is not None or UNSEEN not in self.before:
            return None
        result = self.before[UNSEEN]
        return np.array([prob_of(result, i) for i in sorted(result.per_row)])

    @property
    def reference(self) -> float | None:
        """Probability of the forget rows in a model that never saw them.

        The control's; else that of the holdout rows in the model before; None if neither is known.
        """
        if self.control is not None:
            return self.answered(self.control)
        return self.before[UNSEEN].value if UNSEEN in self.before else None


def prob_of(result: MetricResult, row: int) -> float:
    """Return the probability of one row, of the more likely wording if there are two."""
    numbers = result.per_row[row]
    return float(numbers["prob" if "prob" in numbers else "score"])  # type: ignore[arg-type]


def judge(
    erasing: EraseRun,
    measured: BeforeAfter,
    winner: TrialResult,
    attacks: Sequence[AttackResult],
    verdict: Verdict,
) -> list[EraseFinding]:
    """Compare the results with the goals: floor, target, single rows, the control and audits."""
    lines = [_utility(erasing, measured), _ability(measured), _target(erasing, measured)]
    if erasing.control is not None:
        state = AUDIT_STATES.get(verdict.forgot.finding, "not known")
        text = f"compared with a model that never saw the rows: {verdict.forgot.word}. {verdict.forgot.sentence}"
        lines.append(EraseFinding(state, text))
    lines += [line for line in (single_rows(measured), _content(measured)) if line is not None]
    if erasing.cut:
        n, most = len(erasing.sets["forget_eval"]), longest_example(erasing.final.setting)
        message = f"{erasing.cut} of the {n} rows to forget are longer than {most} tokens"
        lines.append(EraseFinding("not achieved", f"whole rows: {message}; the rest was not unlearned"))
    if not winner.passes:
        text = "search: no checkpoint meets the floor; the one with the most utility was measured"
        lines.append(EraseFinding("not achieved by the point value", text))
    for one in attacks:
        lines += (
            [EraseFinding("not known", f"{one.name}: {one.reason}")] if one.reason else _audit(erasing, measured, one)
        )
    if erasing.control is None:
        lines.append(
            EraseFinding("not known", "how a model that never saw the rows would answer: there is no such model")
        )
    return lines


def _utility(erasing: EraseRun, measured: BeforeAfter) -> EraseFinding:
    before, after = measured.before[UTILITY].value, measured.after[UTILITY].value
    n, floor = len(erasing.sets["retain_eval"]), erasing.request.floor
    if not before > 0 or not math.isfinite(after):
        return EraseFinding("not known", f"utility: no probability of the {n} rows to keep of the report")
    share, low, high = share_of_utility([measured.after], [measured.before], UTILITY)
    goal = GoalValue(share, low, high, floor, n, at_most=False)
    message = (
        f"utility: {goal.shown} of the start on {n} {'row' if n == 1 else 'rows'} to keep, not used for training or "
        f"selection (floor {floor:.0%})"
    )
    return goal_line(goal, message)


def why_broken(erasing: EraseRun, measured: BeforeAfter, winner: TrialResult) -> str:
    """Return why a model is not written: its utility by the point value, or gibberish. Empty: it is not broken."""
    before, after = measured.before[UTILITY].value, measured.after[UTILITY].value
    if not math.isfinite(after):
        return "its utility is no number"
    if not after >= erasing.request.floor * before:
        return f"its utility is under the minimum of {erasing.request.floor:.0%}"
    if not winner.passes:
        return "no checkpoint of the search meets the minimum utility"
    return gibberish_in(measured.before, measured.after)


def _ability(measured: BeforeAfter) -> EraseFinding:
    """Return the line on general ability: at most the margin may be lost over all items."""
    changes = ability_changes(measured.before, measured.after)
    if not changes:
        return EraseFinding(
            "not known", "general ability: the model before solved no more of the items than guessing does"
        )
    whole, *areas = changes
    message = f"general ability, items solved: {whole}; {', '.join(map(str, areas))}"
    return goal_line(ability_goal(whole), f"{message}; a loss up to {MARGIN:.0%} counts as none")


def ability_goal(change: AbilityChange) -> GoalValue:
    """Return the items that are still solved, as a goal: at most MARGIN may be lost."""
    return GoalValue(change.share, change.low, change.high, 1 - MARGIN, change.items, at_most=False, unit="item")


def _content(measured: BeforeAfter) -> EraseFinding | None:
    """Report the known rows whose answer is in one of the model's texts, in any wording. None if not measured."""
    if CONTENT not in measured.after:
        return None
    left = _answered_rows(measured)
    message = f"answers: {len(left)} of {len(measured.rows)} known answers are still in a text of the model"
    named = (
        ""
        if not left
        else f" (row {', '.join(map(str, left[:MOST_NAMED]))}{', ...' if len(left) > MOST_NAMED else ''})"
    )
    return EraseFinding(
        "not achieved" if left else "achieved", f"{message}{named}, with several wordings of each question"
    )


def _target(erasing: EraseRun, measured: BeforeAfter) -> EraseFinding:
    before, after = measured.answered(measured.before), measured.answered(measured.after)
    message = f"forgetting: probability of the answers {before:.6f} before, {after:.6f} after"
    goal = forgetting_goal(measured, erasing.request.target)
    if goal is None:
        return EraseFinding("not known", f"{message}; the model hardly knew them, so forgetting cannot be measured")
    against = "" if measured.reference is None else f", {measured.reference:.6f} in a model that never saw them"
    return goal_line(goal, f"{message}{against}; {goal.shown} of it is left (target {goal.limit:.0%})")


def forgetting_goal(measured: BeforeAfter, limit: float) -> GoalValue | None:
    """Return the share of knowledge left of the known rows, as a goal; None if there was too little to erase."""
    before, after = measured.answered(measured.before), measured.answered(measured.after)
    control_R = 0.0 if measured.control is None else measured.column(measured.control)
    differences_R = measured.column(measured.after) - control_R
    differences_R = differences_R[~np.isnan(differences_R)]
    shift = 0.0 if measured.control is None else measured.answered(measured.control)
    of_rows = mean_interval if measured.control is not None and len(differences_R) > 1 else interval_alone
    low, high = of_rows(differences_R)
    return residual(
        before, after, (shift + low, shift + high), limit=limit, rows=len(differences_R),
        reference=measured.reference, unseen_R=measured.unseen_R,
    )  # fmt: skip


def single_rows(measured: BeforeAfter) -> EraseFinding | None:
    """Report single rows that are still known, which a mean over many rows hides.

    A row counts if more than HALF of its probability above the reference is left. None if no row was known.
    """
    known, left = rows_left(measured)
    if not known:
        return None
    known_rows = f"of the {len(known)} rows that the model knew"
    if not left:
        return EraseFinding("achieved", f"single rows: none {known_rows} keeps more than half of that")
    named = ", ".join(str(i) for i in left[:MOST_NAMED]) + (", ..." if len(left) > MOST_NAMED else "")
    return EraseFinding(
        "not achieved", f"single rows: {len(left)} {known_rows} keep more than half of that (row {named}, from 0)"
    )


def rows_left(measured: BeforeAfter) -> tuple[list[int], list[int]]:
    """Return the rows that the model knew by probability, and those of them that keep more than HALF of it."""
    ids = measured.rows
    sides = [measured.before, measured.after, *([] if measured.control is None else [measured.control])]
    before, after, *control = (np.array([prob_of(side[ANSWERED], i) for i in ids]) for side in sides)
    reference = control[0] if control else np.full(len(ids), measured.reference or 0.0)
    is_known = before - reference >= LITTLE
    is_left = is_known & (after - reference > HALF * (before - reference))
    return [i for i, k in zip(ids, is_known, strict=True) if k], [i for i, k in zip(ids, is_left, strict=True) if k]


def _answered_rows(measured: BeforeAfter) -> list[int]:
    """Return the known rows whose answer is in a text of the model after, in any wording of the question."""
    scores = measured.after[CONTENT].per_row if CONTENT in measured.after else {}
    return [i for i in measured.rows if i in scores and float(scores[i]["score"]) > 0]  # type: ignore[arg-type]


def still_known(measured: BeforeAfter) -> list[int]:
    """Return the rows that the model after still knows: by probability, or because it still gives the answer."""
    return sorted({*rows_left(measured)[1], *_answered_rows(measured)})


def _audit(erasing: EraseRun, measured: BeforeAfter, attack: AttackResult) -> list[EraseFinding]:
    """Return the findings of an audit: verdicts against a control, or else a comparison with the target."""
    if erasing.control is not None:
        out = []
        for reading in attack.readings:
            why = f" ({reading.note})" if reading.note else ""
            state = AUDIT_STATES.get(reading.verdict, "not known")
            out.append(EraseFinding(state, f"{attack.name}, {reading.name}: {reading.verdict}{why}"))
        return out
    if attack.name == "exposure":
        return [EraseFinding("not known", "exposure: the list of rows is saved; a verdict needs a control")]
    if attack.name == "relearn":
        curves = "; ".join(
            f"{_way_words(way)}: {number_with_interval(one.value, one.low, one.high)}"
            for way, one in attack.uncontrolled.items()
        )
        message = f"relearn: probability of the answers after more training, {curves}"
        return [EraseFinding("not known", f"{message}; a verdict on the speed needs a control")]
    return [_attack(erasing, measured, attack.name, way, one) for way, one in attack.uncontrolled.items()]


def _way_words(way: str) -> str:
    """Return a way of relearning in words: "same_rows, step 8" -> "8 steps on some of the rows to forget"."""
    name, _, step = way.partition(", step ")
    return f"{step} steps {RELEARNED.get(name, name)}" if step else RELEARNED.get(name, name)


def _attack(erasing: EraseRun, measured: BeforeAfter, name: str, way: str, one: AuditFinding) -> EraseFinding:
    goal = residual(
        one.full, one.value, (one.low, one.high), limit=erasing.request.target, rows=one.rows,
        reference=measured.reference, unseen_R=measured.unseen_R,
    )  # fmt: skip
    message = f"{name}, {way}: probability of the answers {one.value:.6f}, {one.full:.6f} before"
    if goal is None:
        return EraseFinding("not known", f"{message}; the model before hardly knew them with this attack")
    return goal_line(goal, f"{message}; {goal.shown} is left (target {goal.limit:.0%})")
