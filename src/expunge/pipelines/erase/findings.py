"""The outcome of an erasure: achieved goals and missed goals, in lines, in the report and on the model card."""

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
LITTLE = 0.05  # a smaller gap in probability leaves nothing to erase
HALF = 0.5  # share of the knowledge of a row; if more is left, the row is still known
MOST_NAMED = 10  # rows that are still known, by number
ALIKE = 0.1  # largest difference in retain probability of a comparable control
FORGET_WORDS = {
    ANSWERED: ("Probability of the answers", "how likely the right answers are, per word piece, from 0 to 1"),
    LEFT: ("Extraction strength", "the share of each answer that the model completes from its beginning"),
    "forget_Q_A_ROUGE": ("Overlap of its answers", "how much of the right answers the model generates"),
    "exact_memorization": ("Word pieces known", "the share of word pieces that it would choose right"),
    "mia_loss": ("Membership", "how well an attack separates rows to forget from rows never seen; 0.5 is chance"),
}
# The audits' numbers in words: against a model that never saw the rows (by audit or finding), and alone.
READ = {
    "prompting": "probability of the answers, for each row with the prompt form that recovers most",
    "exposure, known_rows": "share of the rows to forget that are still known",
    "exposure, erased_rows": "how well an attack separates the rows to forget from rows never seen; 0.5 is chance",
    "relearn": "how much more probable the answers are during relearning of some rows than in a model that never saw "
    "the rows, after the same training; below 0 is less probable",
    "quantize": "probability of the answers once the weights are rounded to few bits",
}
FOUND = {
    "prompting": READ["prompting"],
    "relearn": "probability of the answers after so many steps of more training",
    "quantize": READ["quantize"],
}
RELEARNED = {
    "same_rows": "on some of the rows to forget, scored on the others",
    "unrelated": "on rows to keep",
}
KEPT_WORDS = {
    UTILITY: ("Rows to keep: probability", "how likely the right answers are"),
    "retain_Q_A_ROUGE": ("Rows to keep: overlap", "how much of the right answers the model generates"),
}


@dataclass(frozen=True)
class EraseFinding:
    """One of the last lines: whether something was achieved."""

    state: State
    text: str


@dataclass(frozen=True)
class BeforeAfter:
    """Results of the model before and after, and of a model that never saw the rows, if there is one."""

    before: Mapping[str, MetricResult]
    after: Mapping[str, MetricResult]
    control: Mapping[str, MetricResult] | None

    @property
    def reference(self) -> float | None:
        """Probability of the forget rows in a model that never saw them.

        The control's; else that of the holdout rows in the model before; None if neither is known.
        """
        if self.control is not None:
            return self.control[ANSWERED].value
        return self.before[UNSEEN].value if UNSEEN in self.before else None


def judge(
    erasing: EraseRun, measured: BeforeAfter, winner: TrialResult, attacks: Sequence[AttackResult]
) -> list[EraseFinding]:
    """Compare the results with the goals: floor, target, single rows and audits."""
    lines = [_utility(erasing, measured), _target(erasing, measured)]
    if (rows := single_rows(measured)) is not None:
        lines.append(rows)
    if erasing.cut:
        n, most = len(erasing.sets["forget"]), erasing.final.setting.template.max_length
        message = f"{erasing.cut} of the {n} rows to forget are longer than {most} tokens"
        lines.append(EraseFinding("not achieved", f"whole rows: {message}; the rest was not unlearned"))
    if not winner.passes:
        lines.append(
            EraseFinding(
                "not achieved", "search: no checkpoint meets the floor; the one with the most utility is saved"
            )
        )
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
    message = (
        f"utility: {after / before:.0%} of the start on {n} rows to keep that were not used for training or selection"
    )
    return EraseFinding("achieved" if after >= floor * before else "not achieved", f"{message} (floor {floor:.0%})")


