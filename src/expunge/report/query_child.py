"""The program of `report.query` in a limited process: SQL by DuckDB. It imports nothing of the package."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow as pa

CHUNK = 200_000  # rows that are read at a time


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Run one statement over the tables of a request.

    Args:
        request: `tables`, Arrow streams in base64 by name; `views`, SQL before the statement; `sql`; `settings` of
            DuckDB; `rows` and `bytes`, the largest result.

    Returns:
        `frame`, the result as an Arrow stream in base64; or `kind` and `problem` of a refusal.
    """
    import duckdb

    with duckdb.connect(":memory:", config=request["settings"]) as database:
        for name, stream in request["tables"].items():
            database.register(name, pa.ipc.open_stream(base64.b64decode(stream)).read_all())
        for view in request["views"]:
            database.execute(view)
        database.execute("SET enable_external_access = false")
        try:
            statements = database.extract_statements(request["sql"])
            if len(statements) != 1:
                return {"kind": "count", "problem": str(len(statements))}
            relation = database.sql(statements[0])
            if relation is None:
                return {"kind": "error", "problem": "the statement has no rows as its result; write SELECT ..."}
            return _result(relation, request["rows"], request["bytes"])
        except duckdb.OutOfMemoryException:
            return {"kind": "memory", "problem": ""}
        except duckdb.CatalogException as error:
            return {"kind": "catalog", "problem": str(error)}
        except duckdb.Error as error:
            return {"kind": "error", "problem": str(error)}


def _result(relation: Any, most_rows: int, most_bytes: int) -> dict[str, Any]:
    """Return the rows of a statement, unless they are too many or too long."""
    read = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch  # its name before DuckDB 2.0
    reader = read(CHUNK)
    batches: list[Any] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows > most_rows:
            return {"kind": "rows", "problem": str(most_rows)}
        if size > most_bytes:
            return {"kind": "bytes", "problem": ""}
    table = pa.Table.from_batches(batches, reader.schema)
    table = pa.Table.from_arrays([_plain(column) for column in table.columns], names=_unique(table.column_names))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return {"frame": base64.b64encode(sink.getvalue()).decode()}


def _unique(names: list[str]) -> list[str]:
    """Return names of columns, with a number after one that occurs again."""
    out: list[str] = []
    for name in names:
        k = 0
        while (own := f"{name}_{k}" if k else name) in out:
            k += 1
        out.append(own)
    return out


def _plain(column: Any) -> Any:
    """Return a column with decimals as float64, and with bytes, intervals and UUIDs as text."""
    kind = column.type
    if pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    if pa.types.is_binary(kind) or pa.types.is_interval(kind) or isinstance(kind, pa.BaseExtensionType):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    return column
