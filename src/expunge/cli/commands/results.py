"""`expunge results`: the results of studies as a table, by SQL, or as text to paste."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from expunge.core.console import Console
from expunge.core.errors import ConfigError
from expunge.core.files import write_bytes
from expunge.core.terminal import complain, say
from expunge.report.query import FILE, Format, is_missing, query, read_results, results_table, table_bytes, to_text

if TYPE_CHECKING:
    import pandas

WIDE = 10_000  # characters
PART = 10_000  # rows that are formatted at a time, because rich needs a kilobyte for each
STUDIES = Path("saves/study")
MEANS = "SELECT study, role, label, metric, n, mean, sd, ci_low, ci_high FROM means WHERE metric NOT LIKE '%.%'"
MODEL = ["role", "label"]
NOTE = "ci_low, ci_high: the 95 % interval, over rows if n is 1, else over the n seeds"


def show_results(overrides: Sequence[str], sql: str | None, style: Format | None) -> int:
    """Print the result of a query; without one, the means over seeds of every metric, a table for each model."""
    if sql is not None and not sql.strip():
        raise ConfigError("--query: is empty; give SQL over results and means, or leave it out")
    table, code = _results(overrides)
    frame = query(table, sql or (MEANS if style is None else MEANS.replace(" FROM", ", interval FROM")))
    if style is not None:
        sys.stdout.write(to_text(frame, style))
        return code
    if sql is not None:
        _print(frame)
        return code
    for number, (study, part) in enumerate(frame.groupby("study", sort=False)):
        say("\n" * (number > 0) + f"study {study}")
        _print_models(part.drop(columns="study"))
    say(f"\n{NOTE}")
    return code


def push_table(parsed: argparse.Namespace, command: str) -> int:
    """Upload the whole table of results as a dataset. Returns the exit code."""
    from expunge.cli.commands.push import push_results

    if parsed.query is not None or parsed.format is not None:
        raise ConfigError("--push: uploads the whole table; leave out --query and --format")
    table, code = _results(parsed.overrides)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        write_bytes(file, table_bytes(table))
        push_results(parsed, file, sorted(set(table["study"].to_pylist())), command)
    return code


def _print_models(frame: pandas.DataFrame) -> None:
    """Print a table for each model below its role and label, so that a line fits a terminal of 80 columns."""
    numbers = frame.drop(columns=MODEL)
    widths = [max(len(str(name)), *map(len, map(_cell, numbers[name]))) for name in numbers.columns]
    for (role, label), part in frame.groupby(MODEL, sort=False, dropna=False):
        say(f"\nrole {role}, label {label}")
        _print(part.drop(columns=MODEL), widths)


def _print(frame: pandas.DataFrame, widths: Sequence[int | None] | None = None) -> None:
    """Print a table. widths: the smallest width of each column, so that several tables have the same columns."""
    if len(frame) > PART and widths is None:
        widths = [max(cell_len(str(name)), *map(cell_len, map(_cell, frame[name]))) for name in frame.columns]
    for start in range(0, max(len(frame), 1), PART):
        shown = Table(box=None, pad_edge=False, header_style="bold", show_header=start == 0)
        for column, width in zip(frame.columns, widths or [None] * len(frame.columns), strict=True):
            shown.add_column(str(column), min_width=width)
        for row in frame.iloc[start : start + PART].itertuples(index=False):
            # Text, not str: rich would interpret brackets in a label as markup.
            shown.add_row(*(Text(_cell(value)) for value in row))
        Console(width=WIDE).print(shown)  # no line breaks, because a cut name is ambiguous


def _cell(value: object) -> str:
    return "" if is_missing(value) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _results(overrides: Sequence[str]) -> tuple[pa.Table, int]:
    """Return the results, and the exit code: 1 if damaged results are left out."""
    if overrides:
        from expunge.cli.reporting import print_damage
        from expunge.cli.run_folders import with_words
        from expunge.pipelines.study.handle import load_study

        overrides = with_words(overrides)
        study = load_study(overrides)
        stored = study.stored()
        if not stored.runs:
            command = shlex.join(["expunge", "run", *overrides])
            raise ConfigError(f"study: {stored.study} has no results in {study.store.root} yet; first run: {command}")
        if stored.missing:
            complain(f"note: {len(stored.missing)} models have no results yet, or failed")
        return results_table(stored), print_damage(study)
    files = [file for file in sorted(STUDIES.glob(f"*/{FILE}")) if not file.parent.is_symlink()]
    if not files:
        raise ConfigError(f"study: missing, and no study has run here (no {STUDIES}/*/{FILE}); give study=NAME")
    return pa.concat_tables([_named(read_results([file]), file.parent.name) for file in files]), 0


def _named(table: pa.Table, folder: str) -> pa.Table:
    """Return results whose study is the name of their folder, because variants of a study share its name."""
    at = table.schema.get_field_index("study")
    return table.set_column(at, table.schema.field(at), pa.array([folder] * len(table), pa.string()))
