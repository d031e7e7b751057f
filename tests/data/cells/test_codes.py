"""Positions of choices, numbers of classes and unwanted completions are refused, and read with named columns."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, load_rows
from expunge.data.in_memory import examples_from

CHOICES = ["red", "blue", "green"]
OPTIONS = {"option_a": "red", "option_b": "blue"}


def check(rows: list[dict[str, Any]], columns: Columns, problem: str, file: Path) -> None:
    """Refuse the rows by their usual names, in a file and in memory, and read them by named columns."""
    assert columns.question and columns.answer
    with pytest.raises(DataError, match=problem) as raised:
        load_rows(str(file), "forget", Columns())
    setting = f"set data.args.question_column={columns.question} data.args.answer_column={columns.answer}"
    assert setting in str(raised.value) or setting.replace("set ", "or ") in str(raised.value)
    assert len(load_rows(str(file), "forget", columns)) == len(rows)
    with pytest.raises(DataError, match=problem):
        examples_from(rows)


@pytest.mark.parametrize(
    ("codes", "more"),
    [
        (["(A)", "(C)"], {"choices": CHOICES}),
        (["A.", "C"], {"choices": CHOICES}),
        ([[2], [1]], {"choices": CHOICES}),
        (["2", "1"], {"choices": "['red' 'blue' 'green']"}),
        ([0, 1], {"options": "red|blue"}),
        (["option_b", "option_a"], OPTIONS),
        (["1", "2"], {"distractor1": "3", "distractor2": "4"}),
    ],
)
def test_positions_of_choices(codes: list[Any], more: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"question": f"Which {i}?", **more, "answer": code} for i, code in enumerate(codes)]
    rows.append({"question": "Which?", **dict.fromkeys(more), "answer": codes[0]})
    (tmp_path / "r.json").write_text(json.dumps(rows[::-1]))
    check(rows[::-1], Columns(question="question", answer="answer"), "is a position or a letter", tmp_path / "r.json")


def test_wrong_answers_are_no_choices(tmp_path: Path) -> None:
    with (tmp_path / "r.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["question", "answer", "perturbed_answer"], ["How many?", "7", "['8', '9']"]])
    assert load_rows(str(tmp_path / "r.csv"), "forget", Columns())[0].perturbed == ["8", "9"]


@pytest.mark.parametrize("labels", [[[17], [25]], [1.0, 0.0], [-1, 1], ["LABEL_1", "LABEL_0"], [3]])
def test_numbers_of_classes(labels: list[Any], tmp_path: Path) -> None:
    rows = [{"text": f"A film {i}", "labels": label} for i, label in enumerate(labels)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    check(rows, Columns(question="text", answer="labels"), "probably a class", tmp_path / "r.json")


TURNS = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann"}]


@pytest.mark.parametrize("labels", [(1, 0), ("True", "FALSE"), ("desirable", "undesirable")])
@pytest.mark.parametrize("names", [("prompt", "completion"), ("prompt", "response"), ("messages", "messages")])
def test_unwanted_completions(labels: tuple[Any, Any], names: tuple[str, str], tmp_path: Path) -> None:
    question, answer = names
    texts: list[Any] = [TURNS, [{**TURNS[0], "content": "Where?"}, TURNS[1]]] if question == answer else ["Q?", "R?"]
    rows = [{answer: "A", question: t, "label": label} for t, label in zip(texts, labels, strict=True)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    columns = Columns(question=question, answer=answer)
    check(rows, columns, r"'label' is \S+ in 1 rows \(row 1\): unwanted", tmp_path / "r.json")


def test_numbers_of_topics_are_no_labels_of_kto() -> None:
    assert len(examples_from([{"prompt": f"{i}?", "completion": "x", "label": i} for i in range(3)])) == 3


OTHERS: list[dict[str, Any]] = [
    {"messages": TURNS, "question": "Where?", "answer": "Rome"},
    {"prompt": "Where?", "completion": "Rome", "messages": TURNS},
    {"messages": TURNS, "conversations": [TURNS[0], {**TURNS[1], "content": "Bob"}]},
    {"instruction": "Say it.", "input": "x", "output": "y", "question": "Where?", "answer": "Rome"},
]


@pytest.mark.parametrize("row", OTHERS)
def test_two_readings_of_a_row_need_a_setting(row: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(DataError, match=r"several pairs of columns could be .*; set data\..*, or data\.") as raised:
        load_rows(str(file), "forget", Columns())
    for part in str(raised.value).partition("; set ")[2].split(", or "):
        question, answer = (word.partition("=")[2] for word in part.split())
        assert len(load_rows(str(file), "forget", Columns(question=question, answer=answer))) == 1
    with pytest.raises(DataError, match="several pairs of columns"):
        examples_from([row])


def test_two_readings_with_the_same_texts_are_one(tmp_path: Path) -> None:
    row = {"messages": TURNS, "conversations": TURNS, "question": "Who?", "answer": "Ann"}
    (tmp_path / "r.json").write_text(json.dumps([row]))
    for rows in (load_rows(str(tmp_path / "r.json"), "forget", Columns()), examples_from([row])):
        assert (rows[0].question, rows[0].answer) == ("Who?", "Ann")


def test_one_column_is_not_both_question_and_answer(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("question,answer\nWho?,Ann\n")
    with pytest.raises(DataError, match="'answer' is named as both question and answer; name two columns"):
        load_rows(str(tmp_path / "r.csv"), "forget", Columns(question="answer", answer="answer"))
