"""Rows of the user's own: a file of questions and answers, of prompts and completions, or of plain texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import ANSWER, Example, ExampleSet, Form, qa_rows
from expunge.data.source import Records, load_raw, read_file
from expunge.data.world import WorldConfig, build_world
from expunge.data.world.facts import MOST_FACTS

WORLD = "world"
TEXT = "text"
# A question and its answer by the names people use, in the order they are looked for, and the form of such rows.
PAIRS: tuple[tuple[str, str, Form], ...] = (
    ("question", "answer", "qa"),
    ("instruction", "response", "qa"),
    ("instruction", "output", "qa"),
    ("prompt", "completion", "completion"),
    ("input", "output", "completion"),
)
NUMBERED = re.compile(r"perturbed_answers?_?(\d+)")


@strict
@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns to read, where they are not among `PAIRS` or `text`.

    form: how a row becomes text: "qa" by the model's template, "completion" as it stands. None: by the columns' names.
    """

    question: str | None = None
    answer: str | None = None
    text: str | None = None
    form: Literal["qa", "completion"] | None = None

    def __post_init__(self) -> None:
        for given, other in (("question", "answer"), ("answer", "question")):
            if getattr(self, given) is not None and getattr(self, other) is None:
                raise ValueError(f"{given}_column goes together with {other}_column")
        if self.text is not None and self.question is not None:
            raise ValueError("text_column stands alone, without question_column and answer_column")


def load_rows(path: str, name: str, columns: Columns) -> ExampleSet:
    """The rows of a file: csv, JSON, JSON lines or parquet; of a .txt file each paragraph, or else each line.

    Raises DataError naming the file and the row for an empty file, a column that is not there, a text that is empty or
    no text, and a row that stands there twice.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() == ".txt":
        rows = _texts([{TEXT: t} for t in _paragraphs(file)], TEXT, name, str(file))
    else:
        if not file.is_file():
            load_raw(str(file))  # its error names what lies there
        rows = _rows(read_file(file), columns, name, str(file))
    _refuse_twice(rows, str(file))
    return rows


def continuations(rows: ExampleSet, name: str, where: str) -> ExampleSet:
    """Rows that can be asked: those of plain texts are cut in two, and the first half of the words is the prompt.

    Rows of other forms stay as they are. Raises DataError for a text of a single word.
    """
    if rows.form != "text":
        return ExampleSet(name, rows.rows, rows.form)
    cut = []
    for row in rows:
        words = list(re.finditer(r"\S+", row.answer))
        if len(words) < 2:
            raise DataError(f"{where} row {row.row_id}: a text of one word cannot be cut into a prompt and its end")
        middle = words[len(words) // 2].start()
        cut.append(Example(row.row_id, row.answer[:middle], {ANSWER: row.answer[middle:]}, meta=row.meta))
    return ExampleSet(name, tuple(cut), "text")


def refuse_shared(one: ExampleSet, other: ExampleSet, places: tuple[str, str]) -> None:
    """Raise DataError if a row stands in both sets, naming the first."""
    theirs = {_key(row): row.row_id for row in other}
    for row in one:
        if _key(row) in theirs:
            raise DataError(
                f"{places[0]} row {row.row_id} is also {places[1]} row {theirs[_key(row)]}: "
                f"{_shown(row.question or row.answer)}; a row cannot be on both sides"
            )


def retain_rows(source: str) -> tuple[ExampleSet, str]:
    """Rows to keep where the user has none, and a sentence that says which.

    source: "world", the plain facts of everyday life of the embedded world (no fiction, which as retain rows would be
    taught to a model that does not know it); or a folder or hub id that holds TOFU's retain90. Raises DataError.
    """
    if source == WORLD:
        facts = build_world(WorldConfig(facts=MOST_FACTS))["world_facts"]
        rows = tuple(Example(r.row_id, r.question, {ANSWER: r.answer}) for r in facts)
        said = (
            f"retain rows: {len(rows)} plain facts that come with the package, for no others were given "
            "(retain=FILE for your own, data.args.retain_source for another source)"
        )
        return ExampleSet("retain", rows), said
    raw, where = load_raw("retain90", root=source)
    rows_of = qa_rows(raw, name="retain", where=where)
    return rows_of, f"retain rows: {len(rows_of)} of {where} (data.args.retain_source)"


def _rows(raw: Records, columns: Columns, name: str, where: str) -> ExampleSet:
    if columns.text is not None:
        return _texts(raw, columns.text, name, where)
    if columns.question is None and TEXT in raw[0] and not _pair(raw[0]):
        return _texts(raw, TEXT, name, where)
    question, answer, form = _columns(raw, columns, where)
    plain = [_record(record, question, answer, i, where) for i, record in enumerate(raw)]
    made = qa_rows(plain, name=name, where=where, question_key=question, answer_key=answer)
    rows = tuple(
        Example(r.row_id, r.question, r.answers, r.paraphrased_question, _meta(raw[r.row_id], where, r.row_id))
        for r in made
    )
    return ExampleSet(name, rows, form)


def _pair(record: Mapping[str, Any]) -> tuple[str, str, Form] | None:
    return next((pair for pair in PAIRS if pair[0] in record and pair[1] in record), None)


def _columns(raw: Records, columns: Columns, where: str) -> tuple[str, str, Form]:
    """The question's and the answer's column, and the rows' form. Raises DataError with what the file has."""
    first = raw[0]
    if columns.question is not None and columns.answer is not None:
        for key, column in (("question_column", columns.question), ("answer_column", columns.answer)):
            if column not in first:
                raise DataError(f"{where}: no column {column!r} (data.args.{key}){nearest(column, first)}")
        return columns.question, columns.answer, columns.form or "qa"
    pair = _pair(first)
    if pair is not None:
        return pair[0], pair[1], columns.form or pair[2]
    known = [c for p in PAIRS for c in p[:2]] + [TEXT]
    half = next((p for p in PAIRS if p[0] in first or p[1] in first), PAIRS[0])
    lacks = half[1] if half[0] in first else half[0]
    listed = ", ".join(_shown(str(c)) for c in list(first)[:6])
    said = f"{where}: no column '{lacks}'{nearest(lacks, first) if any(c in known for c in first) else ''}"
    if len(first) == 1 and re.search(r"[;\t|]", next(iter(first))):
        raise DataError(f"{said}; its header is one column, {listed}: fields are separated by commas")
    raise DataError(
        f"{said}; its first line names the columns {listed}. Read are question and answer, instruction and response, "
        "prompt and completion, input and output, or text; name others by data.args.question_column, answer_column or "
        "text_column, and if the first line is a row, put a line of names above it"
    )


