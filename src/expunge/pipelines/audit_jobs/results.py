"""Results of audit jobs: the results of probes, the readings, and the tables of rows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.audits import AuditFindings, AuditPlan, RelearnSpec
from expunge.core.files import write_json
from expunge.core.numbers import plain
from expunge.core.records import token_records
from expunge.engine.job import Job
from expunge.engine.show import show
from expunge.engine.store import Store
from expunge.metrics.api import MetricResult
from expunge.metrics.compute import compute
from expunge.metrics.results import read_results
from expunge.report.model import AuditLine

if TYPE_CHECKING:
    from expunge.pipelines.study_jobs.training_jobs import TrainingJobs

TOLD, ROWS = "audit.json", "rows.parquet"
EVAL_NAME = "AUDIT"


@dataclass(frozen=True)
class AuditSubject:
    """A model of a study: its name, the job that trains it (None: the configured model), and its training seed.

    jobs: creates the jobs of a finished model, whose settings name it; None: those of the study.
    """

    name: str
    label: str
    role: str
    train_seed: int
    seed: int | None
    model: Job | None
    jobs: TrainingJobs | None = None


@dataclass(frozen=True)
class AuditEntry:
    """One audit of one unlearned model."""

    name: str
    subject: AuditSubject
    job: Job


def probe_results(audit_plan: AuditPlan, folders: Mapping[str, Path]) -> dict[str, dict[str, MetricResult]]:
    """Return the results of each probe of one model, from their folders; of relearning after each step."""
    out: dict[str, dict[str, MetricResult]] = {}
    for probe in audit_plan.probes:
        folder = folders[probe.name]
        if not isinstance(probe.change, RelearnSpec):
            out[probe.name] = read_results(folder / f"{EVAL_NAME}_EVAL.json")[0]
            continue
        rows = {m.rows for m in probe.panel if m.rows}
        for step in probe.change.steps:
            tokens = {name: token_records(pq.read_table(folder / tokens_file(name, step))) for name in rows}
            out[f"{probe.name}@{step}"] = compute(probe.panel, {"tokens": tokens})
    return out


def write_findings(folder: Path, findings: AuditFindings) -> None:
    """Write the readings as JSON, and the table of rows, if there is one, as parquet."""
    write_json(folder / TOLD, [plain(dataclasses.asdict(reading)) for reading in findings.readings])
    if any(len(column) for column in findings.rows.values()):
        pq.write_table(pa.table({name: list(column) for name, column in findings.rows.items()}), folder / ROWS)


def audit_lines(one: AuditEntry, store: Store, seed: Any) -> list[AuditLine]:
    """Return the readings of a finished audit."""
    out = []
    for reading in json.loads((store.path(one.job) / TOLD).read_text(encoding="utf-8")):
        texts = ("name", "verdict", "note", "rows")
        numbers: dict[str, Any] = {k: _number(v) for k, v in reading.items() if k not in ("details", *texts)}
        numbers |= {k: reading[k] for k in texts}
        details = {k: _number(v) for k, v in reading["details"].items()}
        out.append(AuditLine(audit=one.name, label=one.subject.label, seed=seed, details=details, **numbers))
    return out


def _number(value: float | str | None) -> float:
    """Return a number of JSON: null is NaN, and infinities are texts."""
    return math.nan if value is None else float(value)


def probe_columns(one: AuditEntry, store: Store) -> dict[str, list[Any]]:
    """Return the table of a finished audit whose rows are questions of their own; empty for all other audits."""
    file = store.path(one.job) / ROWS
    if not file.exists() or not {"kind", "question", "answer"} <= set(pq.read_schema(file).names):
        return {}
    columns: dict[str, list[Any]] = pq.read_table(file).to_pydict()
    return columns


def show_audit_rows(audited: Sequence[AuditEntry], store: Store, folder: Path) -> list[Path]:
    """Write the row tables of finished audits to a folder as `<model> <audit>.parquet`, over earlier ones."""
    return [
        file
        for one in audited
        for file in show(
            one.job, store, folder, names={ROWS: f"{one.job.folder_name.rpartition('-')[0]}.parquet"}, replace=True
        )
    ]


def tokens_file(rows: str, step: int) -> str:
    """Return the file of a set's token records after a step of relearning."""
    return f"{rows}.{step}.tokens.parquet"
