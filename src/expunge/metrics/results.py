"""Results as files, in the format of the field: EVAL.json with every row, SUMMARY.json with one number per metric.

EVAL.json     {metric: {"agg_value": number or null, "reason": ..., "extra": {...}, "value_by_index": {"0": {...}}}}
              and "parts" of a metric that is a mean of other metrics
SUMMARY.json  {metric: number or null}

A missing number is null, and `reason` explains it. Infinity (ln 0 in a row) is the text "inf" or "-inf". Our EVAL.json
also has an entry "_expunge" with metadata of the caller (model, examples).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, DataError, kind_of
from expunge.core.files import write_json
from expunge.core.numbers import plain
from expunge.metrics.api import MetricResult, Parts, Score

META = "_expunge"
_INFINITE = {"inf": math.inf, "-inf": -math.inf}


def write_results(
    folder: Path, results: Mapping[str, MetricResult], meta: Mapping[str, Any], *, prefix: str = ""
) -> None:
    """Write `<prefix>EVAL.json` and `<prefix>SUMMARY.json` (such as prefix "TOFU_") into a folder."""
    entries = {META: dict(meta)} | {name: _entry(result) for name, result in results.items()}
    write_json(folder / f"{prefix}EVAL.json", entries)
    write_json(folder / f"{prefix}SUMMARY.json", {name: plain(result.value) for name, result in results.items()})


def read_results(path: Path) -> tuple[dict[str, MetricResult], dict[str, Any]]:
    """Read an EVAL.json: ours, another project's of the same format (TOFU_EVAL.json), or a log of TOFU's authors.

    Statistics that are not numbers (the texts next to a ROUGE score) and entries below other keys (the sides of a
    membership attack) are ignored.

    Returns:
        The results by metric, and the metadata; {} for other projects' files.

    Raises:
        DataError: If the file cannot be read or has another format.
    """
    data = _load(path)
    if any(key.startswith("eval_log") for key in data):
        from expunge.metrics.tofu_log import read_tofu_log  # imports numpy, which reading our own files does not need

        return read_tofu_log(data, str(path)), {}
    if "avg_gt_loss" in data:
        raise DataError(f"{path}: one set of TOFU's published log; give the eval_log_aggregated.json next to it")
    meta = data.pop(META, {})
    if not isinstance(meta, dict):
        raise DataError(f"{path}: entry {META!r}: expected a group of keys, got {_short(meta)}")
    if data and all(v is None or _is_number(v) for v in data.values()):
        raise DataError(f"{path}: a summary, one number per metric; read the EVAL.json next to it instead")
    return {name: _result(path, name, entry) for name, entry in data.items()}, meta


def left_out(result: MetricResult) -> str | None:
    """Return a sentence on the rows without a value, or None if every row has one."""
    n = int(result.extra.get("n_missing", 0.0))
    return f"{n} row{'s have' if n > 1 else ' has'} no value and {'are' if n > 1 else 'is'} left out" if n else None


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected {{metric: {{'agg_value': ...}}}}, got {kind_of(data)}")
    return data


def _entry(result: MetricResult) -> dict[str, Any]:
    parts = {} if result.parts is None else {"parts": asdict(result.parts)}
    return {
        "agg_value": plain(result.value),
        "reason": result.reason,
        "extra": plain(dict(result.extra)),
        "value_by_index": {str(row): plain(dict(stats)) for row, stats in result.per_row.items()},
        **parts,
    }


def _result(path: Path, name: str, entry: Any) -> MetricResult:
    where = f"{path}: metric {name!r}"
    if not isinstance(entry, dict) or "agg_value" not in entry:
        raise DataError(f"{where}: expected a group with the key 'agg_value', got {_short(entry)}")
    value = _number(where, "agg_value", entry["agg_value"])
    reason = entry.get("reason")
    if reason is not None and not isinstance(reason, str):
        raise DataError(f"{where}: reason: expected text, got {_short(reason)}")
    if math.isnan(value) and reason is None:
        reason = f"no value in {path.name}"
    rows = _group(where, "value_by_index", entry.get("value_by_index"))
    extra = _group(where, "extra", entry.get("extra"))
    return MetricResult(
        value=value,
        reason=reason,
        per_row={
            _row_id(where, row): _statistics(f"{where}, row {row}", stats)
            for row, stats in sorted(rows.items(), key=lambda item: _row_id(where, item[0]))
        },
        extra={key: _number(where, f"extra.{key}", number) for key, number in extra.items()},
        parts=_parts(where, entry.get("parts")),
    )


def _parts(where: str, value: Any) -> Parts | None:
    if value is None:
        return None
    try:
        return decode(Parts, value, where=f"{where}: parts")
    except ConfigError as error:
        raise DataError(str(error)) from None


def _group(where: str, key: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DataError(f"{where}: {key}: expected a group of keys, got {_short(value)}")
    return value


def _row_id(where: str, row: str) -> int:
    if not (row.isascii() and row.isdigit()):
        raise DataError(f"{where}: value_by_index: a row's key must be its number, got {row!r}")
    return int(row)


def _statistics(where: str, stats: Any) -> dict[str, Score]:
    """Return the numbers of one row; null (a row that another project could not score) has none."""
    scores: dict[str, Score] = {}
    for key, value in _group(where, "statistics", stats).items():
        if isinstance(value, list) and all(_is_score(v) for v in value):
            scores[key] = [_number(where, key, v) for v in value]
        elif not isinstance(value, list) and _is_score(value):
            scores[key] = _number(where, key, value)
    return scores


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    return value is None or _is_number(value) or (isinstance(value, str) and value in _INFINITE)


def _number(where: str, key: str, value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    if not _is_number(value):
        raise DataError(f"{where}: {key}: expected a number or null, got {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
