"""The rows of a study for the page, cut to the size limit of a page, and all of them as a table."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from expunge.report.model import Explorer, ReportEntry

FILE = "rows.parquet"
ASKED, SAID = 400, 240  # largest number of characters of a question or answer, and of a model's answer
PROBE = 200  # rows to estimate how many fit
MARGIN = 0.97


@dataclass(frozen=True)
class PackedExamples:
    """The rows for the page: `data` as text to unpack; how many of all rows; whether a text was cut."""

    data: str
    shown: int
    total: int
    cut: bool


def pack(text: str) -> str:
    """Return text as base64 of gzip; the result is deterministic."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def pack_rows(explorer: Explorer, limit: int) -> PackedExamples:
    """Select evenly spaced rows so that they take at most `limit` bytes in the page."""
    total = len(explorer.rows)
    rows = _thinned(explorer.rows, PROBE)
    data = _packed(explorer, rows)
    # The size of a few rows predicts how many fit; more rows compress better, so the second guess is closer.
    for _ in range(2):
        rows = _thinned(explorer.rows, int(len(rows) * limit / max(len(data), 1) * MARGIN))
        data = _packed(explorer, rows)
    while len(data) > limit and rows:
        rows = _thinned(explorer.rows, int(len(rows) * min(limit / len(data) * MARGIN, MARGIN)))
        data = _packed(explorer, rows)
    return PackedExamples(data, len(rows), total, any(_is_cut(row) for row in rows))


def _thinned(rows: tuple[ReportEntry, ...], n: int) -> tuple[ReportEntry, ...]:
    return rows if n >= len(rows) else tuple(rows[k * len(rows) // n] for k in range(n))


def _packed(explorer: Explorer, rows: Sequence[ReportEntry]) -> str:
    return pack(json.dumps(_columns(explorer, rows), ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _columns(explorer: Explorer, rows: Sequence[ReportEntry]) -> dict[str, Any]:
    """Arrange the rows by column, which compresses better than by row."""
    sets = list(dict.fromkeys(row.set for row in rows))
    n_models, n_scores = len(explorer.models), len(explorer.scores)
    return {
        "models": list(explorer.models),
        "scores": [{"name": score.name, "known": score.known} for score in explorer.scores],
        "full": explorer.full,
        "retain": explorer.retain,
        "sets": sets,
        "set": [sets.index(row.set) for row in rows],
        "id": [row.row_id for row in rows],
        "question": [_short(row.question, ASKED) for row in rows],
        "answer": [_short(row.answer, ASKED) for row in rows],
        "said": [[None if (t := row.said[m]) is None else _short(t, SAID) for row in rows] for m in range(n_models)],
        "values": [[[_rounded(row.scores[m][k]) for row in rows] for k in range(n_scores)] for m in range(n_models)],
    }


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "\u2026"


def _is_cut(row: ReportEntry) -> bool:
    return max(len(row.question), len(row.answer)) > ASKED or any(len(t) > SAID for t in row.said if t is not None)


def _rounded(value: float) -> float | int | None:
    """Round to three decimals, or to three digits if the number is large; None if it is not finite."""
    if not math.isfinite(value):
        return None
    rounded = round(value, 3) if abs(value) < 100 else float(f"{value:.3g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def rows_table(explorer: Explorer) -> pa.Table:
    """Return all rows in full, a line per row and model, with the model's answer (`says`) and each score."""
    n = len(explorer.models)
    rows = explorer.rows
    columns: dict[str, pa.Array] = {
        "set": pa.array([row.set for row in rows for _ in range(n)], pa.string()),
        "row_id": pa.array([row.row_id for row in rows for _ in range(n)], pa.int64()),
        "question": pa.array([row.question for row in rows for _ in range(n)], pa.string()),
        "answer": pa.array([row.answer for row in rows for _ in range(n)], pa.string()),
        "model": pa.array([name for _ in rows for name in explorer.models], pa.string()),
        "says": pa.array([text for row in rows for text in row.said], pa.string()),
    }
    for k, score in enumerate(explorer.scores):
        values = [None if math.isnan(s[k]) else s[k] for row in rows for s in row.scores]
        columns[score.name] = pa.array(values, pa.float64())
    return pa.table(columns)
