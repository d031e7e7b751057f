"""The contents of the report on a given model: verdict, open questions, findings and rows, from its results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from expunge.audits import audit_registry
from expunge.audits.api import NO_RETAIN_MODEL, NO_TARGET_MODEL
from expunge.core.records import Floats
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import NOT_MEASURABLE, AuditFinding, without_comparison
from expunge.metrics.verdict import (
    Verdict,
    VerdictAnswer,
    column_of,
    compare_direct,
    number_with_interval,
    statistic_of,
)
from expunge.models.config import looks_local, model_name
from expunge.models.identity import contents_hash, source_identity
from expunge.pipelines.audit.request import CONTENT, MODEL, PreparedAudit
from expunge.report.audit_report import MODEL as THIS
from expunge.report.audit_report import MOST_ROWS, RETAIN, TARGET, AuditedRow, ModelAnswer, ModelAudit
from expunge.report.erasure import by_reason
from expunge.report.model import AuditLine, ReportModel, ReportRun
from expunge.report.verdicts import judgement

DIRECT, KEPT = "without an attack", "rows to keep"
CONTAINED = f"forget_{CONTENT}"
PROBABILITY = "forget_Q_A_Prob"
# The measurements without an attack, in words.
FORGET_WORDS = {
    CONTAINED: "answers given",
    PROBABILITY: "probability",
    "forget_Q_A_ROUGE": "overlap",
    "extraction_strength": "extraction strength",
}
KEPT_WORDS = {"retain_Q_A_Prob": "probability", "retain_Q_A_ROUGE": "overlap"}
MEANINGS = {
    DIRECT: "The questions of the rows to forget as they are. Answers given: the share of rows whose answer is in the "
    "model's text, in any wording. Probability: of the true answers, per token. Overlap: of the model's texts with the "
    "answers (ROUGE-L recall). Extraction strength: the share of each answer that the model completes from its "
    "beginning.",
    KEPT: "Rows that the model should still answer. A low number may show damage.",
}
NO_RETAIN = (
    "Not known without a model that never saw the rows (retain model): whether the rows are forgotten. Low numbers "
    "are no proof, because an attack may still recover the rows. High numbers are no proof of memory, because answers "
    "can be guessed or learned elsewhere. Give a retain model by --retain-model."
)
NO_BASE = (
    "Not known without the model before unlearning (target model): how much the model knew before, and which "
    "abilities it has lost. Give it by --base."
)
ROLES = {"unlearn": THIS, "retain": RETAIN, "full": TARGET}


def audit_contents(prepared: PreparedAudit, results: ReportModel) -> ModelAudit:
    """Return the contents of the report."""
    runs: dict[str, ReportRun] = {run.role: run for run in results.runs}
    name = model_name(str(prepared.request.study.model.source))
    results = dataclasses.replace(results, audits=tuple(_without_reason(line) for line in results.audits))
    direct = _direct(runs, FORGET_WORDS, DIRECT, is_kept=False)
    abilities = _direct(runs, KEPT_WORDS, KEPT, is_kept=True)
    audits = [line for line in results.audits if line.label == MODEL]
    unrun = dict(prepared.not_run)
    findings = [*direct, *_numbers(audits, unrun), *abilities]
    unknown = [*([] if "retain" in runs else [NO_RETAIN]), *([] if "full" in runs else [NO_BASE])]
    rows = _rows(results, runs)
    return ModelAudit(
        title=f"Audit of {name}",
        created=results.created,
        command=results.command,
        verdict=_verdict(name, results, direct),
        unknown=tuple(unknown),
        findings=tuple(findings),
        meanings=MEANINGS | {one: _question(one) for one in dict.fromkeys(line.audit for line in audits)},
        not_run=tuple(by_reason(unrun.items())),
        models=tuple((ROLES[role], _identity(model.source, model.revision)) for role, model in prepared.roles.items()),
        sets={"rows to forget": results.sets["forget_eval"], "rows to keep": results.sets["retain_eval"]},
        rows=tuple(rows[:MOST_ROWS]),
        n_rows=len(rows),
        notes=results.notes,
        missing=results.missing,
        making=results.making,
        files=(
            ("audit_report.json", "verdict and all numbers"),
            ("rows.parquet", "every row with the texts and scores of each model"),
            ("audits/", "a table by row for each audit that has one"),
        ),
    )


def _verdict(name: str, results: ReportModel, direct: Sequence[AuditLine]) -> Verdict:
    """Return the verdict under the model's name. Without a control, its first answer has the direct numbers."""
    judged = judgement(results)
    if judged is None:
        raise ValueError("the results contain no audited model")
    verdict = dataclasses.replace(judged.all[0], model=name)
    if verdict.forgot.finding != NOT_MEASURABLE or any(run.role == "retain" for run in results.runs):
        return verdict
    return dataclasses.replace(verdict, forgot=_alone(direct))


