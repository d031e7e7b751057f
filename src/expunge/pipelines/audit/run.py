"""Run `expunge audit`: the jobs of the models and their audits, the verdict, and the report.

Every step is a job of a store in the output folder, so a call that was stopped continues with the next step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from expunge.core.errors import JobError
from expunge.core.files import write_json, write_text
from expunge.core.numbers import plain
from expunge.engine.job import Job, in_order
from expunge.engine.retention import garbage, remove
from expunge.engine.run import JobEvent, PlannedJob, plan, run
from expunge.engine.store import Store
from expunge.metrics.equivalence import KNOWN, OVER, TRACE
from expunge.metrics.verdict import Verdict
from expunge.models.config import model_name
from expunge.pipelines.audit.contents import audit_contents
from expunge.pipelines.audit.request import PreparedAudit
from expunge.pipelines.audit_jobs.results import show_audit_rows
from expunge.pipelines.output_folder import claimed_folder
from expunge.pipelines.study.results import report_model
from expunge.report import examples
from expunge.report.audit_report import ModelAudit, audit_html, audit_markdown

REPORT, TABLES = "audit_report", "audits"
LEFT = (TRACE, KNOWN, OVER)  # findings that differ from a model that never saw the rows
Show = Callable[[list[PlannedJob]], AbstractContextManager[Callable[[JobEvent], None]]]


@dataclass(frozen=True)
class AuditOutcome:
    """A finished audit: its folder, verdict, report, failures (job -> reason) and exit code."""

    folder: Path
    verdict: Verdict
    report: ModelAudit
    failures: Mapping[str, str]

    @property
    def page(self) -> Path:
        """The page of the report."""
        return self.folder / f"{REPORT}.html"

    @property
    def code(self) -> int:
        """The exit code: 1 if a job failed, 3 if a finding differs from a model that never saw the rows, else 0."""
        if self.failures:
            return 1
        answers = (self.verdict.forgot, self.verdict.detectable, self.verdict.robust)
        return 3 if self.verdict.broken or any(answer.finding in LEFT for answer in answers) else 0


def carry_out_audit(prepared: PreparedAudit, show: Show, command: str = "") -> AuditOutcome:
    """Run the missing jobs and write the report. Raises the error of a job that measures the audited model."""
    out, graph = prepared.request.out, prepared.graph
    settings = {"model": model_name(str(prepared.request.study.model.source)), "forget": str(graph.study.forget)}
    with claimed_folder(out, prepared.mark, settings, noun="audit") as work:
        store = Store(work)
        planned = plan(graph.jobs, store)
        with show(planned) as tell:
            outcome = run(graph.jobs, store, tell)
        measured = next(leaf.metrics for leaf in graph.leaves if leaf.role == "unlearn")
        if measured.key in outcome.failures:
            raise outcome.first or JobError(outcome.failures[measured.key])
        results = report_model(graph, outcome, store, command)
        report = audit_contents(prepared, results)
        _write(out, report, results.explorer)
        done = [one for one in graph.audits if one.job.key in outcome.records]
        show_audit_rows(done, store, out / TABLES)
        _remove_temporary(graph.jobs, store)
    names = {job.key: job.name for job in in_order(graph.jobs)}
    return AuditOutcome(out, report.verdict, report, {names[key]: why for key, why in outcome.failures.items()})


def _write(out: Path, report: ModelAudit, rows: Any) -> None:
    """Write the report as page, text and JSON, and the table of all rows."""
    write_text(out / f"{REPORT}.md", audit_markdown(report))
    write_json(out / f"{REPORT}.json", report_values(report))
    pq.write_table(examples.rows_table(rows), out / examples.FILE)
    write_text(out / f"{REPORT}.html", audit_html(report))


def report_values(report: ModelAudit) -> dict[str, Any]:
    """Return the report as plain values for JSON; null for NaN."""
    values: dict[str, Any] = plain(dataclasses.asdict(report))
    return values | {"verdict": report.verdict.to_dict()}


def _remove_temporary(jobs: list[Job], store: Store) -> None:
    """Remove weights that only a finished measurement needed, such as rounded ones."""
    needed = {job.key: job for job in in_order(jobs)}
    reasons = {key: "the jobs that read it are done" for key, job in needed.items() if job.ephemeral}
    remove([one for one in garbage(needed, reasons, store) if one.key in reasons], store)
