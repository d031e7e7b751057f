"""Convert data that is in memory (lists of dicts, datasets, tables) to an ExampleSet.

One function serves all callers: `examples_from`. Names of columns and values of cells are read as `data.custom` reads
those of files (`data.column_roles`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from expunge.core.errors import DataError, kind_of
from expunge.data.cells import (
    ChatTurn,
    chat_record,
    codes_problem,
    refuse_calls,
    refuse_rendered,
    turn_role,
    turn_text,
    turn_trace,
    unwanted_problem,
)
from expunge.data.column_roles import (
    NUMBERED,
    TEXT,
    VARIANTS,
    by_plain_name,
    cell_text,
    check_text,
    context_column,
    pair_record,
    possible_readings,
    system_column,
    variants_in,
    with_small_names,
)
from expunge.data.examples import ANSWER, TRACE, Example, ExampleSet, Form, qa_rows, text_rows

PARTS = (TRACE, "turns")
AS_TEXT = "; to read the texts as they are, pass an ExampleSet"
SHAPES = (
    "question and answer, instruction and response, prompt and completion, input and output, messages, conversations, "
    "or text"
)


def examples_from(data: Any, name: str = "data") -> ExampleSet:
    """Return the examples of data in memory.

    Args:
        data: An ExampleSet (returned under the new name), a `datasets.Dataset`, a pandas DataFrame, a list of dicts, or
            a list of strings (plain texts). All records have the same shape. Optional columns of questions:
            `paraphrased_answer`, `paraphrased_question`, `perturbed_answer` (a text or a list), `trace` (the reasoning
            before the answer), `turns` (earlier pairs of a question and an answer). An optional column of answers:
            `unwanted` (the words to forget, a text or a list). Messages may have earlier turns, and a trace in
            `reasoning_content`, `reasoning` or `thinking`. Other columns with a plain value become the example's
            `meta`.
        name: The name of the set. Error messages begin with it.

    Returns:
        The examples. Questions (`form="qa"`) take the chat template or the tags; prompts (`form="completion"`) and
        texts (`form="text"`) are used unchanged.

    Raises:
        DataError: If the data is empty or has another shape, or if a value is missing, empty or not text. The message
            names the set, the row and the column.
    """
    if isinstance(data, ExampleSet):
        if not len(data) and data.n_tokens is None:
            raise DataError(f"{name}: there are no rows")
        _check_set(data, name)
        return data if data.name == name else dataclasses.replace(data, name=name)
    records = with_small_names(_records(data, name))
    first = records[0]
    by_name = by_plain_name([str(key) for key in first], name)
    readings = possible_readings(records, by_name)
    if readings and any(system_column(record) for record in records):
        raise DataError(
            f"{name}: a column of system messages is not read; remove it, and pass its text once, "
            "template={'system_prompt': TEXT}"
        )
    if len(readings) > 1:
        listed = ", or ".join(f"{q!r} and {a!r}" if q != a else repr(q) for q, a, _ in readings)
        raise DataError(f"{name} row 0: several pairs of columns could be question and answer: {listed}; pass one pair")
    if readings and readings[0][0] == readings[0][1]:
        key = readings[0][0]
        if problem := unwanted_problem(records):
            raise DataError(f"{name}: {problem}")
        pairs = [_conversation(record.get(key), f"{name} row {i}: {key!r}") for i, record in enumerate(records)]
        return _questions(records, pairs, name, key)
    if readings:
        return _pairs(records, readings[0], name)
    if TEXT in by_name:
        texts = text_rows(records, name=name, where=name, key=by_name[TEXT])
        return dataclasses.replace(texts, rows=_with_meta(texts.rows, records, {by_name[TEXT]}))
    listed = ", ".join(repr(str(key)) for key in list(first)[:8]) or "no columns"
    raise DataError(f"{name} row 0: the columns are {listed}; allowed: {SHAPES}")


def _check_set(rows: ExampleSet, name: str) -> None:
    """Raise DataError for an example without texts; Python code can make one."""
    for i, row in enumerate(rows.rows):
        if not isinstance(row.question, str):
            raise DataError(f"{name} row {i}: 'question' must be text, got {row.question!r:.60}")
        if not isinstance(row.answers, Mapping) or not isinstance(row.answers.get(ANSWER), str):
            raise DataError(f"{name} row {i}: 'answers' must map '{ANSWER}' to a text, got {row.answers!r:.60}")


def _records(data: Any, name: str) -> list[dict[str, Any]]:
    """Return the records as dicts."""
    if isinstance(data, str | bytes | Mapping):
        raise DataError(f"{name}: expected a list of dicts or a dataset, got {kind_of(data)}{_instead(data)}")
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a pandas DataFrame
        names = list(data.columns)
        if len(set(names)) < len(names):
            raise DataError(f"{name}: the column {next(n for n in names if names.count(n) > 1)!r} is there twice")
        data = data.to_dict("records")
    try:
        records = list(data)
    except TypeError:
        raise DataError(f"{name}: expected a list of dicts or a dataset, got {kind_of(data)}") from None
    if not records:
        raise DataError(f"{name}: there are no rows")
    out: list[dict[str, Any]] = []
    for i, record in enumerate(records):
        if isinstance(record, str):
            out.append({TEXT: record})
        elif isinstance(record, Mapping):
            out.append(dict(record))
        else:
            hint = (
                "; pass an ExampleSet, which has their form; a slice of one is one"
                if isinstance(record, Example)
                else ""
            )
            raise DataError(f"{name} row {i}: expected a dict or a text, got {kind_of(record)}{hint}")
    return out


def _instead(data: str | bytes | Mapping[Any, Any]) -> str:
    """Return a hint in place of a text or a mapping: read a file first, or pass one split of a DatasetDict."""
    if isinstance(data, Mapping):
        splits = [key for key, rows in data.items() if hasattr(rows, "column_names")]
        return f"; pass one of its splits, such as data[{splits[0]!r}]" if splits else ""
    return "; read a file first, for example with pandas.read_csv or datasets.load_dataset"


def _pairs(records: Sequence[Mapping[str, Any]], pair: tuple[str, str, Form], name: str) -> ExampleSet:
    """Return the examples of two columns."""
    prompt, answer, form = pair
    if isinstance(records[0][prompt], list | tuple):  # TRL's conversational prompt and completion
        turns = []
        for i, record in enumerate(records):
            whole = [*(record.get(prompt) or ()), *(record.get(answer) or ())]
            turns.append(_conversation(whole, f"{name} row {i}: {prompt!r} and {answer!r}"))
        return _questions(records, turns, name, prompt, answer)
    if problem := codes_problem(records, prompt, answer):
        raise DataError(f"{name}: {problem}" + ("; pass the texts alone" if prompt == TEXT else ""))
    parts = PARTS if form == "qa" else ()
    plain = [pair_record(record, prompt, answer, i, name, parts, AS_TEXT) for i, record in enumerate(records)]
    for i, record in enumerate(plain):
        for key in (prompt, answer):
            if key in record:
                record[key] = cell_text(record[key], f"{name} row {i}: {key!r}", AS_TEXT)
    rows = qa_rows(plain, name=name, where=name, question_key=prompt, answer_key=answer)
    names = {str(key) for record in records for key in record}
    used = {prompt, answer, *VARIANTS, *parts, *filter(NUMBERED.fullmatch, names)}
    if prompt.strip().lower() == "instruction":
        used |= {context_column(names) or prompt}
    return ExampleSet(name, _with_meta(rows.rows, records, used), form)


def _questions(
    records: Sequence[Mapping[str, Any]], chats: Sequence[Mapping[str, Any]], name: str, *used: str
) -> ExampleSet:
    """Return the examples of conversations."""
    plain = []
    for i, (record, chat) in enumerate(zip(records, chats, strict=True)):
        refuse_rendered(record, f"{name} row {i}")
        plain.append({**chat, **variants_in(record, f"{name} row {i}", AS_TEXT)})
    rows = qa_rows(plain, name=name, where=name)
    numbered = {key for record in records for key in record if isinstance(key, str) and NUMBERED.fullmatch(key)}
    return ExampleSet(name, _with_meta(rows.rows, records, {*used, *VARIANTS, *numbered}))


def _conversation(messages: Any, where: str) -> dict[str, Any]:
    """Return a conversation as a record. Raises DataError if its turns do not alternate, or are no texts."""
    if not isinstance(messages, list | tuple) or not all(isinstance(m, Mapping) for m in messages):
        raise DataError(f"{where}: expected a list of {{role, content}}")
    texts = [turn_text(m) for m in messages]
    names = [turn_role(m) for m in messages]
    if "system" in names:
        raise DataError(
            f"{where}: a system turn in a row is not read; pass it once, template={{'system_prompt': TEXT}}"
        )
    for turn, role, text in zip(messages, names, texts, strict=True):
        refuse_calls(turn, where)
        if not isinstance(text, str):
            raise DataError(f"{where}: the {role} turn is not text")
        check_text(text, f"{where}: the {role} turn")
    return chat_record([ChatTurn(*turn) for turn in zip(names, texts, map(turn_trace, messages), strict=True)], where)


def _with_meta(rows: Sequence[Example], records: Sequence[Mapping[str, Any]], used: set[str]) -> tuple[Example, ...]:
    """Return the examples with the plain values of all other columns as their `meta`."""
    out = []
    for row, record in zip(rows, records, strict=True):
        meta = {
            key: value
            for key, value in record.items()
            if isinstance(key, str)
            and key not in used
            and isinstance(value, str | int | float | bool)
            and value == value
        }
        out.append(dataclasses.replace(row, meta={**meta, **row.meta}))
    return tuple(out)
