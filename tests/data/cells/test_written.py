"""Lists, arrays and SQuAD's answers that a table holds as text are read as values, or refused as real lists are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, load_rows
from expunge.data.in_memory import examples_from

NAMED = Columns(question="question", answer="answer")
SETTINGS = "set data.args.question_column=question data.args.answer_column=answer"


def file_of(tmp_path: Path, **row: str) -> str:
    with (tmp_path / "r.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["question", *row], ["When?", *row.values()]])
    return str(tmp_path / "r.csv")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[ '1888' ]", "1888"),
        ("('1888',)", "1888"),
        ("[['1888']]", "1888"),
        ("[1888.0]", "1888.0"),
        ("array(['1888'], dtype=object)", "1888"),
        ("{'text': ['1888'], 'answer_start': [5]}", "1888"),
        ('{"text": ["1888"], "answer_start": [5]}', "1888"),
        ("{'text': array(['1888'], dtype=object), 'answer_start': array([515], dtype=int32)}", "1888"),
        (r'["AC\/DC"]', "AC/DC"),
        (json.dumps(["I like \U0001f600"]), "I like \U0001f600"),
        *((text, text) for text in ("[sic] he said [no]", "(A)", "[unknown]", "[1] and [2]", "(1, 2)", "{1}", "array")),
    ],
)
def test_one_value_is_that_value(text: str, answer: str, tmp_path: Path) -> None:
    assert load_rows(file_of(tmp_path, answer=text), "forget", Columns())[0].answer == answer
    assert examples_from([{"question": "When?", "answer": text}])[0].answer == answer


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "lists 0 values"),
        ("[1888, 1889]", "lists 2 values, [1888, 1889]"),
        ("[1888 1889]", "lists 2 values, [1888, 1889]"),
        ('["a", null]', "lists 2 values"),
        ("['a', nan]", "lists 2 values"),
        ("[null]", "is '[null]', a list without a text"),
        ("[nan]", "is '[nan]', a list without a text"),
        ("[b'1888']", "is \"[b'1888']\", a list without a text"),
        ("['a' ... 'y']", "looks like a list written as text, and cannot be parsed"),
    ],
)
def test_other_lists_are_refused_and_named_columns_read_them_as_they_are(
    text: str, problem: str, tmp_path: Path
) -> None:
    file = file_of(tmp_path, answer=text)
    with pytest.raises(DataError) as raised:
        load_rows(file, "forget", Columns())
    assert f"r.csv row 0: 'answer' {problem}" in str(raised.value) and str(raised.value).endswith(SETTINGS)
    assert load_rows(file, "forget", NAMED)[0].answer == text


def test_a_list_of_texts_is_no_answer_in_any_column(tmp_path: Path) -> None:
    for columns in (Columns(), NAMED):
        with pytest.raises(DataError, match=r"lists 2 values, \['a', 'b'\]; give one answer in each row$"):
            load_rows(file_of(tmp_path, answer='["a", "b"]'), "forget", columns)


@pytest.mark.parametrize(
    ("text", "wrong"), [("[1, 2]", ["1", "2"]), (r'["b\u00e9","c\/d"]', ["bé", "c/d"]), ("['a' 'b']", ["a", "b"])]
)
def test_wrong_answers_as_text_are_several(text: str, wrong: list[str], tmp_path: Path) -> None:
    file = file_of(tmp_path, answer="x", perturbed_answer=text)
    assert load_rows(file, "forget", Columns())[0].perturbed == wrong


@pytest.mark.parametrize("text", ["[12]", "['quoted']", '["She said"]', "[1, 2]"])
def test_plain_texts_and_messages_are_no_cells(text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    turns = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": text}]
    for row in ({"text": text}, {"messages": turns}, {"instruction": "Sort.", "input": text, "output": text[2]}):
        file.write_text(json.dumps(row))
        example = load_rows(str(file), "forget", Columns())[0]
        assert text in (example.answer, example.question.removeprefix("Sort.\n\n"))
    (tmp_path / "r.txt").write_text(f"{text}\nOther words\n")
    assert load_rows(str(tmp_path / "r.txt"), "forget", Columns())[0].answer == text
