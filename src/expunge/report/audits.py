"""Findings of audits as markdown, JSON and a parquet table."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.numbers import plain
from expunge.report.model import AuditLine, ReportModel
from expunge.report.overview import by_audit

JSON, TABLE = "audits.json", "audits.parquet"
HEADS = ("model", "finding", "value", "retain", "full", "position", "verdict", "note")
NUMBERS = HEADS[2:6]
AUDITS = pa.schema(
    [
        *((name, pa.string()) for name in ("study", "audit", "name", "label", "seed")),
        *(
            (name, pa.float64())
            for name in (
                "value", "low", "high", "retain", "full", "position", "position_low", "position_high", "margin",
                "p_value", "p_equal", "effect", "above", "below", "rows_needed",
            )
        ),
        ("rows", pa.int64()),
        *((name, pa.string()) for name in ("verdict", "note")),
    ]
)  # fmt: skip
ABOUT = (
    "Every audit ran on the model and on its two controls, over the same rows. The position is 0 at the retain model "
    "and 1 at the target model (full). Brackets are 95 % intervals of the paired difference from the retain model, "
    "without the spread over training seeds. Each verdict here is that of one finding, without correction for several."
)


def audit_rows(model: ReportModel) -> dict[str, list[tuple[str, ...]]]:
    """Return the cells of the findings of each audit, in the order of HEADS."""
    return {audit: [_cells(line) for line in lines] for audit, lines in by_audit(model).items()}


def _cells(line: AuditLine) -> tuple[str, ...]:
    return (
        line.label if line.seed is None else f"{line.label} (seed {line.seed})",
        *line_cells(line),
    )


def line_cells(line: AuditLine) -> tuple[str, ...]:
    """Return the cells of a finding without its model, in the order of HEADS[1:]."""
    return (
        line.name,
        _number(line.value, line.low, line.high),
        _number(line.retain),
        _number(line.full),
        _number(line.position, line.position_low, line.position_high),
        line.verdict,
        line.note,
    )


def audits_json(model: ReportModel) -> str:
    """Return every finding with all its numbers as JSON; null for NaN, text for infinity."""
    lines = [plain(asdict(line)) for line in model.audits]
    return json.dumps(lines, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def audits_parquet(model: ReportModel) -> bytes:
    """Return a parquet table with a line per finding, in the schema AUDITS: null for NaN."""
    lines = [_line(model, line) for line in model.audits]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines, schema=AUDITS), out)
    return out.getvalue()


def _line(model: ReportModel, line: AuditLine) -> dict[str, Any]:
    cells = {k: v for k, v in asdict(line).items() if k != "details"}
    cells |= {"study": model.study, "seed": None if line.seed is None else str(line.seed)}
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in cells.items()}


def _number(value: float, low: float = math.nan, high: float = math.nan) -> str:
    if not math.isfinite(value):
        return "\u2013"
    ends = f" [{low:.3g}, {high:.3g}]" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{value:.3g}{ends}"
