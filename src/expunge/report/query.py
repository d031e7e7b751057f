"""The results of one or many studies as tables to query: parquet files, SQL by DuckDB, CSV, LaTeX and markdown."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.errors import ConfigError, DataError, one_line
from expunge.core.files import write_bytes
from expunge.core.limited import LimitError, ProcessLimits, run_limited
from expunge.core.numbers import finite
from expunge.report.markup import cell_text, markdown_table, markdown_text
from expunge.report.model import ReportModel, ReportRun

if TYPE_CHECKING:
    import pandas

Format = Literal["csv", "latex", "markdown", "json"]
FORMATS: tuple[Format, ...] = ("csv", "latex", "markdown", "json")
FILE = "results.parquet"
CHECKSUM = b"sha256"
THREADS = min(4, os.cpu_count() or 1)
LIMITS = ProcessLimits(cpu_s=60 * THREADS, wall_s=60.0, memory=2 << 30)  # of a query; half the memory is DuckDB's
ROWS, BYTES = 2_000_000, 100 << 20  # largest result of a query
MOST_LATEX = 100_000  # rows
SETTINGS = {"autoinstall_known_extensions": False, "temp_directory": ""}  # no extension is loaded, no file is written
PROGRAM = Path(__file__).with_name("query_child.py")

RESULTS = pa.schema(
    [
        ("study", pa.string()),
        ("cell", pa.string()),  # of a grid; the label starts with it
        ("label", pa.string()),
        ("role", pa.string()),  # full, retain or unlearn
        ("method", pa.string()),
        ("settings", pa.string()),
        ("seed", pa.string()),
        ("metric", pa.string()),  # a metric's name; its further numbers as name.extra
        ("value", pa.float64()),  # null if undefined
        ("reason", pa.string()),  # why it is undefined
        ("ci_low", pa.float64()),  # bootstrap interval over the rows of this one model
        ("ci_high", pa.float64()),
        ("wall_s", pa.float64()),
        ("steps", pa.int64()),
    ]
)

MEANS = """
CREATE VIEW means AS
SELECT m.* EXCLUDE (low, high),
       CASE WHEN m.n = 1 THEN low ELSE mean - t * sd / sqrt(m.n) END AS ci_low,
       CASE WHEN m.n = 1 THEN high ELSE mean + t * sd / sqrt(m.n) END AS ci_high,
       CASE WHEN m.n > 1 THEN 'seeds' WHEN m.n = 1 AND low IS NOT NULL THEN 'rows' END AS interval
FROM (SELECT study, any_value(cell) AS cell, label, role, any_value(method) AS method, metric,
             count(value) AS n, avg(value) AS mean, stddev_samp(value) AS sd, max(ci_low) AS low, max(ci_high) AS high
      FROM results GROUP BY study, label, role, metric) m
