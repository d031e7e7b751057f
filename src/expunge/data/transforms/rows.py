"""The rules on sets of rows: question and answer, or any other rows with metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from expunge.core.errors import DataError, nearest
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.transforms.apply import TransformItem, transform_item
from expunge.data.transforms.draws import Draws
from expunge.data.transforms.grammar import Rules

Ask = Callable[[str, dict[str, tuple[str, ...]]], str]


def ask_by_lines(question: str, values: dict[str, tuple[str, ...]]) -> str:
    """Return the question under a line for each key, in the format of a story's instructions."""
    return "".join(f"{key.capitalize()}: {', '.join(v)}\n" for key, v in values.items()) + question


def transform_rows(
    rows: ExampleSet, rules: Rules, *, refusals: Sequence[str], seed: int = 0, ask: Ask = ask_by_lines
) -> ExampleSet:
    """Apply the rules of `parse_rules(..., keys=...)` to rows: `meta` contains the values of a key, one or a list.

    `ask(question, values)` adds the keys that the rules write to the question of every row, changed or not. A refused
    row keeps its question, and one of `refusals` is its only answer; `meta["refused"]` lists the refused values. Rows
    are renumbered; `meta["source_row"]` is the number before. Raises DataError if a key is not in a row's `meta`, or if
    no row is left.
    """
    out: list[Example] = []
    read = {c.key for c in rules.filtering} - {"length"} | set(rules.written)
    for row in rows:
        values = {key: _values(rows, row, key) for key in sorted(read)}
        draws = Draws(seed, f"{rows.name}-{row.row_id}")
        changed = transform_item(TransformItem(draws.record_id, values, len(row.answer)), rules, draws)
        if changed is None:
            continue
        written = {key: changed.values[key] for key in rules.written}
        meta: dict[str, Any] = {**row.meta, "source_row": row.row_id}
        for key, now in written.items():
            if now != values[key]:
                meta[key] = list(now) if len(now) != 1 or isinstance(row.meta[key], list | tuple) else now[0]
        transformed = replace(row, row_id=len(out), meta=meta)
        if written:
            other = row.paraphrased_question
            transformed = replace(
                transformed,
                question=ask(row.question, written),
                paraphrased_question=None if other is None else ask(other, written),
            )
        if changed.refused:
            meta["refused"] = list(changed.refused)
            transformed = replace(transformed, answers={ANSWER: draws.pick("refusal answer", refusals)})
        out.append(transformed)
    if not out:
        raise DataError(f"filtering: none of the {len(rows)} rows of {rows.name} is left")
    return replace(rows, rows=tuple(out))


def _values(rows: ExampleSet, row: Example, key: str) -> tuple[str, ...]:
    if key not in row.meta:
        raise DataError(f"{rows.name} row {row.row_id}: no '{key}' in its metadata{nearest(key, row.meta)}")
    value = row.meta[key]
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value),)
