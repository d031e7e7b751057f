"""Choose the question and answer columns of a user's file, and read the values of its cells."""

from __future__ import annotations

import datetime
import math
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import DataError, nearest
from expunge.data.cells import (
    QUOTED_LIST,
    WrittenError,
    are_turns,
    codes_problem,
    columns_named,
    earlier_turns,
    short,
    squad_texts,
    turn_pairs,
    turn_text,
    written_turns,
    written_value,
)
from expunge.data.examples import UNWANTED, Form
from expunge.data.record_shapes import rows_below
from expunge.data.table_files import PAIR, Records, WrittenFloat

TEXT = "text"
# Usual names of question and answer columns, in order of preference, and the form of such rows.
PAIRS: tuple[tuple[str, str, Form], ...] = (
    ("question", "answer", "qa"),
    ("question", "answers", "qa"),
    ("instruction", "response", "qa"),
    ("instruction", "output", "qa"),
    ("prompt", "completion", "completion"),
    ("prompt", "response", "qa"),
    ("query", "response", "qa"),
    ("query", "answer", "qa"),
    ("input", "output", "completion"),
    (TEXT, "labels", "qa"),
    (*PAIR, "qa"),
)
CHATS = ("messages", "conversations")
VARIANTS = ("paraphrased_question", "paraphrased_answer", "perturbed_answer", UNWANTED)  # optional columns of a pair
OPTIONAL = (*VARIANTS, "trace", "turns")  # further columns that are read next to a question and an answer
CONTEXTS = ("input", "context")  # columns that belong to an instruction: Alpaca's and Dolly's
NUMBERED = re.compile(r"perturbed_answers?_?(\d+)")
SYSTEMS = ("system", "system_prompt")  # columns of a system message, next to a pair or a conversation
CELL_ERRORS = frozenset({"#N/A", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!", "#NUM!", "#NULL!"})  # of spreadsheets


@strict
@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns to read, if their names are not the usual ones."""

    question: str | None = None
    """The column of the questions; None: search by name. Requires `answer`."""
    answer: str | None = None
    """The column of the answers; None: search by name. Requires `question`."""
    text: str | None = None
    """The column of plain texts, in place of questions and answers."""
    form: Literal["qa", "completion"] | None = None
    """How a row becomes text: "qa" by the model's template, "completion" unchanged; None: by the columns' names."""

    def __post_init__(self) -> None:
        for name, other in (("question", "answer"), ("answer", "question")):
            if getattr(self, name) is not None and getattr(self, other) is None:
                raise ValueError(f"{name}_column goes together with {other}_column")
        if self.text is not None and self.question is not None:
            raise ValueError("text_column excludes question_column and answer_column; set one kind")

    def for_file(self, names: Collection[str]) -> Columns:
        """Return the columns to read from a further file: the usual ones if it has those and none of the named ones.

        names: the file's columns.
        """
        named = {self.question, self.answer, self.text} & set(names)
        by_name = {_plain(name): name for name in names}
        usual = TEXT in by_name or named_pairs(by_name) or any(name in by_name for name in CHATS)
        return self if named or not usual else Columns(form=self.form)


@dataclass(frozen=True)
class Roles:
    """The columns that are read. question: None for plain texts. chat: the column of a conversation, if it is one."""

    question: str | None
    answer: str
    form: Form
    chat: str | None = None


def find_roles(raw: Records, columns: Columns, where: str) -> Roles:
    """Return the columns to read. Raises DataError, with the setting to paste, if the names are ambiguous."""
    names = list(dict.fromkeys(str(key) for record in raw for key in record))
    if columns.text is not None:
        return Roles(None, _named(columns.text, names, "text_column", where), "text")
    if columns.question is not None and columns.answer is not None:
        question = _named(columns.question, names, "question_column", where)
        answer = _named(columns.answer, names, "answer_column", where)
        chat = question if any(are_turns(record.get(question)) for record in raw) else None
        if question == answer and chat is None:
            raise DataError(f"{where}: {question!r} is named as both question and answer; name two columns")
        return Roles(question, answer, columns.form or "qa", chat)
    by_name = by_plain_name(names, where)
    readings = possible_readings(raw, by_name)
    if len(readings) > 1:
        raise DataError(
            f"{where}: several pairs of columns could be question and answer; set "
            + ", or ".join(column_settings(q, a) for q, a, _ in readings)
        )
    if readings:
        question, answer, form = readings[0]
        if question == PAIR[0] and named_pairs({_plain(str(raw[0][name])): name for name in PAIR}):
            raise DataError(f"{where} row 0: {list(raw[0].values())} are names of columns; remove this row")
        if problem := codes_problem(raw, question, answer):
            setting = column_settings(question, answer)
            texts = f"{_word('text', question)} to read the texts alone, or " if _plain(question) == TEXT else ""
            raise DataError(f"{where}: {problem}; set {texts}{setting} to read it as it is")
        if question == answer or isinstance(raw[0].get(question), list):  # TRL's conversational prompt and completion
            return Roles(question, answer, columns.form or "qa", chat=question)
        return Roles(question, answer, columns.form or form)
    if TEXT in by_name:
        return Roles(None, by_name[TEXT], "text")
    raise DataError(_unknown_columns(raw[0], names, where))


def possible_readings(raw: Sequence[Mapping[str, Any]], by_name: Mapping[str, str]) -> list[tuple[str, str, Form]]:
    """Return the pairs of columns to choose from; a conversation is a pair of its column with itself.

    Of pairs with the same texts in all rows only the first is returned.
    """
    chats: list[tuple[str, str, Form]] = [(by_name[name], by_name[name], "qa") for name in CHATS if name in by_name]
    out: list[tuple[str, str, Form]] = []
    for pair in (*chats, *named_pairs(by_name)):
        if not any(all(_pair_texts(r, *pair[:2]) == _pair_texts(r, *other[:2]) for r in raw) for other in out):
            out.append(pair)
    return out


def _pair_texts(record: Mapping[str, Any], question: str, answer: str) -> list[str]:
    """Return the question and the answer of a record for a comparison; of a conversation the last ones."""
    values = [written_turns(record.get(column)) for column in dict.fromkeys((question, answer))]
    texts = [turn_text(t) if isinstance(t, Mapping) else t for v in values for t in (v if isinstance(v, list) else [v])]
    return [str(text).strip() for text in texts[-2:]]


def by_plain_name(names: Sequence[str], where: str) -> dict[str, str]:
    """Return the columns by their names in small letters. Raises DataError for names that differ only in case."""
    by_name = {_plain(name): name for name in names}
    if len(by_name) < len(names):
        twice = next(name for name in names if by_name[_plain(name)] != name)
        raise DataError(
            f"{where}: the columns {by_name[_plain(twice)]!r} and {twice!r} differ only in case; rename one"
        )
    return by_name


def named_pairs(by_name: Mapping[str, str]) -> list[tuple[str, str, Form]]:
    """Return the pairs of columns that have usual names of a question and an answer, and the form of such rows."""
    pairs = [(by_name[q], by_name[a], form) for q, a, form in PAIRS if q in by_name and a in by_name]
    alpaca = [pair for pair in pairs if _plain(pair[0]) == "instruction"]
    if not alpaca:
        return pairs
    answers = {answer for _, answer, _ in alpaca}  # `input` is a part of the question
    return [p for p in pairs if p in alpaca or (_plain(p[0]) != "input" and p[1] not in answers)]


def column_settings(question: str, answer: str) -> str:
    """Return the settings that name both columns, as a shell reads them."""
    return f"{_word('question', question)} {_word('answer', answer)}"


def _word(role: str, column: str) -> str:
    """Return the setting of a column's name, as a shell reads it."""
    return shlex.quote(f"data.args.{role}_column={column}")


def _plain(name: str) -> str:
    return name.strip().strip("\ufeff").lower()


def _named(column: str, names: Sequence[str], key: str, where: str) -> str:
    if column not in names:
        raise DataError(f"{where}: no column {column!r} (data.args.{key}){nearest(column, names)}")
    return column


def _unknown_columns(first: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    """Return the error for a file without a known column name, with the setting to paste."""
    if below := rows_below(first, where):
        return below
    known = [c for pair in PAIRS for c in pair[:2]]
    plain = [_plain(name) for name in names]
    half = next((p for p in PAIRS if p[0] in plain or p[1] in plain), PAIRS[0])
    lacks = half[1] if half[0] in plain else half[0]
    listed = ", ".join(short(c) for c in names[:6])
    problem = f"{where}: no column '{lacks}'{nearest(lacks, names) if any(c in known for c in plain) else ''}"
    hint = ""
    questions, answers = ({pair[k] for pair in PAIRS} for k in (0, 1))
    question = next((name for name, key in zip(names, plain, strict=True) if key in questions), None)
    answer = next((name for name, key in zip(names, plain, strict=True) if key in answers), None)
    if question is not None and answer is not None:
        hint = f" Write: {column_settings(question, answer)}."
    elif "chosen" in plain and isinstance(first.get("chosen"), str) and {"prompt", "question"} & set(plain):
        question = names[plain.index("prompt" if "prompt" in plain else "question")]
        hint = f" Write: {column_settings(question, names[plain.index('chosen')])}."
    elif any(name.endswith("?") or len(name.split()) > 4 for name in plain):
        pass  # the first line is a row, whose texts are no names of columns
    elif len(names) == 2 and all(plain):
        hint = f" Write: {column_settings(names[0], names[1])}."
    elif len(names) == 1 and all(plain):
        hint = f" For plain texts write: {_word('text', names[0])}."
    return (
        f"{problem}; its first line names the columns {listed}.{hint} Read are question and answer, instruction and "
        "response, prompt and completion, input and output, messages, conversations, or text; name others by "
        "data.args.question_column, answer_column or text_column, and if the first line is a row, put a line of names "
        "above it"
    )


def cell_text(value: Any, place: str, as_text: str | None = "") -> Any:
    """Return a cell as text: a number by its `repr`, a list of one value as that value, also if it is written as text.

    as_text: the end of an error for a text such as "[1, 2]": how to read it unchanged. None: read it unchanged.

    Raises DataError for a list of several values; a truth value; NaN; an error of a spreadsheet; a whole number that a
    table stores as a fraction; text without a visible character. Other values (None, a missing text) are returned
    unchanged; the construction of rows refuses them.
    """
    if not isinstance(value, str):
        return _one_text(value, place)
    texts = False  # whether it is a list of texts, which is no text in any column
    try:
        if (parsed := written_value(value)) is not None:
            texts = QUOTED_LIST.match(value) is not None and all(isinstance(item, str) for item in parsed)
            text = _one_text(parsed, place)
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{place} is {short(value)}, a list without a text")
            value = text
    except WrittenError as error:
        if as_text is not None:
            raise DataError(f"{place} {error}, {short(value)}{as_text}") from None
    except DataError as error:
        if as_text is not None or texts:
            raise DataError(f"{error}{'' if texts else as_text}") from None
    return check_text(value, place)


def _one_text(value: Any, place: str) -> Any:
    """Return a value that is no text as text, as `cell_text` does."""
    value = squad_texts(value)
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise DataError(f"{place} lists {len(value)} values, {short(value)}; give one answer in each row")
        return _one_text(value[0], place)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number of numpy, with a repr of its own
        value = value.item()
    if isinstance(value, bool):
        raise DataError(f"{place} is the truth value {value}; write it as text")
    if isinstance(value, float) and not isinstance(value, WrittenFloat) and value.is_integer():
        raise DataError(
            f"{place} is the number {value!r}, a whole number that is stored as a fraction (pandas does so next to "
            "missing values); convert the column to text: df[column].astype('Int64').astype(str)"
        )
    if isinstance(value, int | float):
        value = repr(value)
    if isinstance(value, datetime.date | datetime.time | Decimal):
        raise DataError(
            f"{place} is {str(value)!r} of the type {type(value).__name__}, no text; convert the column to text as the "
            "model learned it: df[column].astype(str)"
        )
    return check_text(value, place)


def check_text(value: Any, place: str) -> Any:
    """Return a value unchanged. Raises DataError for text that stands for no value, or is damaged."""
    if isinstance(value, str):
        if value.strip().lower() == "nan":
            raise DataError(f"{place} is {value!r}, which stands for a missing value")
        if value.strip() in CELL_ERRORS:
            raise DataError(f"{place} is {value!r}, an error of a spreadsheet; format the column as text there")
        if "\0" in value:
            raise DataError(f"{place} has the character U+0000; the file is damaged, or it is not UTF-8 text")
        if value and not visible(value):
            raise DataError(f"{place} is empty: it has no visible character")
    return value


def with_context(record: Mapping[str, Any], question: Any, place: str) -> Any:
    """Return an instruction followed by its `context_column`, if that has a value.

    Raises DataError for a context that is neither text nor a number.
    """
    key = context_column(record)
    context = None if key is None else record[key]
    if context is None or (isinstance(context, float) and math.isnan(context)):
        return question
    if not isinstance(context, str):
        context = cell_text(context, f"{place}: {key!r}")
    elif context.strip():  # a list written as text is part of the task, as in Alpaca's "Sort it." and "[3, 1]"
        check_text(context, f"{place}: {key!r}")
    if not isinstance(context, str):
        raise DataError(f"{place}: {key!r} must be text, got {short(context)}")
    return "\n\n".join(part for part in (question, context) if part.strip())


def context_column(names: Iterable[Any]) -> str | None:
    """Return the column that belongs to an instruction: Alpaca's `input`, or else Dolly's `context`; None if absent."""
    by_name = {_plain(name): name for name in names if isinstance(name, str)}
    return next((by_name[name] for name in CONTEXTS if name in by_name), None)


def pair_record(
    record: Mapping[str, Any],
    question: str,
    answer: str,
    i: int,
    where: str,
    parts: Sequence[str] = (),
    as_text: str | None = "",
) -> dict[str, Any]:
    """Return two columns of a record for `qa_rows`, and its further answers.

    parts: the columns of a trace and of earlier turns, if they are read. as_text: see `cell_text`.
    """
    out = {key: record[key] for key in (question, answer) if key in record}
    out |= {key: record[key] for key in parts if record.get(key) is not None}
    if "turns" in out:
        out["turns"] = turn_pairs(out["turns"])
    if "turns" in parts and "turns" not in out and (earlier := earlier_turns(record)):
        out["turns"] = earlier
    if question.strip().lower() == "instruction" and isinstance(out.get(question), str):
        out[question] = with_context(record, out[question], f"{where} row {i}")
    return out | variants_in(record, f"{where} row {i}", as_text)


def variants_in(record: Mapping[str, Any], place: str, as_text: str | None = "") -> dict[str, Any]:
    """Return the further answers of a record, numbered ones in one list. Empty optional values are left out.

    as_text: see `cell_text`.
    """
    out: dict[str, Any] = {}
    for key in VARIANTS:
        value, at = record.get(key), f"{place}: {key!r}"
        if value is None or (isinstance(value, str) and not value):
            continue
        if key.startswith("paraphrased"):
            out[key] = cell_text(value, at, as_text)
            continue
        if isinstance(value, str) and (as_text is not None or QUOTED_LIST.match(value)):
            try:
                parsed = written_value(value)
            except WrittenError as error:
                raise DataError(f"{at} {error}, {short(value)}; use the columns {key}_1, {key}_2, ...") from None
            value = parsed if isinstance(parsed, list) else value
        one = not isinstance(value, list | tuple)
        texts = [(check_text if isinstance(t, str) else cell_text)(t, at) for t in ([value] if one else value)]
        out[key] = texts[0] if one else texts
    numbered = [(int(m[1]), key) for key in record if isinstance(key, str) and (m := NUMBERED.fullmatch(key))]
    wrong = [check_text(record[key], f"{place}: {key!r}") for _, key in sorted(numbered)
             if record[key] not in (None, "")]  # fmt: skip
    if wrong and "perturbed_answer" in out:
        raise DataError(f"{place}: both 'perturbed_answer' and {numbered[0][1]!r}; give one of them")
    return out | ({"perturbed_answer": wrong} if wrong else {})


def with_small_names(raw: Records, named: Collection[str | None] = ()) -> Records:
    """Return records whose optional columns have names in small letters: `Trace` is `trace`.

    named: columns that keep their names.
    """
    names = dict.fromkeys(key for record in raw for key in record if isinstance(key, str) and key not in named)
    small = {
        name: plain
        for name in names
        if (plain := _plain(name)) != name and (plain in OPTIONAL or NUMBERED.fullmatch(plain)) and plain not in names
    }
    return [{small.get(key, key): value for key, value in record.items()} for record in raw] if small else raw


def system_column(record: Mapping[str, Any]) -> str | None:
    """Return the text in a record's column of a system message; None if there is none."""
    for column in columns_named(tuple(record), SYSTEMS):
        if isinstance(text := record[column], str) and text.strip():
            return text
    return None


def visible(text: str) -> bool:
    """Return whether a text has a character that is neither blank nor of zero width."""
    return any(not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc") for c in text)
