"""Read the user's own rows: a file of questions and answers, of prompts and completions, or of plain texts."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.cells import read_chat
from expunge.data.column_roles import (
    NUMBERED,
    TEXT,
    VARIANTS,
    Columns,
    Roles,
    cell_text,
    check_text,
    column_settings,
    context_column,
    find_roles,
    named_pairs,
    pair_record,
    system_column,
    variants_in,
    with_small_names,
)
from expunge.data.doubtful_texts import doubts
from expunge.data.examples import ANSWER, TRACE, Example, ExampleSet, dropped_rows, qa_rows, text_in
from expunge.data.record_shapes import table_in_text, unwrapped
from expunge.data.source import file_bytes, is_hub_id, load_raw, read_file
from expunge.data.table_files import DELIMITERS, Records, decode_text

WORLD = "world"
__all__ = [
    "WORLD", "Columns", "LoadedRows", "check_file", "check_present", "continuations", "load_examples", "load_rows",
    "refuse_shared", "retain_rows", "row_key",
]  # fmt: skip


@dataclass(frozen=True)
class LoadedRows:
    """The rows of a file.

    note: the columns that were read and ignored, and the rows that were left out. preview: the first row, for the
    terminal alone.
    """

    rows: ExampleSet
    note: str
    preview: str


def load_rows(path: str, name: str, columns: Columns) -> ExampleSet:
    """Return the rows of a file; see `load_examples`."""
    return load_examples(path, name, columns).rows


def load_examples(path: str, name: str, columns: Columns, *, further: bool = False) -> LoadedRows:
    """Read the rows of a file: csv, tsv, JSON, JSON lines, parquet, Arrow, a folder of `save_to_disk`, or plain text.

    Each paragraph of a .txt file, or else each line, is a row. Empty and repeated plain texts are left out and counted.

    Args:
        path: The file or folder.
        name: The name of the set.
        columns: Names of columns, and the form, if the file does not use the usual names.
        further: The names are another file's. If this one has none of them, its usual names are read.

    Raises:
        DataError: With the file and the row, for an empty file, ambiguous columns, an empty text, a value that is no
            text, and a repeated row.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() == ".txt" and not file.is_dir():
        texts = _paragraphs(file)
        if ending := table_in_text(texts, DELIMITERS, lambda names: bool(named_pairs(dict.fromkeys(names, "")))):
            raise DataError(f"{path}: its lines are rows of a table, not texts; name the file {file.stem}{ending}")
        raw: Records = [{TEXT: text} for text in texts]
        idle, columns = _set(columns, "question", "answer", "text", "form"), Columns(text=TEXT)
    else:
        idle = []
        raw = read_file(file) if file.exists() else load_raw(path)[0]  # a hub id, or an error with the nearest name
    where = str(file)
    raw, part = _train_part(unwrapped(raw))
    raw = with_small_names(raw, (columns.question, columns.answer, columns.text))
    if further:
        columns = columns.for_file({str(key) for record in raw for key in record})
    roles = find_roles(raw, columns, where)
    if roles.question is None:
        idle += _set(columns, "form")
    if roles.question is None and columns.text is None:
        _refuse_encoded(raw, roles.answer, where)
    rows, remarks = _rows(raw, roles, name, where, columns)
    if idle and not further:
        part.append(f"plain texts, on which {' and '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect")
    remarks += [*part, *doubts(rows.rows)]
    _refuse_twice(rows, where)
    first = rows[0]
    shown = f"{_shown(first.question)} -> {_shown(first.answer)}" if first.question else _shown(first.answer)
    return LoadedRows(rows, _note(where, raw, roles, rows, remarks), f"{where}: first row: {shown}")


def _set(columns: Columns, *roles: str) -> list[str]:
    """Return the settings of these roles that the user has set."""
    return [f"data.args.{role}{'' if role == 'form' else '_column'}" for role in roles if getattr(columns, role)]


def _refuse_encoded(raw: Records, column: str, where: str) -> None:
    """Raise DataError for rows that were encoded twice: texts that are all objects of JSON."""
    texts = [str(record.get(column)) for record in raw]
    if all(text.lstrip().startswith("{") for text in texts) and table_in_text(texts, (), lambda names: False):
        raise DataError(
            f"{where}: every {column!r} is an object of JSON, as in rows that were encoded twice; decode them once, "
            f"or set data.args.text_column={column} to read the texts as they are"
        )


def _train_part(raw: Records) -> tuple[Records, list[str]]:
    """Return the rows of KnowUnDo's released files, one record with the lists `train` and `val`, and a remark.

    Other records are returned as they are.
    """
    lists = raw[0] if len(raw) == 1 else {}
    rows = lists.get("train")
    if lists.keys() != {"train", "val"} or not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        return raw, []
    if not all(row.keys() >= {TEXT, "labels"} for row in rows):
        return raw, []
    return rows, ["of the list 'train'; 'val' is not read"]


