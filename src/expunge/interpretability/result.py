"""Results as files: a frozen dataclass of numbers whose `lines` are flat records, one per line of a parquet table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.files import write_json

_COLUMNS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


class AnalysisResult(Protocol):
    """A frozen dataclass with `lines`: frozen dataclasses of numbers and texts, all of one class."""

    @property
    def lines(self) -> Sequence[Any]:
        """The records."""
        ...


def plain(value: Any) -> Any:
    """Convert a result to JSON types. NaN, which `reason` explains, is null; infinity is the text "inf" or "-inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def table(result: AnalysisResult) -> pa.Table:
    """Return the lines as a table with a typed column per field; NaN stays NaN. Empty without lines."""
    if not result.lines:
        return pa.table({})
    hints = get_type_hints(type(result.lines[0]))
    kinds = {name: next(t for t in (*get_args(hint), hint) if t in _COLUMNS) for name, hint in hints.items()}
    schema = pa.schema([(name, _COLUMNS[kind]) for name, kind in kinds.items()])
    return pa.Table.from_pylist([dataclasses.asdict(line) for line in result.lines], schema=schema)


def remarks(results: Mapping[str, AnalysisResult]) -> list[str]:
    """Return the reasons of missing numbers by analysis, and the number of rows that probes are tested on."""
    out = []
    for name, result in results.items():
        reasons = [why for line in result.lines if (why := getattr(line, "reason", None))]
        tested = [f"an AUC over {line.n_test} test rows" for line in result.lines if hasattr(line, "n_test")]
        out += [f"{name}: {text}" for text in dict.fromkeys((*reasons, *tested))]
    return out


def write(folder: Path, name: str, result: AnalysisResult) -> None:
    """Write `<name>.json` (all but the lines) and `<name>.parquet` (the lines) into a folder."""
    summary = {key: value for key, value in plain(result).items() if key != "lines"}
    write_json(folder / f"{name}.json", summary)
    pq.write_table(table(result), folder / f"{name}.parquet")