LEFT JOIN student ON student.n = m.n
ORDER BY study, role, label, metric
"""


def results_table(model: ReportModel) -> pa.Table:
    """Return one line per run and number, in the schema RESULTS."""
    return pa.Table.from_pylist([line for run in model.runs for line in _lines(model.study, run)], schema=RESULTS)


def _lines(study: str, run: ReportRun) -> list[dict[str, Any]]:
    about: dict[str, Any] = {
        "study": study,
        "cell": run.cell,
        "label": run.label,
        "role": run.role,
        "method": run.method,
        "settings": run.settings,
        "seed": None if run.seed is None else str(run.seed),
        "wall_s": run.wall_s,
        "steps": run.steps,
    }
    out = []
    for name, result in run.results.items():
        ends = {key: finite(result.extra.get(key, math.nan)) for key in ("ci_low", "ci_high")}
        out.append(about | {"metric": name, "value": finite(result.value), "reason": result.reason} | ends)
        out += [
            about | {"metric": f"{name}.{key}", "value": finite(value)}
            for key, value in result.extra.items()
            if key not in ends
        ]
    return out


def write_results(model: ReportModel, folder: Path) -> Path:
    """Write the results of a study as one parquet file, atomically."""
    write_bytes(folder / FILE, table_bytes(results_table(model)))
    return folder / FILE


def table_bytes(results: pa.Table) -> bytes:
    """Return a table of results as the bytes of a parquet file, with the checksum of its values."""
    sink = pa.BufferOutputStream()
    pq.write_table(results.replace_schema_metadata({CHECKSUM: _checksum(results)}), sink)
    return bytes(sink.getvalue().to_pybytes())


def _checksum(results: pa.Table) -> bytes:
    """Return the SHA-256 of the values of a table."""
    return hashlib.sha256(json.dumps(results.to_pylist()).encode()).hexdigest().encode()


def read_results(files: Sequence[Path]) -> pa.Table:
    """Read and concatenate the results of several studies. Raises DataError for a file without results."""
    tables = []
    for file in files:
        try:
            table = pq.read_table(file)
            stored = (table.schema.metadata or {}).get(CHECKSUM)
            if stored is not None and stored != _checksum(table):
                raise ValueError("its checksum is not the stored one; `expunge report` writes it again")
            if "cell" not in table.column_names:  # a file from before this column existed
                table = table.append_column("cell", pa.nulls(len(table), pa.string()))
            tables.append(table.select(RESULTS.names).cast(RESULTS))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DataError(f"{file}: not a table of results: {one_line(error)}") from None
    return pa.concat_tables(tables) if tables else RESULTS.empty_table()


def query(results: pa.Table, sql: str, *, limits: ProcessLimits = LIMITS) -> pandas.DataFrame:
    """Run SQL over two tables: `results` (RESULTS), and `means`.

    `means` is over the seeds of a label, with n, sd and the 95 % Student interval, which is null for one seed. SQL runs
    in a limited process, and has no access to files and the network.

    Args:
        results: The table of results.
        sql: One statement.
        limits: The limits of the process.

    Raises:
        ConfigError: If DuckDB rejects the query, if it takes too much time or memory, or if its result is too large.
    """
    import duckdb

    request = {
        "tables": {"results": _stream(results), "student": _stream(_student(results.num_rows))},
        "views": [MEANS],
        "sql": sql,
        "settings": {"memory_limit": f"{limits.memory >> 21}MiB", "threads": THREADS} | SETTINGS,
        "rows": ROWS,
        "bytes": BYTES,
    }
    try:
        answer = run_limited(PROGRAM, request, limits, fork_after=lambda: duckdb)
    except LimitError as error:
        raise ConfigError(f"--query: {error}; select fewer rows, join fewer tables") from None
    if answer is None:
        raise ConfigError("--query: DuckDB ended without an answer; write the query in another way")
    if "frame" in answer:
        table = pa.ipc.open_stream(base64.b64decode(answer["frame"])).read_all()
        frame = table.to_pandas(date_as_object=False)
        texts = [name for name, kind in zip(table.column_names, table.schema.types, strict=True) if _is_text(kind)]
        return frame.assign(**{name: frame[name].astype(object).where(frame[name].notna(), None) for name in texts})
    raise ConfigError(f"--query: {_problem(answer['kind'], answer['problem'], limits)}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _stream(table: pa.Table) -> str:
    """Return a table as an Arrow stream in base64."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return base64.b64encode(sink.getvalue()).decode()


def _problem(kind: str, problem: str, limits: ProcessLimits) -> str:
    """Return why a query has no result, on one line, without DuckDB's suggestions of internal tables."""
    text = " ".join(problem.partition("\nDid you mean")[0].split())
    return {
        "count": f"must be one SQL statement, got {text}",
        "rows": f"the result has more than {text} rows; select fewer, or add LIMIT",
        "bytes": f"the result has more than {BYTES >> 20} MB; select fewer rows, or shorter texts",
        "memory": f"needs more than {limits.memory >> 21} MB of memory; select fewer rows, join fewer tables",
        "catalog": f"{text} (the tables are results and means)",
    }.get(kind, text)


def _student(largest: int) -> pa.Table:
    """Return the 97.5 % quantile of Student's t for means of n values, n = 2, 3, ..."""
    from scipy.special import stdtrit  # the ppf of scipy.stats.t, whose import takes a second

    n = list(range(2, max(largest, 2) + 1))
    return pa.table({"n": n, "t": stdtrit([float(k - 1) for k in n], 0.975)})


def to_text(frame: pandas.DataFrame, style: Format) -> str:
    """Format a table as text. Missing values are empty (null in JSON); markup is escaped. LaTeX needs booktabs.

    Raises ConfigError for more rows of LaTeX than a document could show; pandas needs two kilobytes for each.
    """
    if style == "csv":
        guarded = frame.map(lambda value: cell_text(value) if isinstance(value, str) else value)
        return str(guarded.rename(columns=lambda c: cell_text(str(c))).to_csv(index=False, lineterminator="\n"))
    if style == "latex":
        if len(frame) > MOST_LATEX:
            raise ConfigError(f"--format latex: the result has {len(frame)} rows; add LIMIT (at most {MOST_LATEX})")
        return str(frame.to_latex(index=False, escape=True, na_rep="", float_format=_short))
    if style == "json":
        return (
            json.dumps(json.loads(frame.to_json(orient="records", double_precision=15)), indent=1, ensure_ascii=False)
            + "\n"
        )
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    return "\n".join(markdown_table([_cell(c) for c in frame.columns], "l" * len(frame.columns), rows)) + "\n"


def _cell(value: Any) -> str:
    """Format a value for one line of markdown."""
    if is_missing(value):
        return ""
    return markdown_text(_short(value) if isinstance(value, float) else str(value))


def is_missing(value: Any) -> bool:
    """Return whether a value of a query result is null or NaN. Lists and structs are values."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _short(value: float) -> str:
    return f"{value:.4g}"
