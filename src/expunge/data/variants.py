"""The same questions asked in other words and forms. Pure: a set of rows in, a set of rows out, with equal row ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.rows import Row, RowSet

REFUSAL = "refusal"
DIRECT = "Answer directly and in full: "


def asked(rows: RowSet, name: str, question: Callable[[Row], str]) -> RowSet:
    """The rows with another question each, under the name `<set>_<name>`."""
    made = tuple(dataclasses.replace(r, question=question(r), paraphrased_question=None) for r in rows)
    return dataclasses.replace(rows, name=f"{rows.name}_{name}", rows=made)


def prefixed(rows: RowSet, prefix: str, *, name: str = "direct") -> RowSet:
    """A text before each question."""
    return asked(rows, name, lambda r: prefix + r.question)


def upper(rows: RowSet) -> RowSet:
    """Questions in capitals."""
    return asked(rows, "upper", lambda r: r.question.upper())


def quoted(rows: RowSet) -> RowSet:
    """Questions within quotation marks."""
    return asked(rows, "quoted", lambda r: f'"{r.question}"')


def plain(rows: RowSet) -> RowSet:
    """Questions as plain text, to be continued: no template, no chat."""
    return dataclasses.replace(asked(rows, "plain", lambda r: r.question), form="completion")


def paraphrased(rows: RowSet) -> RowSet:
    """Questions in the other words that came with the data. Raises DataError for a row that has none."""

    def other(row: Row) -> str:
        if not row.paraphrased_question:
            raise DataError(f"{rows.name} row {row.row_id}: no paraphrased question")
        return row.paraphrased_question

    return asked(rows, "paraphrased", other)


VARIANTS: Mapping[str, Callable[[RowSet], RowSet]] = {
    "direct": lambda rows: prefixed(rows, DIRECT),
    "upper": upper,
    "quoted": quoted,
    "plain": plain,
    "paraphrased": paraphrased,
}


def variant_of(rows: RowSet, name: str) -> RowSet:
    """A set in one of the VARIANTS. Raises ConfigError for another name."""
    if name not in VARIANTS:
        raise ConfigError(f"no way to ask named {name!r}{nearest(name, VARIANTS)}")
    return VARIANTS[name](rows)


def with_refusals(rows: RowSet, refusals: Sequence[str]) -> RowSet:
    """The same questions with refusals for answers, `refusal_0`, `refusal_1`, ..., beside the true one."""
    named = {f"{REFUSAL}_{i}": text for i, text in enumerate(refusals)}
    made = tuple(dataclasses.replace(r, answers={"answer": r.answer, **named}) for r in rows)
    return dataclasses.replace(rows, name=f"{rows.name}_refusals", rows=made)
