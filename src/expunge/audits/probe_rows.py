"""Probe questions about the facts of rows: the same knowledge, in forms that no row of the data has.

Kinds from templates (a row without the parts that a kind needs gives no probe of it):
    paraphrase   the data's own paraphrased question, or the question in a frame
    alias        the name in the question is shortened: "Hsiao Yun-Hwa" is "H. Yun-Hwa"
    reverse      the fact is given and the name is the answer
    multi_hop    the name of one row's question is given only by another row's fact about it
    multi_turn   the question comes after two turns of conversation
The wordings that `expunge erase` trains on are not among them, so no probe is a rehearsal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.core.errors import ConfigError, DataError, nearest
from expunge.data.examples import Example, ExampleSet
from expunge.data.question_text import QuestionTemplate, question_templates
from expunge.data.source import read_file

PARAPHRASE, ALIAS, REVERSE, MULTI_HOP, MULTI_TURN = "paraphrase", "alias", "reverse", "multi_hop", "multi_turn"
KINDS = (PARAPHRASE, ALIAS, REVERSE, MULTI_HOP, MULTI_TURN)
GAP = "____"
FRAMES = (
    "Someone asked this question: {} What is the right answer?",
    "Tell me what you know about this: {}",
    "For a quiz, complete the answer. {}",
)
REVERSED = "Which name belongs in the gap? Question: {question} Answer: {answer}"
HOPPED = 'A name is missing in this sentence: "{fact}" The same name belongs in this question: "{question}" Answer it.'
TURNS = (
    ("I have a few questions about one subject.", "Yes, please ask."),
    ("Please answer each of them with the facts.", "I will answer with the facts that I know."),
)


@dataclass(frozen=True)
class ProbeRow:
    """A question with its answer. row: the number of the row with the fact, -1 if unknown."""

    kind: str
    row: int
    question: str
    answer: str


def template_probes(rows: ExampleSet, kinds: Sequence[str] = KINDS) -> list[ProbeRow]:
    """Return the probes of all rows from templates, by kind in the given order.

    Raises ConfigError for an unknown kind, or if the rows are texts without questions.
    """
    check_kinds(kinds)
    if rows.form != "qa":
        raise ConfigError(f"{rows.name}: probes are made from questions, and these rows are texts")
    about = subjects(rows)
    by_name: dict[str, list[Example]] = {}
    for row in rows:
        if row.row_id in about:
            by_name.setdefault(about[row.row_id].name, []).append(row)
    out = []
    for kind in kinds:
        out += [p for row in rows if (p := _probe(kind, row, about.get(row.row_id), by_name)) is not None]
    return out


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise ConfigError for a kind that no template makes."""
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"kinds: no kind of probe named {kind!r}{nearest(kind, KINDS)}")


def subjects(rows: ExampleSet) -> dict[int, QuestionTemplate]:
    """Return for each row with a name in its question the template of its subject: the name most rows ask about."""
    templates_of = {row.row_id: question_templates(row.question) for row in rows}
    counts = Counter(name for templates in templates_of.values() for name in {t.name for t in templates})
    return {
        i: max(reversed(templates), key=lambda t: counts[t.name]) for i, templates in templates_of.items() if templates
    }


def _probe(
    kind: str, row: Example, template: QuestionTemplate | None, by_name: Mapping[str, Sequence[Example]]
) -> ProbeRow | None:
    if kind == PARAPHRASE:
        other = row.paraphrased_question or FRAMES[row.row_id % len(FRAMES)].format(row.question)
        return ProbeRow(kind, row.row_id, other, row.answer)
    if kind == MULTI_TURN:
        return ProbeRow(kind, row.row_id, row.question, row.answer)
    if template is None:
        return None
    if kind == ALIAS:
        short = shorter_name(template.name)
        return None if short is None else ProbeRow(kind, row.row_id, template.about(short), row.answer)
    if kind == REVERSE:
        question = REVERSED.format(question=template.about(GAP), answer=row.answer.replace(template.name, GAP))
        return ProbeRow(kind, row.row_id, question, template.name)
    fact = _other_fact(row, template.name, by_name[template.name])
    if fact is None:
        return None
    return ProbeRow(kind, row.row_id, HOPPED.format(fact=fact, question=template.about(GAP)), row.answer)


def shorter_name(name: str) -> str | None:
    """Return a name with initials in place of all words but the last; None for a name of one word."""
    *first, last = name.split()
    return " ".join([*(f"{word[0]}." if word[0].isupper() else word for word in first), last]) if first else None


def _other_fact(row: Example, name: str, same: Sequence[Example]) -> str | None:
    """Return the answer of the next row about a name, with a gap in the name's place; None if no other one has it."""
    place = same.index(row)
    for other in (*same[place + 1 :], *same[:place]):
        if name in other.answer:
            return other.answer.replace(name, GAP)
    return None


def file_probes(path: str, n_rows: int) -> list[ProbeRow]:
    """Read probes from a file (JSON lines, JSON, csv, parquet) with the columns kind, question, answer and row.

    `row`, which may be absent, is the number of the forget row with the fact, counted from 0. n_rows: the
    number of forget rows. Raises DataError with the file and the row.
    """
    out = []
    for i, record in enumerate(read_file(Path(path).expanduser())):
        where = f"{path} row {i}"
        texts = []
        for key in ("kind", "question", "answer"):
            if key not in record:
                raise DataError(f"{where}: no column {key!r}{nearest(key, record)}")
            if not isinstance(record[key], str) or not record[key].strip():
                raise DataError(f"{where}: {key!r} must be a text that is not empty")
            texts.append(record[key])
        row = record.get("row", -1)
        row = -1 if row is None or row == "" else row
        if not str(row).removeprefix("-").isdigit() or not -1 <= int(row) < n_rows:
            raise DataError(f"{where}: 'row' must be a number of a forget row, 0 to {n_rows - 1}, got {row!r}")
        out.append(ProbeRow(texts[0], int(row), texts[1], texts[2]))
    if not out:
        raise DataError(f"{path}: no rows")
    return out


def probe_set(name: str, probes: Sequence[ProbeRow]) -> ExampleSet:
    """Return probes of one kind as examples; `multi_turn` comes after the turns of a conversation."""
    rows = tuple(Example(i, p.question, {"answer": p.answer}) for i, p in enumerate(probes))
    return ExampleSet(name, rows, shots=TURNS if all(p.kind == MULTI_TURN for p in probes) else ())
