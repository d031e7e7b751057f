"""The report on one given model: verdict, limits without controls, findings, and rows with the model's texts.

Plain values in, HTML and markdown out. Nothing is computed here, and every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

from expunge.metrics.equivalence import NOT_MEASURABLE
from expunge.metrics.verdict import Verdict
from expunge.report.audits import HEADS, NUMBERS, line_cells
from expunge.report.erasure import LIMITS
from expunge.report.markup import markdown_section, markdown_table, markdown_text
from expunge.report.model import AuditLine, MissingResult, ReportProvenance
from expunge.report.page import environment
from expunge.report.table import ABSENT
from expunge.report.verdicts import questions, verdict_lines

MODEL, RETAIN, TARGET = "this model", "retain model", "target model"
TITLES = {"name": "finding", "value": MODEL, "retain": RETAIN, "full": TARGET}
ABOUT = "Brackets are 95 % intervals over rows."
COMPARED = (
    " In a comparison they are the retain model's value plus the interval of the difference. The position is 0 at the "
    "retain model and 1 at the target model. Each verdict is that of one finding, without correction for several."
)
ROLES = (
    "The target model is the model before unlearning, which knows the rows. The retain model never saw them. Both are "
    "controls: the same audits run on them."
)
MOST_ROWS = 200  # on the page; the parquet file next to it has all


@dataclass(frozen=True)
class ModelAnswer:
    """A model's answer to one row: its text (None: not generated), and the probability of the true answer (NaN: none).

    contains: whether the text contains the content of the answer; None: not measured.
    """

    model: str
    text: str | None
    probability: float = math.nan
    contains: bool | None = None

    @property
    def note(self) -> str:
        """The numbers in words."""
        parts = [] if self.contains is None else ["contains the answer" if self.contains else "without the answer"]
        if math.isfinite(self.probability):
            parts.append(f"probability of the true answer {self.probability:.3g}")
        return "; ".join(parts)


@dataclass(frozen=True)
class AuditedRow:
    """A row to forget with the answers of the models, the audited one first."""

    row_id: int
    question: str
    answer: str
    answers: tuple[ModelAnswer, ...]


@dataclass(frozen=True, kw_only=True)
class ModelAudit:
    """All contents of a report on one audited model.

    unknown: the questions that stay open without the missing controls. findings: the numbers, by audit. meanings: a
    sentence for each audit. not_run: audits without a number, and why. models: each role with the model's name and
    hash. sets: the number of rows of each set. rows: the first ones, n_rows in all. files: names of the files next
    to the page, with their contents.
    """

    title: str
    created: str
    command: str
    verdict: Verdict
    unknown: tuple[str, ...] = ()
    findings: tuple[AuditLine, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    not_run: tuple[tuple[str, str], ...] = ()
    models: tuple[tuple[str, str], ...] = ()
    sets: Mapping[str, int] = field(default_factory=dict)
    rows: tuple[AuditedRow, ...] = ()
    n_rows: int = 0
    notes: tuple[str, ...] = ()
    missing: tuple[MissingResult, ...] = ()
    making: ReportProvenance = field(default_factory=ReportProvenance)
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AuditTable:
    """The findings of one audit as cells; `heads` are the columns that have a value. numbers: those with numbers."""

    audit: str
    meaning: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...] = tuple(TITLES.get(name, name) for name in NUMBERS)


def audit_html(audit: ModelAudit) -> str:
    """Return the report as a page that loads nothing from outside."""
    template = environment().get_template("audit.html")
    return template.render(
        audit=audit,
        questions=questions(audit.verdict),
        tables=_tables(audit),
        about=_about(audit),
        roles=ROLES,
        limits=(*LIMITS, *audit.notes),
        missing=[(absent.label, absent.reason) for absent in audit.missing],
    )


def audit_markdown(audit: ModelAudit) -> str:
    """Return the report as markdown."""
    md = markdown_text
    lines = [f"# {md(audit.title)}", "", f"Made {md(audit.created)}.", ""]
    lines += verdict_lines(audit.verdict)
    lines += markdown_section("Not known without a control", audit.unknown)
    lines += ["## Findings", "", md(_about(audit)), ""]
    for table in _tables(audit):
        lines += [f"### {md(table.audit)}", "", md(table.meaning), ""]
        sides = "".join("r" if head in table.numbers else "l" for head in table.heads)
        lines += [*markdown_table([*map(md, table.heads)], sides, [[*map(md, cells)] for cells in table.rows]), ""]
    lines += markdown_section("Not run", [f"{names}: {why}" for names, why in audit.not_run])
    lines += markdown_section("Without a result", [f"{absent.label}: {absent.reason}" for absent in audit.missing])
    if audit.rows:
        lines += [f"## Rows ({len(audit.rows)} of {audit.n_rows})", ""]
    for row in audit.rows:
        lines += [f"- **{md(row.question) or f'text {row.row_id}'}** True answer: {md(row.answer)}"]
        for answer in row.answers:
            text = "not generated" if answer.text is None else md(answer.text) or "(nothing)"
            lines.append(f"    - {md(answer.model)}: {text}" + (f" ({md(answer.note)})" if answer.note else ""))
    lines += [""] if audit.rows else []
    lines += ["## Models", "", md(ROLES), "", *(f"- {md(role)}: {md(name)}" for role, name in audit.models), ""]
    lines += [*(f"    {line}" for line in audit.command.splitlines()), ""] if audit.command else []
    lines += markdown_section("Limits", [*LIMITS, *audit.notes])
    return "\n".join(lines).rstrip() + "\n"


def _about(audit: ModelAudit) -> str:
    """Return how to read the tables, without comparisons if there are none."""
    return ABOUT + (COMPARED if any(math.isfinite(line.retain) for line in audit.findings) else "")


def _tables(audit: ModelAudit) -> list[AuditTable]:
    """Return a table for each audit, without columns that have no value in any row."""
    tables = []
    for name, group in groupby(audit.findings, key=lambda line: line.audit):
        rows = [line_cells(line) for line in group]
        empty = ("", ABSENT, NOT_MEASURABLE)
        used = [k for k, head in enumerate(HEADS[1:]) if head == "finding" or any(r[k] not in empty for r in rows)]
        heads = tuple(TITLES.get(HEADS[1:][k], HEADS[1:][k]) for k in used)
        cells = tuple(tuple(row[k] for k in used) for row in rows)
        tables.append(AuditTable(name, audit.meanings.get(name, ""), heads, cells))
    return tables
