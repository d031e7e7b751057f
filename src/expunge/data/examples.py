"""Examples: a question and its answers, in named variants, and named lists of them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from expunge.core.errors import DataError, nearest
from expunge.core.fingerprints import canonical, fingerprint_rows

ANSWER = "answer"
TRACE = "trace"
TRACE_ANSWER = "trace+answer"
SPANS = (ANSWER, TRACE, TRACE_ANSWER)
Span = Literal["answer", "trace", "trace+answer"]
PARAPHRASE = "paraphrase"
PERTURBED = "perturbed"
UNWANTED = "unwanted"  # the key of `Example.meta` with the words of the answer to forget
TEMPLATE_LIMIT = "model.template_args.max_length (in Python, max_length of the template)"  # for errors
WRITTEN_LIST = re.compile(r"\s*\[\s*(['\"]).*\1\s*\]\s*\Z", re.DOTALL)


def perturbed_name(i: int) -> str:
    """Return the variant name of the i-th perturbed answer: `perturbed_0`, `perturbed_1`, ..."""
    return f"{PERTURBED}_{i}"


@dataclass(frozen=True, slots=True)
class Example:
    """One question. `answers` maps a variant (`answer`, `paraphrase`, `perturbed_0`, ...) to its text.

    `row_id` is the position in the set. `meta` contains only plain JSON values, because the fingerprint covers it.
    `trace`: the reasoning before the answer, a span of its own. Each answer of the example follows the same trace; ""
    is a closed thought without text, None is an example without a thought. `turns`: the earlier questions and answers
    of the conversation. `file_row`: the row's number in its file, if rows before it were left out.
    """

    row_id: int
    question: str
    answers: Mapping[str, str]
    paraphrased_question: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    trace: str | None = None
    turns: tuple[tuple[str, str], ...] = ()
    file_row: int | None = field(default=None, compare=False, repr=False)

    @property
    def number(self) -> int:
        """The row's number in its file, for errors."""
        return self.row_id if self.file_row is None else self.file_row

    @property
    def answer(self) -> str:
        """The true answer."""
        return self.answers[ANSWER]

    @property
    def perturbed(self) -> list[str]:
        """The wrong answers, in order; empty if the row has none."""
        out: list[str] = []
        while (name := perturbed_name(len(out))) in self.answers:
            out.append(self.answers[name])
        return out

    def has(self, name: str) -> bool:
        """Return whether the example has a text to score under a name: a variant of its answers, or a span."""
        if self.trace is None or name not in (TRACE, TRACE_ANSWER):
            return name in self.answers
        return bool(self.trace.strip()) if name == TRACE else ANSWER in self.answers

    def text(self, name: str) -> str:
        """Return the scored text of a variant or a span, without the tags that a template writes around a trace."""
        if self.trace is None or name not in (TRACE, TRACE_ANSWER):
            return self.answers[name]
        return self.trace if name == TRACE else f"{self.trace}\n\n{self.answer}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all texts that can be scored: the variants of the answers, then the spans of a trace."""
        return (*self.answers, *(name for name in (TRACE, TRACE_ANSWER) if self.trace is not None and self.has(name)))

    def content(self) -> dict[str, Any]:
        """Return the fields for a fingerprint. Parts that the example lacks add nothing."""
        own: dict[str, Any] = {
            "row_id": self.row_id,
            "question": self.question,
            "answers": dict(self.answers),
            "paraphrased_question": self.paraphrased_question,
            "meta": canonical(self.meta),
        }
        if self.trace is not None:
            own[TRACE] = self.trace
        if self.turns:
            own["turns"] = canonical(self.turns)
        return own


Form = Literal["qa", "completion", "text"]
Long = Literal["right", "left", "pieces"]