def _note(where: str, raw: Records, roles: Roles, rows: ExampleSet, remarks: Sequence[str]) -> str:
    """Return one line: the columns that are read, the ignored columns, and the number of rows."""
    if roles.question is None:
        read = f"{roles.answer} -> text"
    elif roles.chat is not None and roles.question == roles.answer:
        read = f"{roles.chat} -> question and answer"
    else:
        read = f"{roles.question} -> question, {roles.answer} -> answer"
    names = dict.fromkeys(str(key) for record in raw for key in record)
    used = {roles.question, roles.answer, "id"}
    context = None
    if roles.question is not None and roles.question.strip().lower() == "instruction":
        context = context_column(name for name in names if name != roles.answer)
    if context is not None:
        read = read.replace(" -> question", f" and {context} -> question", 1)
        used.add(context)
    if roles.question is not None:
        further = [name for name in names if name in VARIANTS or NUMBERED.fullmatch(name)]
        if further:
            read += f", {', '.join(further[:4])}" + (", ..." if len(further) > 4 else "")
        used |= set(further)
    if roles.form == "qa" and roles.chat is None:
        used |= {TRACE, "turns"}
    if rows.has_traces:
        read += ", traces"
    if any(row.turns for row in rows):
        read += ", earlier turns"
        if roles.chat is None and "turns" not in names:
            used |= {name for name in names if name.strip().lower() == "history"}
    ignored = [name if name.strip() else "a column without a name" for name in names if name not in used]
    parts = [
        f"{where}: reads {read}" + (f", ignores {', '.join(ignored[:8])}" if ignored else ""),
        ", ".join([f"{len(rows)} rows", *remarks]),
    ]
    return "; ".join(parts)


def check_present(path: str) -> None:
    """Raise DataError, with the nearest name, for a local file that does not exist. A hub id is not checked."""
    if not is_hub_id(path) and not Path(path).expanduser().exists():
        load_raw(path)