def _alone(direct: Sequence[AuditLine]) -> VerdictAnswer:
    """Return the first answer without a retain model: the numbers, and that they prove nothing."""
    numbers = {line.name: line for line in direct if math.isfinite(line.value)}
    parts = []
    answered, prob = numbers.get(FORGET_WORDS[CONTAINED]), numbers.get(FORGET_WORDS[PROBABILITY])
    if answered is not None:
        share = number_with_interval(answered.value, answered.low, answered.high)
        before = f", {answered.full:.3g} in the target model" if math.isfinite(answered.full) else ""
        n = round(answered.value * answered.rows)
        parts.append(
            f"The model's texts contain the answers of {n} of {answered.rows} rows: a share of {share}{before}."
        )
    if prob is not None:
        before = f", {prob.full:.3g} in the target model" if math.isfinite(prob.full) else ""
        number = number_with_interval(prob.value, prob.low, prob.high)
        parts.append(f"The probability of the true answers is {number}{before}.")
    parts.append("Without a retain model this is no verdict.")
    shown = answered or prob
    if shown is None:
        return VerdictAnswer(NOT_MEASURABLE, " ".join(parts))
    metric = CONTAINED if answered is not None else PROBABILITY
    return VerdictAnswer(
        NOT_MEASURABLE, " ".join(parts), shown.value, shown.low, shown.high, control=shown.full, metric=metric
    )


def _direct(runs: Mapping[str, ReportRun], words: Mapping[str, str], audit: str, *, is_kept: bool) -> list[AuditLine]:
    """Return the measurements without an attack, in words, compared with the controls that exist."""
    out = []
    for metric, title in words.items():
        results = {role: run.results[metric] for role, run in runs.items() if metric in run.results}
        if "unlearn" not in results or not results["unlearn"].per_row:
            continue
        ids = sorted(set.intersection(*(set(result.per_row) for result in results.values())))
        sides = [_column(results[role], ids) if role in results else None for role in ("unlearn", "retain", "full")]
        out.append(_line(_compared(title, sides, is_kept=is_kept), audit))
    return out


def _compared(title: str, sides: Sequence[Floats | None], *, is_kept: bool) -> AuditFinding:
    model, retain, full = sides
    if is_kept or model is None or retain is None:
        finding = without_comparison(title, sides, "")
        return dataclasses.replace(finding, verdict="") if is_kept else finding
    return compare_direct(title, model, retain, full)


def _column(result: MetricResult, ids: Sequence[int]) -> Floats:
    """Return one number per row: the statistic whose mean is the metric's value."""
    return column_of(result, statistic_of(result) or "score", ids)


def _line(finding: AuditFinding, audit: str) -> AuditLine:
    values = {f.name: getattr(finding, f.name) for f in dataclasses.fields(AuditFinding)}
    return AuditLine(audit=audit, label=MODEL, seed=None, **values)


def _numbers(audits: Sequence[AuditLine], not_run: dict[str, str]) -> list[AuditLine]:
    """Return the findings with a number, and add the reasons of the others to `not_run`."""
    out = []
    for line in audits:
        if math.isfinite(line.value):
            out.append(line)
        else:
            not_run[f"{line.audit}: {line.name}"] = line.note or "there is no number"
    return out


def _without_reason(line: AuditLine) -> AuditLine:
    """Return a finding with a number without a missing control in its note: the page contains it once."""
    if not math.isfinite(line.value):
        return line
    parts = [part for part in line.note.split("; ") if part not in (NO_RETAIN_MODEL, NO_TARGET_MODEL)]
    return dataclasses.replace(line, note="; ".join(parts))


def _question(audit: str) -> str:
    """Return the first paragraph of an audit's page and that on its values; "relearn 2" is the second relearning."""
    spec = audit_registry().get(audit.split(" ")[0])
    parts = [] if spec is None else [" ".join(part.split()) for part in spec.page.split("\n\n")]
    values = [part.partition(" Details:")[0] for part in parts if part.startswith(("Value:", "Values:"))]
    return " ".join([*parts[:1], *values]).replace("`", "")


def _rows(results: ReportModel, runs: Mapping[str, ReportRun]) -> list[AuditedRow]:
    """Return the rows to forget, first those whose answer the model gives, then by the probability of the answer."""
    places = [(role, results.explorer.models.index(run.label)) for role, run in runs.items()]
    places.sort(key=lambda pair: list(ROLES).index(pair[0]))
    rows = []
    for entry in results.explorer.rows:
        if entry.set != "forget_eval":
            continue
        answers = tuple(
            ModelAnswer(
                ROLES[role], entry.said[k], _score(runs[role], PROBABILITY, entry.row_id, "prob"),
                _contains(runs[role], entry.row_id),
            )
            for role, k in places
        )  # fmt: skip
        rows.append(AuditedRow(entry.row_id, entry.question, entry.answer, answers))

    def order(row: AuditedRow) -> tuple[bool, float]:
        first = row.answers[0]
        return not first.contains, -first.probability if math.isfinite(first.probability) else 0.0

    return sorted(rows, key=order)


def _contains(run: ReportRun, row: int) -> bool | None:
    score = _score(run, CONTAINED, row, "score")
    return None if math.isnan(score) else score > 0


def _score(run: ReportRun, metric: str, row: int, statistic: str) -> float:
    value = run.results[metric].per_row.get(row, {}).get(statistic) if metric in run.results else None
    return float(value) if isinstance(value, int | float) else math.nan


def _identity(source: str, revision: str | None) -> str:
    """Return a model's name with the hash of the files that determine its outputs, or its hub revision."""
    identity = source_identity(source, revision)
    if looks_local(source):
        return f"{model_name(source)} {contents_hash(identity)}".rstrip()
    return f"{source} revision {identity.get('revision') or 'main'}"
