"""The outcome of an erasure in words: the contents of the report, and the model card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from expunge.benchmarks.metric_suite import HOLDOUT
from expunge.core.fingerprints import file_sha256
from expunge.metrics.equivalence import AuditFinding, interval_alone
from expunge.metrics.verdict import QUESTIONS, Verdict, column_of, direct_findings, statistic_of
from expunge.models.config import looks_local, model_name, weights_source
from expunge.models.identity import contents_hash, model_identity
from expunge.pipelines.erase.attacks import AttackResult
from expunge.pipelines.erase.commitment import FIELD
from expunge.pipelines.erase.general import NAMES
from expunge.pipelines.erase.goal_values import EraseFinding
from expunge.pipelines.erase.goals import BeforeAfter
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.made_rows import without_mark
from expunge.pipelines.erase.preflight import Preflight
from expunge.pipelines.erase.request import LEFT, UTILITY, EraseRequest, EraseRun
from expunge.pipelines.erase.rows import CONTENT, NEAR_PROB, counted
from expunge.pipelines.erase.rows import KNOWN as ANSWERED
from expunge.pipelines.erase.trials import TrialResult
from expunge.report.erasure import NO_RETAIN, Erasure, ErasureRequest, Finding

ALIKE = 0.1  # largest difference in retain probability of a comparable control
FORGET_WORDS = {
    ANSWERED: ("Probability of the answers", "how likely the right answers are, per word piece, from 0 to 1"),
    LEFT: ("Extraction strength", "the share of each answer that the model completes from its beginning"),
    "forget_Q_A_ROUGE": ("Overlap of its answers", "how much of the right answers the model generates"),
    CONTENT: ("Answers still given", "the share of rows whose answer is in one of its texts, in any wording"),
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
GENERAL_WORDS = {"fluency": "the share of repeated word sequences in its texts; less is better"}
KEPT_WORDS = {
    UTILITY: ("Rows to keep: probability", "how likely the right answers are"),
    NEAR_PROB: ("Rows near the rows to forget: probability", "how likely the answers of the model before are"),
    "retain_Q_A_ROUGE": ("Rows to keep: overlap", "how much of the right answers the model generates"),
}


def erasure(
    erasing: EraseRun,
    measured: BeforeAfter,
    winner: TrialResult,
    attacks: Sequence[AttackResult],
    lines: Sequence[EraseFinding],
    *,
    verdict: Verdict,
    weights: Mapping[str, str],
    seconds: float,
    steps: int | None,
    command: str,
    commitment: str,
) -> Erasure:
    """Return the contents of the erasure report. weights: new file -> SHA-256, empty without a new model."""
    request, sets = erasing.request, erasing.sets
    forget = erasing.file_rows or sets["forget_eval"]
    texts = (
        tuple(f"{r.question} -> {r.answer}" if r.question else r.answer for r in forget) if request.show_text else ()
    )
    missing = {n: r.reason or "" for n, r in measured.after.items() if not math.isfinite(r.value) and r.reason}
    return Erasure(
        title=f"Erasure report: {model_name(str(request.study.model.source))}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        asked=(ErasureRequest("rows to forget", len(forget), commitment, texts),),
        method=winner.trial.method,
        settings=settings(erasing, winner),
        steps=steps,
        seconds=seconds,
        models=(*_before(request), *((f"the weights after ({name})", sha) for name, sha in weights.items())),
        findings=(*_findings(measured), *_of_audits(attacks)),
        kept=tuple(_finding(measured, name, *words) for name, words in kept_words(measured).items()),
        missing=(*missing.items(), *((f"audit {h.name}", h.reason) for h in attacks if h.reason)),
        has_retain=erasing.control is not None,
        achieved=tuple((line.state, line.text) for line in lines),
        notes=notes(erasing, measured),
        command=command,
        verdict=verdict,
    )


def settings(erasing: EraseRun, winner: TrialResult) -> tuple[tuple[str, str], ...]:
    """Return the selected settings and the rule, as names and values."""
    request, sets = erasing.request, erasing.search.setting.benchmark.sets
    parts = (
        f"{counted(sets['retain'])}, {len(sets['retain_eval'])} to choose by, "
        f"{len(erasing.sets['retain_eval'])} to report"
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
        *map(without_mark, erasing.notes),
        *_of_preflight(erasing.preflight),
    ]
    control = measured.control
    if UNSEEN in measured.after:
        now, then = measured.after[UNSEEN].value, measured.before[UNSEEN].value
        out.append(f"The answers of {len(erasing.sets[HOLDOUT])} rows never seen: {then:.3f} before, {now:.3f} after.")
    if control is None and HOLDOUT in erasing.sets:
        out.append(
            f"{len(erasing.sets[HOLDOUT])} rows that the model never saw replace a model that never saw the "
            "rows to forget, if they are similar. The target is measured from their probability before."
        )
    elif control is None:
        out.append("There are no holdout rows either: the target is measured from a probability of 0.")
    elif abs(control[UTILITY].value - measured.before[UTILITY].value) > ALIKE:
        out.append(
            f"The control has another probability of the rows to keep than the model ({control[UTILITY].value:.3f} "
            f"against {measured.before[UTILITY].value:.3f}). It was trained differently, so comparisons with "
            "it are less reliable."
        )
    return tuple(out)


def _of_preflight(preflight: Preflight | None) -> list[str]:
    """Return notes on the model's knowledge before; none without a preflight."""
    if preflight is None:
        return []
    n, known, own = len(preflight.rows), len(preflight.known), len(preflight.reworded)
    out = [f"The model before knew {known} of the {n} rows to forget. Only these were trained on and count as known."]
    if own:
        out.append(f"It gave {own} answers in its own words. Both wordings were unlearned; the more likely one counts.")
    if preflight.near:
        out.append(f"{len(preflight.near)} of the rows to keep were made near the rows to forget, by the model before.")
    return out