def continuations(rows: ExampleSet, name: str, where: str) -> ExampleSet:
    """Return rows with prompts: plain texts are divided in two, and the first half of the words is the prompt.

    Rows of other forms do not change. Raises DataError for a text of a single word.
    """
    if rows.form != "text":
        return ExampleSet(name, rows.rows, rows.form)
    cut = []
    for row in rows:
        words = list(re.finditer(r"\S+", row.answer))
        if len(words) < 2:
            raise DataError(f"{where} row {row.number}: a text of one word cannot be divided; give two words or more")
        middle = words[len(words) // 2].start()
        cut.append(
            Example(
                row.row_id, row.answer[:middle], {ANSWER: row.answer[middle:]}, meta=row.meta, file_row=row.file_row
            )
        )
    return ExampleSet(name, tuple(cut), "text")


def refuse_shared(one: ExampleSet, other: ExampleSet, places: tuple[str, str]) -> None:
    """Raise DataError with the first row that is in both sets."""
    theirs = {row_key(row): row.number for row in other}
    for row in one:
        if row_key(row) in theirs:
            raise DataError(
                f"{places[0]} row {row.number} is also {places[1]} row {theirs[row_key(row)]}: "
                f"{_shown(row.question or row.answer)}; remove it from one of them"
            )


def retain_rows(source: str) -> tuple[ExampleSet, str]:
    """Return default retain rows, and a sentence that describes them.

    source: "world", the plain facts of everyday life of the embedded world (no fiction, which as retain rows would
    teach the model new facts); or a folder or hub id that contains TOFU's retain90. Raises DataError.
    """
    if source == WORLD:
        from expunge.data.world import MOST_FACTS, WorldConfig
        from expunge.data.world.generate import build_world

        facts = build_world(WorldConfig(facts=MOST_FACTS))["world_facts"]
        rows = tuple(Example(r.row_id, r.question, {ANSWER: r.answer}) for r in facts)
        note = (
            f"retain rows: {len(rows)} plain facts from the package, because retain is not set "
            "(retain=FILE for your own, data.args.retain_source for another source)"
        )
        return ExampleSet("retain", rows), note
    raw, where = load_raw("retain90", root=source)
    rows_of = qa_rows(raw, name="retain", where=where)
    return rows_of, f"retain rows: {len(rows_of)} of {where} (data.args.retain_source)"


def _rows(raw: Records, roles: Roles, name: str, where: str, columns: Columns) -> tuple[ExampleSet, list[str]]:
    """Return the rows, and remarks for the user: the number of records that were left out, and the reason."""
    if roles.question is None:
        return _texts(raw, roles.answer, name, where)
    remarks: list[str] = []
    question, answer = roles.question, roles.answer
    setting = f"; to read the texts as they are, set {column_settings(question, answer)}"
    as_text = setting if columns.question is None else None
    if roles.chat is not None:
        plain, remarks = _from_chats(raw, roles, where)
        question, answer = "question", "answer"
    else:
        parts = (TRACE, "turns") if roles.form == "qa" else ()
        plain = [pair_record(r, question, answer, i, where, parts, as_text) for i, r in enumerate(raw)]
        if columns.question is None:  # a user who names the columns reads them alone
            systems = [system_column(record) for record in raw]
            remarks = _on_system(systems, where, f", or name the columns to read: {column_settings(question, answer)}")
    for i, record in enumerate(plain):
        for key in (question, answer):
            if key in record:
                place = f"{where} row {i}: '{key}'"
                turn = roles.chat is not None and isinstance(record[key], str)  # its text is no cell of a table
                record[key] = check_text(record[key], place) if turn else cell_text(record[key], place, as_text)
    examples = qa_rows(plain, name=name, where=where, question_key=question, answer_key=answer)
    parted = next((r.row_id for r in examples if r.trace is not None or r.turns), None)
    if roles.form != "qa" and parted is not None:
        raise DataError(
            f"{where} row {parted}: a trace or earlier turns have no form with data.args.form={roles.form}; use qa"
        )
    rows = tuple(dataclasses.replace(r, meta={**r.meta, **_meta(raw[r.row_id], where, r.row_id)}) for r in examples)
    return ExampleSet(name, rows, roles.form), remarks


def _from_chats(raw: Records, roles: Roles, where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return conversations as records of question and answer. Raises DataError for system messages that differ."""
    plain: list[dict[str, Any]] = []
    systems: list[str | None] = []
    question, answer = roles.question or roles.answer, roles.answer
    for i, record in enumerate(raw):
        dialogue, system = read_chat(record, question, answer, f"{where} row {i}")
        plain.append(dialogue | variants_in(record, f"{where} row {i}"))
        systems.append(system if system is not None else system_column(record))
    return plain, _on_system(systems, where)


def _on_system(systems: Sequence[str | None], where: str, more: str = "") -> list[str]:
    """Return a remark on the system message that all rows have. Raises DataError for messages that differ."""
    first = systems[0]
    if other := next((i for i, system in enumerate(systems) if system != first), 0):
        line = f"{where} row {other}: its system message differs from that of row 0"
        raise DataError(f"{line}; write a file for each{more}")
    if not first:
        return []
    setting = shlex.quote(f"model.template_args.system_prompt={first}")
    hint = setting if "\n" not in first else "set model.template_args.system_prompt in a study file"
    return [f"the system message is not read; to use it: {hint}"]


def _meta(record: Mapping[str, Any], where: str, i: int) -> dict[str, Any]:
    value = record.get("id")
    if value in (None, "") or value != value:
        return {}
    if isinstance(value, float):  # a table stores whole numbers next to missing ones as fractions
        value = int(value) if value.is_integer() else float(value)
    if not isinstance(value, str | int | float):
        raise DataError(f"{where} row {i}: 'id' must be a text or a number, got {value!r}")
    return {"id": value}


def _texts(raw: Records, column: str, name: str, where: str) -> tuple[ExampleSet, list[str]]:
    """Return rows of plain text as answers without question. Empty and repeated texts are left out and counted."""
    rows: list[Example] = []
    empty: list[int] = []
    twice: list[int] = []
    seen: set[str] = set()
    for i, record in enumerate(raw):
        place = f"{where} row {i}"
        if column not in record:
            raise DataError(f"{place}: no column '{column}'{nearest(column, record)}")
        value = record[column]
        if isinstance(value, str) and (not value.strip() or value.strip() in seen):
            (empty if not value.strip() else twice).append(i)
            continue
        if isinstance(value, str):
            seen.add(value.strip())
            check_text(value, f"{place}: '{column}'")
        else:
            value = cell_text(value, f"{place}: '{column}'")
        text = text_in({column: value}, column, place)
        number = i if i != len(rows) else None
        rows.append(Example(len(rows), "", {ANSWER: text}, meta=_meta(record, where, i), file_row=number))
    if not rows:
        raise DataError(f"{where}: no rows; every '{column}' is empty")
    dropped = [
        dropped_rows(numbers, why) for numbers, why in ((empty, "an empty text"), (twice, "a repeated text")) if numbers
    ]
    return ExampleSet(name, tuple(rows), "text"), dropped


def _paragraphs(file: Path) -> Sequence[str]:
    text = decode_text(file_bytes(file), file)
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    parts = re.split(r"\n[ \t]*\n\s*", text) if re.search(r"\n[ \t]*\n", text) else text.split("\n")
    if not text:
        raise DataError(f"{file}: no rows")
    return [part.strip() for part in parts]


def row_key(row: Example) -> tuple[str, ...]:
    """Return a row's texts for comparisons: the same characters, however they and the blanks are coded.

    They are the question, the answer, and the earlier turns, without which a short question means another thing.
    """
    texts = (row.question, row.answer, *itertools.chain(*row.turns))
    return tuple(" ".join(unicodedata.normalize("NFC", text).split()) for text in texts)


def _refuse_twice(rows: ExampleSet, where: str) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for row in rows:
        first = seen.setdefault(row_key(row), row.number)
        if first != row.number:
            raise DataError(
                f"{where} row {row.number} is the same as row {first}: {_shown(row.question or row.answer)}"
            )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 50 else text[:47] + "...")


def check_file(key: str, path: str | None) -> str:
    """Return a required file name. Raises ConfigError at its key if it is missing."""
    if not path:
        raise ConfigError(f"{key}: missing; give {key}=FILE of rows (csv, JSON, JSON lines, parquet or txt)")
    return path
