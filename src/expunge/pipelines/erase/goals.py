"""The goals of an erasure: the values before and after, and whether each goal was achieved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import KNOWN, NO_TRACE, OVER, TRACE
from expunge.metrics.utility import share_of_utility
from expunge.pipelines.erase.attacks import AttackResult
from expunge.pipelines.erase.general import MARGIN, ability_changes, gibberish_in
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.request import UTILITY, EraseRun, longest_example
from expunge.pipelines.erase.rows import CONTENT
from expunge.pipelines.erase.rows import KNOWN as ANSWERED
from expunge.pipelines.erase.trials import TrialResult

State = Literal["achieved", "not achieved", "not known"]
# A model below the control is distinguishable too: it is not like a model that never saw the rows.
AUDIT_STATES: Mapping[str, State] = {
    NO_TRACE: "achieved",
    OVER: "not achieved",
    TRACE: "not achieved",
    KNOWN: "not achieved",
}
LITTLE = 0.05  # a smaller gap in probability leaves nothing to erase
HALF = 0.5  # share of the knowledge of a row; if more is left, the row is still known
MOST_NAMED = 10  # rows that are still known, by number
RELEARNED = {
    "same_rows": "on some of the rows to forget, scored on the others",
    "unrelated": "on rows to keep",
}


@dataclass(frozen=True)
class EraseFinding:
    """One of the last lines: whether something was achieved."""

    state: State
    text: str


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
    erasing: EraseRun, measured: BeforeAfter, winner: TrialResult, attacks: Sequence[AttackResult]
) -> list[EraseFinding]:
    """Compare the results with the goals: floor, target, single rows and audits."""
    lines = [_utility(erasing, measured), *_ability(measured), _target(erasing, measured)]
    lines += [line for line in (single_rows(measured), _content(measured)) if line is not None]
    if erasing.cut:
        n, most = len(erasing.sets["forget_eval"]), longest_example(erasing.final.setting)
        message = f"{erasing.cut} of the {n} rows to forget are longer than {most} tokens"
        lines.append(EraseFinding("not achieved", f"whole rows: {message}; the rest was not unlearned"))
    if not winner.passes:
        text = "search: no checkpoint meets the floor; the one with the most utility was measured"
        lines.append(EraseFinding("not achieved", text))
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
    _, low, high = share_of_utility([measured.after], [measured.before], UTILITY)
    ends = f" [{low:.0%}, {high:.0%}]" if math.isfinite(low + high) else ""
    message = (
        f"utility: {after / before:.0%}{ends} of the start on {n} rows to keep that were not used for training or "
        f"selection (floor {floor:.0%})"
    )
    return EraseFinding("achieved" if after >= floor * before else "not achieved", message)


def is_broken(erasing: EraseRun, measured: BeforeAfter) -> bool:
    """Return whether a model is under the utility floor, gives no finite numbers, or writes gibberish."""
    before, after = measured.before[UTILITY].value, measured.after[UTILITY].value
    is_useful = math.isfinite(after) and after >= erasing.request.floor * before
    return not is_useful or bool(gibberish_in(measured.before, measured.after))


def _ability(measured: BeforeAfter) -> list[EraseFinding]:
    """Return the finding on general ability: damaged if the loss over all items is larger than the margin."""
    changes = ability_changes(measured.before, measured.after)
    if not changes:
        text = "general ability: the model before solved no more of the items than guessing does"
        return [EraseFinding("not known", text)]
    whole, *areas = changes
    message = f"general ability, items solved: {whole}; {', '.join(map(str, areas))}"
    state: State = "not achieved" if whole.damaged else "achieved"
    return [EraseFinding(state, f"{message}; a loss up to {MARGIN:.0%} counts as none")]


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
    message = f"forgetting: probability of the answers {before:.3f} before, {after:.3f} after"
    left = left_over(before, after, measured.reference)
    if left is None:
        return EraseFinding("not known", f"{message}; the model hardly knew them, so forgetting cannot be measured")
    against = "" if measured.reference is None else f", {measured.reference:.3f} in a model that never saw them"
    target = erasing.request.target
    done: State = "achieved" if left <= target else "not achieved"
    return EraseFinding(done, f"{message}{against}; {max(left, 0):.0%} of it is left (target {target:.0%})")


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


def left_over(before: float, after: float, reference: float | None) -> float | None:
    """Return the share of knowledge left: 1 for the model before, 0 for the reference (None: a probability of 0).

    None if the model before was at most LITTLE above the reference, or a number is missing.
    """
    gap = before - (reference or 0.0)
    if not gap >= LITTLE or not math.isfinite(after):
        return None
    return (after - (reference or 0.0)) / gap


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
        curves = "; ".join(f"{_way_words(way)}: {after:.3f}" for way, (after, _) in attack.found.items())
        message = f"relearn: probability of the answers after more training, {curves}"
        return [EraseFinding("not known", f"{message}; a verdict on the speed needs a control")]
    return [_attack(erasing, measured, attack.name, way, pair) for way, pair in attack.found.items()]


def _way_words(way: str) -> str:
    """Return a way of relearning in words: "same_rows, step 8" -> "8 steps on some of the rows to forget"."""
    name, _, step = way.partition(", step ")
    return f"{step} steps {RELEARNED.get(name, name)}" if step else RELEARNED.get(name, name)


def _attack(erasing: EraseRun, measured: BeforeAfter, name: str, way: str, pair: tuple[float, float]) -> EraseFinding:
    after, before = pair
    left, target = left_over(before, after, measured.reference), erasing.request.target
    message = f"{name}, {way}: probability of the answers {after:.3f}, {before:.3f} before"
    if left is None:
        return EraseFinding("not known", f"{message}; the model before hardly knew them with this attack")
    return EraseFinding("achieved" if left <= target else "not achieved", f"{message}; {max(left, 0):.0%} is left")


def exit_code(lines: Sequence[EraseFinding]) -> int:
    """Return 0 if no goal was missed, 3 if a model was saved and a goal was missed."""
    return 3 if any(line.state == "not achieved" for line in lines) else 0