def _target(erasing: EraseRun, measured: BeforeAfter) -> EraseFinding:
    before, after = measured.before[ANSWERED].value, measured.after[ANSWERED].value
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
    known_rows = f"of the {int(known.sum())} rows that the model knew"
    if not left:
        return EraseFinding("achieved", f"single rows: none {known_rows} keeps more than half of that")
    named = ", ".join(str(i) for i in left[:MOST_NAMED]) + (", ..." if len(left) > MOST_NAMED else "")
    return EraseFinding(
        "not achieved", f"single rows: {len(left)} {known_rows} keep more than half of that (row {named}, from 0)"
    )


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
            states: dict[str, State] = {FORGOTTEN: "achieved", TRACES: "not achieved", KNOWN: "not achieved"}
            why = f" ({reading.note})" if reading.note else ""
            word = "not decidable" if reading.verdict == OPEN else reading.verdict
            out.append(
                EraseFinding(states.get(reading.verdict, "not known"), f"{attack.name}, {reading.name}: {word}{why}")
            )
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


def erasure(
    erasing: EraseRun,
    measured: BeforeAfter,
    winner: TrialResult,
    attacks: Sequence[AttackResult],
    lines: Sequence[EraseFinding],
    *,
    weights: str,
    seconds: float,
    steps: int | None,
    command: str,
) -> Erasure:
    """Return the contents of the erasure report. weights: SHA-256 of the new weights."""
    request, sets = erasing.request, erasing.sets
    forget = sets["forget"]
    texts = (
        tuple(f"{r.question} -> {r.answer}" if r.question else r.answer for r in forget) if request.show_text else ()
    )
    missing = {n: r.reason or "" for n, r in measured.after.items() if not math.isfinite(r.value) and r.reason}
    return Erasure(
        title=f"Erasure report: {model_name(request)}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        asked=(ErasureRequest("rows to forget", len(forget), forget.fingerprint(), texts, erasing.file_sha256),),
        method=winner.trial.method,
        settings=settings(erasing, winner),
        steps=steps,
        seconds=seconds,
        models=(*_before(request), ("the weights after", weights)),
        findings=(*_findings(measured), *_of_audits(attacks)),
        kept=tuple(_finding(measured, name, *words) for name, words in KEPT_WORDS.items() if name in measured.after),
        missing=(*missing.items(), *((f"audit {h.name}", h.reason) for h in attacks if h.reason)),
        has_retain=erasing.control is not None,
        achieved=tuple((line.state, line.text) for line in lines),
        notes=notes(erasing, measured),
        command=command,
    )


def settings(erasing: EraseRun, winner: TrialResult) -> tuple[tuple[str, str], ...]:
    """Return the selected settings and the rule, as names and values."""
    request, sets = erasing.request, erasing.search.setting.benchmark.sets
    parts = (
        f"{len(sets['retain'])} for training, {len(sets['retain_eval'])} for selection, "
        f"{len(erasing.sets['retain_eval'])} for the report"
    )
    return (
        ("learning rate", f"{winner.trial.learning_rate:.4g}"),
        *((f"method {k}", str(v)) for k, v in winner.trial.method_args.items()),
        ("kept checkpoint", f"step {winner.step} of at most {winner.trial.steps}"),
        ("utility floor", f"{request.floor:.0%} of the start"),
        ("target", f"at most {request.target:.0%} of the knowledge"),
        ("rows to keep", parts),
        ("seed", str(request.seed)),
        ("budget", f"{request.budget_s:.0f} s"),
    )


