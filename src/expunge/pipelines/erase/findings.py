"""What an erasure comes to: what was achieved and what was not, in lines, in the report and on the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from expunge.audits.api import rows_of
from expunge.audits.verdict import FORGOTTEN, KNOWN, OPEN, TRACES
from expunge.benchmarks.metric_suite import HOLDOUT
from expunge.core.fingerprints import file_sha256
from expunge.metrics.aggregate import bootstrap_interval
from expunge.metrics.api import Metric, MetricResult
from expunge.models.config import looks_local, source_identity
from expunge.pipelines.erase.attacks import AttackResult
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.request import KNOWN as ANSWERED
from expunge.pipelines.erase.request import LEFT, UTILITY, EraseRequest, EraseRun
from expunge.pipelines.erase.search import TrialResult
from expunge.report.erasure import NO_RETAIN, Erasure, ErasureRequest, Finding

State = Literal["achieved", "not achieved", "not known"]
LITTLE = 0.05  # a gap in probability below which there is nothing to erase, or none to tell
HALF = 0.5  # of what was known of a row: where more is left, the row is still known
MOST_NAMED = 10  # rows that are still known, by number
ALIKE = 0.1  # a control whose probability of the rows to keep is further from the model's is another kind of model
FORGET_WORDS = {
    ANSWERED: ("Probability of the answers", "how likely the right answers are, per word piece, from 0 to 1"),
    LEFT: ("Extraction strength", "the share of each answer that it goes on with, once begun"),
    "forget_Q_A_ROUGE": ("Overlap of what it says", "how much of the right answers it says when asked"),
    "exact_memorization": ("Word pieces known", "the share of word pieces that it would choose right"),
    "mia_loss": ("Membership", "how well rows to forget can be told from rows never seen; 0.5 is not at all"),
}
# What audits find, in words: held against a model that never saw the rows (by audit, or by its finding), and alone.
READ = {
    "prompting": "probability of the answers, for each row in the way to ask that brings out most",
    "exposure, known_rows": "share of the rows to forget that are still known",
    "exposure, erased_rows": "how well the rows to forget can be told from rows never seen; 0.5 is not at all",
    "relearn": "how much likelier the answers are while it is taught some of the rows again than they are in a model "
    "that never saw them and is taught the same; below 0 is less likely",
    "quantize": "probability of the answers once the weights are rounded to few bits",
}
FOUND = {
    "prompting": READ["prompting"],
    "relearn": "probability of the answers after so many steps of more training",
    "quantize": READ["quantize"],
}
RELEARNED = {
    "same_rows": "on some of the rows to forget, asked for the others",
    "unrelated": "on rows to keep",
}
KEPT_WORDS = {
    UTILITY: ("Rows to keep: probability", "how likely the right answers are"),
    "retain_Q_A_ROUGE": ("Rows to keep: overlap", "how much of the right answers it says when asked"),
}


@dataclass(frozen=True)
class EraseFinding:
    """One of the last lines: whether something was achieved."""

    state: State
    text: str


@dataclass(frozen=True)
class BeforeAfter:
    """The results of the model before, of the one after, and of a model that never saw the rows, where there is one."""

    before: Mapping[str, MetricResult]
    after: Mapping[str, MetricResult]
    control: Mapping[str, MetricResult] | None

    @property
    def reference(self) -> float | None:
        """What the probability of the forget rows is where they were never seen: the control's; else that of rows
        surely unseen, in the model before; None where neither is known."""
        if self.control is not None:
            return self.control[ANSWERED].value
        return self.before[UNSEEN].value if UNSEEN in self.before else None


def judge(
    erasing: EraseRun, measured: BeforeAfter, chosen: TrialResult, held: Sequence[AttackResult]
) -> list[EraseFinding]:
    """What was achieved: the floor, the target, and what the audits say of it."""
    lines = [_utility(erasing, measured), _target(erasing, measured)]
    if (rows := single_rows(measured)) is not None:
        lines.append(rows)
    if erasing.cut:
        n, most = len(erasing.sets["forget"]), erasing.final.setting.template.max_length
        said = f"{erasing.cut} of the {n} rows to forget are longer than {most} tokens"
        lines.append(EraseFinding("not achieved", f"whole rows: {said}; what lies beyond was not unlearned"))
    if not chosen.passes:
        lines.append(
            EraseFinding("not achieved", "search: no checkpoint kept the floor; the one that keeps most is written")
        )
    for one in held:
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
        return EraseFinding("not known", f"utility: no probability of the {n} rows to keep that report")
    said = f"utility: {after / before:.0%} of the start on {n} rows to keep that nothing was trained on or chosen by"
    return EraseFinding("achieved" if after >= floor * before else "not achieved", f"{said} (floor {floor:.0%})")


def _target(erasing: EraseRun, measured: BeforeAfter) -> EraseFinding:
    before, after = measured.before[ANSWERED].value, measured.after[ANSWERED].value
    said = f"forgetting: probability of the answers {before:.3f} before, {after:.3f} after"
    left = left_over(before, after, measured.reference)
    if left is None:
        return EraseFinding("not known", f"{said}; the model hardly knew them, so there is nothing to tell")
    against = "" if measured.reference is None else f", {measured.reference:.3f} where they were never seen"
    target = erasing.request.target
    done: State = "achieved" if left <= target else "not achieved"
    return EraseFinding(done, f"{said}{against}; {max(left, 0):.0%} of it is left (target {target:.0%})")


def single_rows(measured: BeforeAfter) -> EraseFinding | None:
    """Whether a row by itself is still known: a mean over many hides it. A row counts where more than HALF of what the
    model knew of it, above the reference, is left. None where no row was known."""
    metric = Metric(ANSWERED, "probability")
    ids = sorted(measured.before[ANSWERED].per_row)
    before, after = (rows_of(side[ANSWERED], metric, ids) for side in (measured.before, measured.after))
    if measured.control is not None:
        reference = rows_of(measured.control[ANSWERED], metric, ids)
    else:
        reference = np.full(len(ids), measured.reference or 0.0)
    known = before - reference >= LITTLE
    if not known.any():
        return None
    is_left = known & (after - reference > HALF * (before - reference))
    left = [i for i, left_there in zip(ids, is_left, strict=True) if left_there]
    said = f"of the {int(known.sum())} rows that the model knew"
    if not left:
        return EraseFinding("achieved", f"single rows: none {said} keeps more than half of that")
    named = ", ".join(str(i) for i in left[:MOST_NAMED]) + (", ..." if len(left) > MOST_NAMED else "")
    return EraseFinding(
        "not achieved", f"single rows: {len(left)} {said} keep more than half of that (row {named}, from 0)"
    )


def left_over(before: float, after: float, reference: float | None) -> float | None:
    """The share of what was known that is left: 1 the model before, 0 the reference (none: a probability of 0).

    None where the model before was no more than LITTLE above the reference, or a number is missing.
    """
    gap = before - (reference or 0.0)
    if not gap >= LITTLE or not math.isfinite(after):
        return None
    return (after - (reference or 0.0)) / gap


def _audit(erasing: EraseRun, measured: BeforeAfter, held: AttackResult) -> list[EraseFinding]:
    """An audit against its controls by its verdicts; without them by the target, where that makes sense."""
    if erasing.control is not None:
        out = []
        for reading in held.readings:
            states: dict[str, State] = {FORGOTTEN: "achieved", TRACES: "not achieved", KNOWN: "not achieved"}
            why = f" ({reading.note})" if reading.note else ""
            word = "cannot be told" if reading.verdict == OPEN else reading.verdict
            out.append(
                EraseFinding(states.get(reading.verdict, "not known"), f"{held.name}, {reading.name}: {word}{why}")
            )
        return out
    if held.name == "exposure":
        return [EraseFinding("not known", "exposure: a list of rows is written; a verdict needs a control")]
    if held.name == "relearn":
        curves = "; ".join(f"{_way_words(way)}: {after:.3f}" for way, (after, _) in held.found.items())
        said = f"relearn: probability of the answers after more training, {curves}"
        return [EraseFinding("not known", f"{said}; how fast is too fast needs a control")]
    return [_attack(erasing, measured, held.name, way, pair) for way, pair in held.found.items()]


def _way_words(way: str) -> str:
    """A way of relearning in words: "same_rows, step 8" -> "8 steps on some of the rows to forget"."""
    name, _, step = way.partition(", step ")
    return f"{step} steps {RELEARNED.get(name, name)}" if step else RELEARNED.get(name, name)


def _attack(erasing: EraseRun, measured: BeforeAfter, name: str, way: str, pair: tuple[float, float]) -> EraseFinding:
    after, before = pair
    left, target = left_over(before, after, measured.reference), erasing.request.target
    said = f"{name}, {way}: probability of the answers {after:.3f}, {before:.3f} before"
    if left is None:
        return EraseFinding("not known", f"{said}; the model before hardly knew them so")
    return EraseFinding("achieved" if left <= target else "not achieved", f"{said}; {max(left, 0):.0%} is left")


def exit_code(lines: Sequence[EraseFinding]) -> int:
    """0 if nothing stated was missed, 3 if a model was written and something was."""
    return 3 if any(line.state == "not achieved" for line in lines) else 0


def erasure(
    erasing: EraseRun,
    measured: BeforeAfter,
    chosen: TrialResult,
    held: Sequence[AttackResult],
    lines: Sequence[EraseFinding],
    *,
    weights: str,
    seconds: float,
    steps: int | None,
    command: str,
) -> Erasure:
    """What the erasure report says. weights: SHA-256 of the new weights."""
    request, sets = erasing.request, erasing.sets
    forget = sets["forget"]
    texts = (
        tuple(f"{r.question} -> {r.answer}" if r.question else r.answer for r in forget) if request.show_text else ()
    )
    lost = {n: r.reason or "" for n, r in measured.after.items() if not math.isfinite(r.value) and r.reason}
    return Erasure(
        title=f"Erasure report: {model_name(request)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        asked=(ErasureRequest("rows to forget", len(forget), forget.fingerprint(), texts, erasing.file_sha256),),
        method=chosen.trial.method,
        settings=settings(erasing, chosen),
        steps=steps,
        seconds=seconds,
        models=(*_before(request), ("the weights after", weights)),
        findings=(*_findings(measured), *_of_audits(held)),
        kept=tuple(_finding(measured, name, *words) for name, words in KEPT_WORDS.items() if name in measured.after),
        missing=(*lost.items(), *((f"audit {h.name}", h.reason) for h in held if h.reason)),
        has_retain=erasing.control is not None,
        achieved=tuple((line.state, line.text) for line in lines),
        notes=notes(erasing, measured),
        command=command,
    )


def settings(erasing: EraseRun, chosen: TrialResult) -> tuple[tuple[str, str], ...]:
    """What was chosen and by what rule, as name and value."""
    request, sets = erasing.request, erasing.search.setting.benchmark.sets
    parts = (
        f"{len(sets['retain'])} trained on, {len(sets['retain_eval'])} chose, {len(erasing.sets['retain_eval'])} report"
    )
    return (
        ("learning rate", f"{chosen.trial.learning_rate:.4g}"),
        *((f"method {k}", str(v)) for k, v in chosen.trial.method_args.items()),
        ("kept checkpoint", f"step {chosen.step} of at most {chosen.trial.steps}"),
        ("utility floor", f"{request.floor:.0%} of the start"),
        ("target", f"at most {request.target:.0%} of what was known"),
        ("rows to keep", parts),
        ("seed", str(request.seed)),
        ("budget", f"{request.budget_s:.0f} s"),
    )


def notes(erasing: EraseRun, measured: BeforeAfter) -> tuple[str, ...]:
    """What a reader must know to take the numbers for what they are."""
    out = [
        "The checkpoint and the trial were chosen on the rows to forget themselves and on a part of the rows to keep; "
        "utility is reported on another part. Numbers of the rows to forget are therefore the best of several.",
        *erasing.notes,
    ]
    control = measured.control
    if UNSEEN in measured.after:
        now, then = measured.after[UNSEEN].value, measured.before[UNSEEN].value
        out.append(f"The answers of {len(erasing.sets[HOLDOUT])} rows never seen: {then:.3f} before, {now:.3f} after.")
    if control is None and HOLDOUT in erasing.sets:
        out.append(
            f"{len(erasing.sets[HOLDOUT])} rows that the model has surely not seen stand in for a model that never saw "
            "the rows to forget, as far as they are alike: the target is measured from their probability before."
        )
    elif control is None:
        out.append("No rows surely unseen were given either: the target is measured from a probability of 0.")
    elif abs(control[UTILITY].value - measured.before[UTILITY].value) > ALIKE:
        out.append(
            f"The control knows the rows to keep otherwise than the model ({control[UTILITY].value:.3f} against "
            f"{measured.before[UTILITY].value:.3f}): it was not made in the same way, and stands in with reservations."
        )
    return tuple(out)


def _findings(measured: BeforeAfter) -> list[Finding]:
    return [_finding(measured, name, *words) for name, words in FORGET_WORDS.items() if name in measured.after]


def _finding(measured: BeforeAfter, name: str, title: str, words: str) -> Finding:
    result = measured.after[name]
    family = "probability" if name.endswith("Prob") else "rouge" if name.endswith("ROUGE") else name
    column = rows_of(result, Metric(name, family), sorted(result.per_row))
    column = column[~(column != column)]
    low, high = bootstrap_interval(column) if len(column) > 1 else (math.nan, math.nan)
    control = math.nan if measured.control is None else measured.control[name].value
    return Finding(
        title, words, result.value, low, high, measured.before[name].value, control, reason=result.reason or ""
    )  # fmt: skip


def _of_audits(held: Sequence[AttackResult]) -> list[Finding]:
    """The readings against controls, or the plain numbers where there are none."""
    out = []
    for one in held:
        told = [r for r in one.readings if math.isfinite(r.value)]
        for r in told:
            said = f"Verdict: {r.verdict}{f' ({r.note})' if r.note else ''}."
            words = READ.get(f"{one.name}, {r.name}") or READ.get(one.name, "what the audit measures, in its own unit")
            title = f"Audit {one.name}, {r.name}"
            out.append(Finding(title, words, r.value, r.low, r.high, r.full, r.retain, verdict=said))
        if not told:
            for way, (after, before) in one.found.items():
                words = FOUND.get(one.name, "probability of the answers, or what the audit scores")
                out.append(Finding(f"Audit {one.name}, {way}", words, after, full=before))
    return out


def model_name(request: EraseRequest) -> str:
    """The model's id, or its folder's name: no path of the machine."""
    source = str(request.study.model.source)
    return Path(source).expanduser().resolve().name if looks_local(source) else source


def before_hash(request: EraseRequest) -> str:
    """The contents of the model before, or what the hub calls it."""
    said = source_identity(str(request.study.model.source), request.study.model.model_args.revision)
    return str(said.get("contents") or f"{said.get('hub')} revision {said.get('revision') or 'main'}")


def _before(request: EraseRequest) -> tuple[tuple[str, str], ...]:
    """The model before by its hashes: of the weights as `sha256sum` gives it, and of all that decides what it says."""
    source = str(request.study.model.source)
    if not looks_local(source):
        return (("the model before", before_hash(request)),)
    files = sorted(Path(source).expanduser().glob("*.safetensors"))
    whole = "the model before (names and hashes of its weights, configuration and tokenizer)"
    return (("the weights before", " ".join(file_sha256(file) for file in files)), (whole, before_hash(request)))


def model_card(erasing: EraseRun, chosen: TrialResult, lines: Sequence[EraseFinding]) -> str:
    """The new model's README.md: what was done and what came of it. It holds no text of the rows."""
    request = erasing.request
    source = str(request.study.model.source)
    head = ["---", "library_name: transformers", "tags: [unlearning, expunge]"]
    head += [] if looks_local(source) else [f"base_model: {source}"]
    forget = erasing.sets["forget"]
    body = [
        f"# {model_name(request)}, with {len(forget)} rows erased",
        "",
        f"Made from {model_name(request)} by `expunge erase`: {len(forget)} rows (SHA-256 of their contents "
        f"`{forget.fingerprint()}`) were unlearned by {chosen.trial.method}.",
        "",
        *(f"- {name}: {value}" for name, value in settings(erasing, chosen)),
        f"- the model before: `{before_hash(request)}`",
        "",
        "## What was achieved",
        "",
        *(f"- **{line.state}**: {line.text}" for line in lines),
        *([] if lines else ["Not yet measured."]),
        "",
        "## Limits",
        "",
        "No test can prove that a model holds nothing of a text. Copies of the model before are not covered.",
        *([] if erasing.control is not None else [NO_RETAIN]),
    ]
    return "\n".join([*head, "---", "", *body]) + "\n"