def kept_words(measured: BeforeAfter) -> dict[str, tuple[str, str]]:
    """Return the metrics of abilities to keep that were measured, with their names and meanings in words."""
    words = {name: text for name, text in KEPT_WORDS.items() if name in measured.after}
    for area, title in NAMES.items():
        if f"general_{area}" in measured.after:
            meaning = GENERAL_WORDS.get(area, "the share of the package's items that the model solves")
            words[f"general_{area}"] = (f"General ability: {title}", meaning)
    return words | {n: (n, "a task of lm-evaluation-harness") for n in measured.after if "/" in n}


def _findings(measured: BeforeAfter) -> list[Finding]:
    control = [] if measured.control is None else [measured.control]
    verdicts = {one.name: one for one in direct_findings([measured.after], control, [measured.before])}
    out = []
    for name, words in FORGET_WORDS.items():
        if name in measured.after:
            finding, one = _finding(measured, name, *words), verdicts.get(name)
            if one is not None:  # the interval of the comparison, so that it fits the verdict
                finding = replace(finding, low=one.low, high=one.high, verdict=_verdict_text(one))
            out.append(finding)
    return out


def _verdict_text(one: AuditFinding) -> str:
    return f"Verdict: {one.verdict}{f' ({one.note})' if one.note else ''}."


def _finding(measured: BeforeAfter, name: str, title: str, words: str) -> Finding:
    result = measured.after[name]
    statistic = statistic_of(result)
    column = column_of(result, statistic, list(result.per_row)) if statistic else np.empty(0)
    low, high = interval_alone(column[~np.isnan(column)])
    control = math.nan if measured.control is None else measured.control[name].value
    return Finding(
        title, words, result.value, low, high, measured.before[name].value, control, reason=result.reason or ""
    )  # fmt: skip


def _of_audits(attacks: Sequence[AttackResult]) -> list[Finding]:
    """Return the readings against controls, or the numbers of audits without readings."""
    out = []
    for one in attacks:
        readings = [] if one.uncontrolled else [r for r in one.readings if math.isfinite(r.value)]
        for r in readings:
            verdict = _verdict_text(r)
            words = READ.get(f"{one.name}, {r.name}") or READ.get(one.name, "the audit's measurement, in its own unit")
            title = f"Audit {one.name}, {r.name}"
            out.append(Finding(title, words, r.value, r.low, r.high, r.full, r.retain, verdict=verdict))
        if not readings:
            for way, alone in one.uncontrolled.items():
                words = FOUND.get(one.name, "probability of the answers, or the audit's score")
                title = f"Audit {one.name}, {way}"
                out.append(Finding(title, words, alone.value, alone.low, alone.high, alone.full))
    return out


def before_hash(request: EraseRequest) -> str:
    """Return the fingerprint of the model before, or its hub id and revision."""
    identity = model_identity(request.study.model)
    return contents_hash(identity) or f"{identity.get('hub')} revision {identity.get('revision') or 'main'}"


def _before(request: EraseRequest) -> tuple[tuple[str, str], ...]:
    """Return hashes of the model before: of its weights (`sha256sum`), and of all files that determine its outputs."""
    source = str(request.study.model.source)
    if not looks_local(source):
        return (("the model before", before_hash(request)),)
    places = [place for place in dict.fromkeys((source, weights_source(source))) if looks_local(place)]
    files = [file for place in places for file in sorted(Path(place).expanduser().glob("*.safetensors"))]
    whole = "the model before (names and hashes of its weights, configuration and tokenizer)"
    weights = tuple((f"the weights before ({file.name})", file_sha256(file)) for file in files)
    return (*weights, (whole, before_hash(request)))


def model_card(
    erasing: EraseRun, winner: TrialResult, lines: Sequence[EraseFinding], verdict: Verdict | None, commitment: str
) -> str:
    """Return the new model's README.md: verdict, procedure and outcome, without texts or plain hashes of the rows."""
    request = erasing.request
    source = str(request.study.model.source)
    label = model_name(source)
    head = ["---", "library_name: transformers", "tags: [unlearning, expunge]"]
    head += [f"{FIELD}: {commitment}", *([] if looks_local(source) else [f"base_model: {source}"])]
    forget = erasing.sets["forget_eval"]
    body = [
        f"# {label}, with {len(forget)} rows erased",
        "",
        f"Made from {label} by `expunge erase`: {len(forget)} rows were unlearned by "
        f"{winner.trial.method}. `{FIELD}` above commits to these rows; only the owner of its key can check it.",
        "",
        *_answers(verdict),
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


def _answers(verdict: Verdict | None) -> list[str]:
    """Return the verdict as a section of markdown; nothing before the measurements."""
    if verdict is None:
        return []
    lines = [f"- {QUESTIONS[name]} **{answer.word}**. {answer.sentence}" for name, answer in verdict.answers.items()]
    broken = [f"**The model is broken.** {verdict.broken}", ""] if verdict.broken else []
    return ["## Verdict", "", *broken, *lines, "", "## Procedure", ""]