def notes(erasing: EraseRun, measured: BeforeAfter) -> tuple[str, ...]:
    """Return notes for the interpretation of the numbers."""
    out = [
        "The checkpoint and the trial were selected on the rows to forget and on a part of the rows to keep; "
        "utility is reported on another part. Numbers of the rows to forget are therefore the best of several.",
        *erasing.notes,
    ]
    control = measured.control
    if UNSEEN in measured.after:
        now, then = measured.after[UNSEEN].value, measured.before[UNSEEN].value
        out.append(f"The answers of {len(erasing.sets[HOLDOUT])} rows never seen: {then:.3f} before, {now:.3f} after.")
    if control is None and HOLDOUT in erasing.sets:
        out.append(
            f"{len(erasing.sets[HOLDOUT])} rows that the model never saw replace a model that never saw the "
            "rows to forget, if they are similar: the target is measured from their probability before."
        )
    elif control is None:
        out.append("There are no holdout rows either: the target is measured from a probability of 0.")
    elif abs(control[UTILITY].value - measured.before[UTILITY].value) > ALIKE:
        out.append(
            f"The control has another probability of the rows to keep than the model ({control[UTILITY].value:.3f} "
            f"against {measured.before[UTILITY].value:.3f}): it was trained differently, so comparisons with "
            "it are less reliable."
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


def _of_audits(attacks: Sequence[AttackResult]) -> list[Finding]:
    """Return the readings against controls, or the numbers of audits without readings."""
    out = []
    for one in attacks:
        readings = [r for r in one.readings if math.isfinite(r.value)]
        for r in readings:
            verdict = f"Verdict: {r.verdict}{f' ({r.note})' if r.note else ''}."
            words = READ.get(f"{one.name}, {r.name}") or READ.get(one.name, "the audit's measurement, in its own unit")
            title = f"Audit {one.name}, {r.name}"
            out.append(Finding(title, words, r.value, r.low, r.high, r.full, r.retain, verdict=verdict))
        if not readings:
            for way, (after, before) in one.found.items():
                words = FOUND.get(one.name, "probability of the answers, or the audit's score")
                out.append(Finding(f"Audit {one.name}, {way}", words, after, full=before))
    return out


def model_name(request: EraseRequest) -> str:
    """Return the model's id, or its folder's name: without a path."""
    source = str(request.study.model.source)
    return Path(source).expanduser().resolve().name if looks_local(source) else source


def before_hash(request: EraseRequest) -> str:
    """Return the fingerprint of the model before, or its hub id and revision."""
    identity = source_identity(str(request.study.model.source), request.study.model.model_args.revision)
    return str(identity.get("contents") or f"{identity.get('hub')} revision {identity.get('revision') or 'main'}")


def _before(request: EraseRequest) -> tuple[tuple[str, str], ...]:
    """Return hashes of the model before: of its weights (`sha256sum`), and of all files that determine its outputs."""
    source = str(request.study.model.source)
    if not looks_local(source):
        return (("the model before", before_hash(request)),)
    files = sorted(Path(source).expanduser().glob("*.safetensors"))
    whole = "the model before (names and hashes of its weights, configuration and tokenizer)"
    return (("the weights before", " ".join(file_sha256(file) for file in files)), (whole, before_hash(request)))


def model_card(erasing: EraseRun, winner: TrialResult, lines: Sequence[EraseFinding]) -> str:
    """Return the new model's README.md: the procedure and its outcome, without texts of the rows."""
    request = erasing.request
    source = str(request.study.model.source)
    head = ["---", "library_name: transformers", "tags: [unlearning, expunge]"]
    head += [] if looks_local(source) else [f"base_model: {source}"]
    forget = erasing.sets["forget"]
    body = [
        f"# {model_name(request)}, with {len(forget)} rows erased",
        "",
        f"Made from {model_name(request)} by `expunge erase`: {len(forget)} rows (SHA-256 of their contents "
        f"`{forget.fingerprint()}`) were unlearned by {winner.trial.method}.",
        "",
        *(f"- {name}: {value}" for name, value in settings(erasing, winner)),
        f"- the model before: `{before_hash(request)}`",
        "",
        "## Outcome",
        "",
        *(f"- **{line.state}**: {line.text}" for line in lines),
        *([] if lines else ["Not yet measured."]),
        "",
        "## Limits",
        "",
        "No test can prove that a model contains nothing of a text. Copies of the model before are not covered.",
        *([] if erasing.control is not None else [NO_RETAIN]),
    ]
    return "\n".join([*head, "---", "", *body]) + "\n"
