"""The program of `report.query` in a limited process: SQL by DuckDB. It imports nothing of the package."""

from __future__ import annotations

import base64
import pickle
from typing import Any

CHUNK = 100  # DuckDB's vectors of at most 2,048 rows that are read at a time
MOST_OBJECTS = 5  # bytes of Python objects for a byte of a stored result


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Run one statement over the tables of a request.

    Args:
        request: `tables`, Arrow streams in base64 by name; `views`, SQL before the statement; `sql`; `settings` of
            DuckDB; `vectors` and `bytes`, the largest result.

    Returns:
        `frame`, the result as a pickled data frame in base64; or `kind` and `problem` of a refusal.
    """
    import duckdb
    import pyarrow as pa

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
            return _result(database.execute(statements[0]), request["vectors"], request["bytes"])
        except duckdb.OutOfMemoryException:
            return {"kind": "memory", "problem": ""}
        except duckdb.CatalogException as error:
            return {"kind": "catalog", "problem": str(error)}
        except duckdb.Error as error:
            return {"kind": "error", "problem": str(error)}


def _result(rows: Any, vectors: int, largest: int) -> dict[str, Any]:
    """Return the rows of a statement, unless they are too many or too long."""
    import pandas

    parts: list[Any] = []
    in_memory = 0
    for number in range(0, vectors + 1, CHUNK):
        part = rows.fetch_df_chunk(CHUNK)
        if parts and not len(part):
            break
        if number >= vectors:
            return {"kind": "rows", "problem": str(sum(map(len, parts)))}
        in_memory += int(part.memory_usage(deep=True).sum())
        if in_memory > MOST_OBJECTS * largest:
            return {"kind": "bytes", "problem": ""}
        parts.append(part)
    frame = pandas.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    data = pickle.dumps(frame, protocol=5)
    if len(data) > largest:
        return {"kind": "bytes", "problem": ""}
    return {"frame": base64.b64encode(data).decode()}