@dataclass(frozen=True)
class ExampleSet:
    """A named list of examples; the `row_id` of each is its position.

    form: conversion of an example to text. "qa": the template. "completion": question, blank, answer and EOS, without
    template. "text": the same without EOS, for pieces of longer texts and the options of a multiple choice; if the
    question is empty, all of the text is scored. shots: solved examples before each question, in place of the
    template's. max_length: largest number of tokens, in place of the template's. long: treatment of longer examples.
    They are cut on the right, or on the left (the prompt loses its start, the answer stays). Training texts may also be
    joined by a blank line and cut into pieces, so that nothing is lost.
    """

    name: str
    rows: tuple[Example, ...]
    form: Form = "qa"
    shots: tuple[tuple[str, str], ...] = ()
    max_length: int | None = None
    long: Long = "right"

    def __post_init__(self) -> None:
        if not isinstance(self.rows, list | tuple):
            raise DataError(f"{self.name}: rows must be a tuple of examples, got {_shown(self.rows)}")
        for i, row in enumerate(self.rows):
            if not isinstance(row, Example):
                raise DataError(f"{self.name}: rows[{i}] must be an Example, got {_shown(row)}; use examples_from")
            if row.row_id != i:
                raise ValueError(f"{self.name}: the row at position {i} has row_id {row.row_id}")
            if self.form != "qa" and (row.trace is not None or row.turns):
                raise ValueError(f"{self.name} row {i}: a trace or earlier turns need form='qa', not {self.form!r}")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {len(self)} rows)"

    @property
    def limit_setting(self) -> str:
        """The setting of the largest number of tokens, for errors."""
        if self.max_length is None:
            return TEMPLATE_LIMIT
        limit = f"the benchmark's limit of these rows ({self.max_length}), a key of data.args"
        return f"{limit} (`expunge list benchmarks NAME` has them)"

    @property
    def n_tokens(self) -> int | None:
        """The number of tokens of a set that is stored as tokens; None for a set of texts."""
        return None

    def __iter__(self) -> Iterator[Example]:
        return iter(self.rows)

    @overload
    def __getitem__(self, i: int) -> Example: ...
    @overload
    def __getitem__(self, i: slice) -> ExampleSet: ...
    def __getitem__(self, i: int | slice) -> Example | ExampleSet:
        """Return an example. A slice is a set of the same form, with new row_ids."""
        if isinstance(i, slice):
            if self.n_tokens is not None:
                raise DataError(f"{self.name}: it is stored as tokens, which have no examples to slice")
            rows = tuple(dataclasses.replace(row, row_id=k) for k, row in enumerate(self.rows[i]))
            return dataclasses.replace(self, rows=rows)
        return self.rows[i]

    @property
    def variants(self) -> tuple[str, ...]:
        """Every variant of some example: `answer`, `paraphrase`, then the others; numbered ones by number."""
        names = dict.fromkeys(v for row in self.rows for v in row.answers)
        return tuple(sorted(names, key=_variant_order))

    @property
    def has_traces(self) -> bool:
        """Whether some example has a trace with text."""
        return any(row.trace for row in self.rows)

    def fingerprint(self) -> str:
        """Return the SHA-256 over the contents in order (not over the set's name or source)."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        rows = (row.content() for row in self.rows)
        if (self.form, self.shots, self.max_length, self.long) == ("qa", (), None, "right"):
            return fingerprint_rows(rows)
        how: dict[str, Any] = {"form": self.form, "shots": self.shots}
        if self.max_length is not None or self.long != "right":
            how |= {"max_length": self.max_length, "long": self.long}
        return fingerprint_rows(rows, how)


def _variant_order(variant: str) -> tuple[int, str, int]:
    stem, _, number = variant.rpartition("_")
    first = {ANSWER: 0, PARAPHRASE: 1}.get(variant, 2)
    return (first, stem, int(number)) if number.isdecimal() else (first, variant, -1)


def qa_rows(
    raw: Sequence[Mapping[str, Any]],
    *,
    name: str,
    where: str,
    question_key: str = "question",
    answer_key: str = "answer",
    trace_key: str = TRACE,
) -> ExampleSet:
    """Convert raw records to examples.

    Optional columns: `paraphrased_question`; `paraphrased_answer` (variant `paraphrase`); `perturbed_answer` (one text
    or a list: `perturbed_0`, ...); a trace (a text, which may be empty); `turns` (a list of pairs of a question and an
    answer); `unwanted` (a text of the answer to forget, or a list: `meta["unwanted"]`). A null counts as absent. Other
    columns are ignored.

    Args:
        raw: Records.
        name: Name of the set.
        where: File, for messages.
        question_key: Column of the question.
        answer_key: Column of the answer.
        trace_key: Column of the reasoning before the answer.

    Raises:
        DataError: Naming `where` and the row, counted from 0, if a column is missing, not text, or empty.
    """
    if not raw:
        raise DataError(f"{where}: no rows")
    rows = []
    for i, record in enumerate(raw):
        place = f"{where} row {i}"
        question = text_in(record, question_key, place)
        answers = {ANSWER: text_in(record, answer_key, place)}
        if record.get("paraphrased_answer") is not None:
            answers[PARAPHRASE] = text_in(record, "paraphrased_answer", place)
        answers |= _perturbed(record, place)
        other = None
        if record.get("paraphrased_question") is not None:
            other = text_in(record, "paraphrased_question", place)
        trace = record.get(trace_key)
        if trace is not None and trace != "":
            trace = text_in(record, trace_key, place)
        meta = _unwanted(record, answers[ANSWER], place)
        rows.append(Example(i, question, answers, other, meta, trace=trace, turns=_turns(record, place)))
    return ExampleSet(name, tuple(rows))


def text_rows(raw: Sequence[Mapping[str, Any]], *, name: str, where: str, key: str = "text", **how: Any) -> ExampleSet:
    """Convert raw records with one column of text to examples without a question, in the form "text".

    `how` contains further settings of the ExampleSet. Raises DataError as `qa_rows` does.
    """
    if not raw:
        raise DataError(f"{where}: no rows; every text is empty, or the file has none")
    rows = tuple(Example(i, "", {ANSWER: text_in(r, key, f"{where} row {i}")}) for i, r in enumerate(raw))
    return ExampleSet(name, rows, form="text", **how)


def without_empty_texts(
    raw: Sequence[Mapping[str, Any]], where: str, key: str = "text"
) -> tuple[list[Mapping[str, Any]], tuple[str, ...]]:
    """Return the records whose text is not empty, and a note that counts and names the others."""
    empty = [i for i, record in enumerate(raw) if isinstance(record.get(key), str) and not record[key].strip()]
    if not empty:
        return list(raw), ()
    dropped = set(empty)
    note = f"{where}: {len(raw) - len(empty)} rows, {dropped_rows(empty, 'an empty text')}"
    return [record for i, record in enumerate(raw) if i not in dropped], (note,)


def dropped_rows(rows: Sequence[int], why: str) -> str:
    """Return a remark on rows that were left out: "1 dropped (an empty text: row 821)"."""
    return f"{len(rows)} dropped ({why}: row {', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''})"


def _perturbed(record: Mapping[str, Any], place: str) -> dict[str, str]:
    value = record.get("perturbed_answer")
    if value is None:
        return {}
    if isinstance(value, str) and WRITTEN_LIST.match(value):
        raise DataError(
            f"{place}: 'perturbed_answer' is a list written out as text, {_shown(value)}; use the csv columns "
            "perturbed_answer_1, perturbed_answer_2, ..., or write JSON lines or parquet"
        )
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise DataError(f"{place}: 'perturbed_answer' must be a text or a list of texts, got {_shown(value)}")
    return {perturbed_name(i): _check(t, f"{place}: 'perturbed_answer'[{i}]") for i, t in enumerate(texts)}


def _unwanted(record: Mapping[str, Any], answer: str, place: str) -> dict[str, list[str]]:
    """Return the words of the answer to forget, as meta; empty without that column."""
    value = record.get(UNWANTED)
    if value is None:
        return {}
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts:
        raise DataError(f"{place}: 'unwanted' must be a text of the answer or a list of texts, got {_shown(value)}")
    words = [_check(t, f"{place}: 'unwanted'[{i}]").strip() for i, t in enumerate(texts)]
    if absent := [w for w in words if w.casefold() not in answer.casefold()]:
        raise DataError(f"{place}: 'unwanted' has {absent[0]!r}, which is not in the answer {_shown(answer)}")
    return {UNWANTED: words}


def _turns(record: Mapping[str, Any], place: str) -> tuple[tuple[str, str], ...]:
    """Return the earlier turns of a record. Raises DataError for anything but pairs of texts."""
    value = record.get("turns") or ()
    if not isinstance(value, list | tuple) or any(not isinstance(t, list | tuple) or len(t) != 2 for t in value):
        raise DataError(f"{place}: 'turns' must be a list of pairs of a question and an answer, got {_shown(value)}")
    return tuple(
        (_check(q, f"{place}: the question of 'turns'[{k}]"), _check(a, f"{place}: the answer of 'turns'[{k}]"))
        for k, (q, a) in enumerate(value)
    )


def text_in(record: Mapping[str, Any], key: str, place: str) -> str:
    """Return the text of a column. Raises DataError, with the place, if there is none or it is empty."""
    if key not in record:
        raise DataError(f"{place}: no column '{key}'{nearest(key, record)}")
    return _check(record[key], f"{place}: '{key}'")


def _check(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place} must be text, got {_shown(value)}")
    if not value.strip():
        raise DataError(f"{place} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair, which no tokenizer accepts
        raise DataError(f"{place} contains a broken character at position {error.start}") from None
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