def _record(record: Mapping[str, Any], question: str, answer: str, i: int, where: str) -> dict[str, Any]:
    """A record as `qa_rows` reads it: numbered perturbed answers gathered, optional blanks left out."""
    out = {key: record[key] for key in (question, answer) if key in record}
    context = record.get("input")
    if (question, answer) == ("instruction", "output") and isinstance(context, str) and context.strip():
        out[question] = f"{record[question]}\n\n{context}"  # Alpaca's third column is part of the question
    for key in ("paraphrased_question", "paraphrased_answer", "perturbed_answer"):
        if record.get(key) not in (None, ""):
            out[key] = record[key]
    numbered = [(int(m[1]), key) for key in record if isinstance(key, str) and (m := NUMBERED.fullmatch(key))]
    wrong = [record[key] for _, key in sorted(numbered) if record[key] not in (None, "")]
    if wrong and "perturbed_answer" in out:
        raise DataError(f"{where} row {i}: both 'perturbed_answer' and {numbered[0][1]!r}; give one of them")
    return out | ({"perturbed_answer": wrong} if wrong else {})


def _meta(record: Mapping[str, Any], where: str, i: int) -> dict[str, Any]:
    value = record.get("id")
    if value in (None, ""):
        return {}
    if not isinstance(value, str | int):
        raise DataError(f"{where} row {i}: 'id' must be a text or a number, got {value!r}")
    return {"id": value}


def _texts(raw: Records, column: str, name: str, where: str) -> ExampleSet:
    """Rows of plain text: all of it is the answer, to no question."""
    plain = []
    for i, record in enumerate(raw):
        if column not in record:
            raise DataError(f"{where} row {i}: no column '{column}'{nearest(column, record)}")
        plain.append({"question": TEXT, "answer": record[column]})
    try:
        made = qa_rows(plain, name=name, where=where)
    except DataError as error:
        raise DataError(str(error).replace("'answer'", f"'{column}'")) from None
    rows = tuple(Example(r.row_id, "", {ANSWER: r.answer}, meta=_meta(raw[r.row_id], where, r.row_id)) for r in made)
    return ExampleSet(name, rows, "text")


def _paragraphs(file: Path) -> Sequence[str]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    parts = re.split(r"\n[ \t]*\n\s*", text) if re.search(r"\n[ \t]*\n", text) else text.split("\n")
    if not text:
        raise DataError(f"{file}: no rows")
    return [part.strip() for part in parts]


def _key(row: Example) -> tuple[str, str]:
    return row.question.strip(), row.answer.strip()


def _refuse_twice(rows: ExampleSet, where: str) -> None:
    seen: dict[tuple[str, str], int] = {}
    for row in rows:
        first = seen.setdefault(_key(row), row.row_id)
        if first != row.row_id:
            raise DataError(
                f"{where} row {row.row_id} is the same as row {first}: {_shown(row.question or row.answer)}"
            )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 50 else text[:47] + "...")


def check_file(key: str, path: str | None) -> str:
    """A file's name that must be given. Raises ConfigError at its key."""
    if not path:
        raise ConfigError(f"{key}: missing; give {key}=FILE of rows (csv, JSON, JSON lines, parquet or txt)")
    return path
