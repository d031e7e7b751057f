"""`expunge results`: the results of studies as a table, by SQL, or as text to paste."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from expunge.core.errors import ConfigError
from expunge.report.query import FILE, Format, is_missing, query, read_results, results_table, to_text

WIDE = 10_000  # characters
STUDIES = Path("saves/study")
MEANS = "SELECT study, role, label, metric, n, mean, sd, ci_low, ci_high FROM means WHERE metric NOT LIKE '%.%'"


def show_results(overrides: Sequence[str], sql: str | None, style: Format | None) -> int:
    """Print the result of a query; without one, the means over seeds of every metric."""
    if sql is not None and not sql.strip():
        raise ConfigError("--query: is empty; give SQL over results and means, or leave it out")
    frame = query(_results(overrides), sql or MEANS)
    if style is not None:
        sys.stdout.write(to_text(frame, style))
        return 0
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in frame.columns:
        shown.add_column(str(column))
    for row in frame.itertuples(index=False):
        # Text, not str: rich would interpret brackets in a label as markup.
        shown.add_row(*(Text("" if is_missing(v) else f"{v:.4g}" if isinstance(v, float) else str(v)) for v in row))
    Console(width=WIDE).print(shown)  # no line breaks, because a cut name is ambiguous
    return 0


def _results(overrides: Sequence[str]) -> pa.Table:
    if overrides:
        from expunge.cli.api import load_study

        study = load_study(overrides)
        stored = study.stored()
        if not stored.runs:
            raise ConfigError(f"study: {stored.study} has no results in {study.store.root} yet; run `expunge run`")
        if stored.missing:
            print(f"note: {len(stored.missing)} models have no results yet, or failed", file=sys.stderr)
        return results_table(stored)
    files = sorted(STUDIES.glob(f"*/{FILE}"))
    if not files:
        raise ConfigError(f"study: missing, and no study has run here (no {STUDIES}/*/{FILE}); give study=NAME")
    return read_results(files)
