"""Shapes of other programs' records: rows below one key, and conversations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def unwrapped(raw: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows below the only key of all records, `{"data": {...}}`; other records unchanged."""
    keys = {key for record in raw for key in record}
    values = [value for record in raw for value in record.values()]
    if len(keys) != 1 or not values or not all(isinstance(value, dict) for value in values):
        return list(raw)
    if {"text", "answer_start"} <= values[0].keys():
        return list(raw)  # SQuAD's answers
    return values


def rows_by_name(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the rows of `{"0": {"question": ...}, "1": {...}}`; None for any other object."""
    rows = list(value.values())
    if not rows or not all(key.isdigit() for key in value) or not all(isinstance(row, dict) and row for row in rows):
        return None
    return None if any(key.isdigit() for row in rows for key in row) else rows


def rows_below(first: Mapping[str, Any], where: str) -> str | None:
    """Return the error for a record whose rows are in a list or an object below it; None for other records."""
    nested = [k for k, v in first.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if turns := [k for k in nested if is_turn(first[k][0])]:
        return (
            f"{where}: {', '.join(repr(k) for k in turns)} list turns of conversations; name the column to read "
            "messages, or a prompt and its answer prompt and completion"
        )
    step = " | .[]"
    if not nested:
        nested, step = [k for k, v in first.items() if isinstance(v, dict) and v], ""
    if not nested:
        return None
    program = f"[.. | .{json.dumps(nested[0])}? // empty{step}]"
    return (
        f"{where}: its rows are below {', '.join(repr(n) for n in nested[:4])}; write them to a separate file: "
        f"jq -s {shlex.quote(program)} {shlex.quote(where)} > rows.json"
    )


def is_turn(value: Mapping[str, Any]) -> bool:
    """Return whether an object is one turn of a conversation."""
    return not value.keys().isdisjoint({"role", "from"}) and not value.keys().isdisjoint({"content", "value"})


def table_in_text(
    texts: Sequence[str], delimiters: Iterable[str], is_header: Callable[[list[str]], bool]
) -> str | None:
    """Return the usual ending of a table's name if plain texts are the lines of one; None for other texts.

    is_header: whether some names are columns of questions and answers.
    """
    if any(is_header([name.strip().strip('"').lower() for name in texts[0].split(d)]) for d in delimiters):
        return ".csv"
    try:
        return ".jsonl" if all(isinstance(json.loads(text), dict | list) for text in texts) else None
    except (ValueError, RecursionError):
        return None
