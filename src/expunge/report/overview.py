"""Findings of audits at a glance: a row per model, a column per attack or analysis, and in each cell the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

from expunge.metrics.equivalence import KNOWN, MEANINGS, NO_TRACE, NOT_MEASURABLE, OVER, TRACE, UNDECIDED
from expunge.report.model import AuditLine, ReportModel
from expunge.report.table import BELOW_FLOOR, table

# By remaining knowledge, the least first. The marks fill up, so that they differ in shape and not only in colour.
MARKS = {NO_TRACE: "\u25cb", OVER: "\u25bd", TRACE: "\u25d0", KNOWN: "\u25cf", UNDECIDED: "?"}
ABSENT = "\u2013"
NOT_TRIED = "not run on this model"
LEGEND = (
    "; ".join(f"{mark} {word}: {MEANINGS[word].partition(';')[0]}" for word, mark in MARKS.items())
    + f"; {ABSENT} {NOT_MEASURABLE}, the reason is below. If seeds of a model disagree, the cell shows each verdict."
)


@dataclass(frozen=True)
class AuditVerdict:
    """A verdict for display. kind: style class. text: the word, and the number of seeds if they disagree."""

    kind: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark} {self.text}".strip()


@dataclass(frozen=True)
class AuditSummary:
    """A cell: the verdicts of a model's seeds, the least knowledge first. notes: footnotes with reasons."""

    verdicts: tuple[AuditVerdict, ...]
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Overview:
    """columns: (audit, attack or analysis) of each; rows: the label of a model and its cells.

    Footnote k is `footnotes[k - 1]`. flags: marks of collapsed models, by label: they are broken rather than unlearned.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[AuditSummary, ...]], ...]
    footnotes: tuple[str, ...]
    flags: Mapping[str, str] = field(default_factory=dict)

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Each audit and how many columns it has."""
        return [(audit, len(list(group))) for audit, group in groupby(self.columns, key=lambda column: column[0])]


def by_audit(model: ReportModel) -> dict[str, list[AuditLine]]:
    """Return the findings of each audit: by attack or analysis, then by model, so that seeds are adjacent."""
    findings: dict[str, list[AuditLine]] = {}
    for line in model.audits:
        findings.setdefault(line.audit, []).append(line)
    labels = list(dict.fromkeys(line.label for line in model.audits))
    for lines in findings.values():
        names = list(dict.fromkeys(line.name for line in lines))
        lines.sort(key=lambda line: (names.index(line.name), labels.index(line.label)))
    return findings


def overview(model: ReportModel) -> Overview:
    """Return the verdicts of all audits on all models."""
    columns = tuple(dict.fromkeys((line.audit, line.name) for lines in by_audit(model).values() for line in lines))
    cells: dict[tuple[str, str, str], list[AuditLine]] = {}
    for line in model.audits:
        cells.setdefault((line.label, line.audit, line.name), []).append(line)
    notes: dict[str, int] = {}
    rows = [
        (label, tuple(_summary(cells.get((label, *column), []), notes) for column in columns))
        for label in dict.fromkeys(line.label for line in model.audits)
    ]
    return Overview(columns, tuple(rows), tuple(notes), _flags(model))


def _flags(model: ReportModel) -> dict[str, str]:
    """Return the mark of each model below the utility floor, with the number of its seeds if they disagree."""
    runs = [row for row in table(model).rows if row.kind == "run" and row.role == "unlearn"]
    all_of, below = Counter(row.label for row in runs), Counter(row.label for row in runs if row.flag)
    return {
        label: BELOW_FLOOR if n == all_of[label] else f"{BELOW_FLOOR} (n={n} of {all_of[label]})"
        for label, n in below.items()
    }


def _summary(lines: list[AuditLine], notes: dict[str, int]) -> AuditSummary:
    counts = Counter(line.verdict for line in lines) or Counter([NOT_MEASURABLE])
    order = [*MARKS, *(word for word in counts if word not in (*MARKS, NOT_MEASURABLE)), NOT_MEASURABLE]
    uneven = len(counts) > 1 and len(lines) > len(counts)
    verdicts = [_verdict(word, counts[word] if uneven else None) for word in order if word in counts]
    reasons = dict.fromkeys(line.note or "no reason was stored" for line in lines if line.verdict == NOT_MEASURABLE)
    footnotes = list(reasons) if lines else [NOT_TRIED]
    return AuditSummary(tuple(verdicts), tuple(notes.setdefault(reason, len(notes) + 1) for reason in footnotes))


def _verdict(word: str, n: int | None) -> AuditVerdict:
    mark, text = (ABSENT, "") if word == NOT_MEASURABLE else (MARKS.get(word, ""), word)
    kind = word.replace(" ", "-") if word in (*MARKS, NOT_MEASURABLE) else "other"
    return AuditVerdict(kind, mark, text if n is None else f"{text} (n={n})".strip())
