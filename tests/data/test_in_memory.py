"""Data in memory: every shape of a record, and errors that name the set, the row and the column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest

from expunge.core.errors import DataError
from expunge.data.custom import Columns, load_rows
from expunge.data.examples import Example, ExampleSet
from expunge.data.in_memory import examples_from

USER = {"role": "user", "content": "Who?"}
ASSISTANT = {"role": "assistant", "content": "Ana."}


@pytest.mark.parametrize(
    ("record", "form", "question", "answer"),
    [
        ({"question": "Who?", "answer": "Ana."}, "qa", "Who?", "Ana."),
        ({"instruction": "Say it.", "response": "Ana."}, "qa", "Say it.", "Ana."),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "qa", "Add.\n\n1 2", "3"),
        ({"instruction": "Double.", "input": 5, "output": "10"}, "qa", "Double.\n\n5", "10"),
        ({"prompt": "She is", "completion": "Ana."}, "completion", "She is", "Ana."),
        ({"prompt": [USER], "completion": [ASSISTANT]}, "qa", "Who?", "Ana."),
        ({"messages": [USER, ASSISTANT]}, "qa", "Who?", "Ana."),
        ({"messages": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Ana."}]}, "qa", "Who?", "Ana."),
        ({"messages": [USER | {"content": [{"type": "text", "text": "Who?"}]}, ASSISTANT]}, "qa", "Who?", "Ana."),
        ({"question": "How many?", "answer": np.float64(2.5)}, "qa", "How many?", "2.5"),
        ({"question": np.int64(7), "answer": "Seven."}, "qa", "7", "Seven."),
        ({"text": "Ana wrote it."}, "text", "", "Ana wrote it."),
        ("Ana wrote it.", "text", "", "Ana wrote it."),
    ],
)
def test_shapes(record: Any, form: str, question: str, answer: str) -> None:
    examples = examples_from([record], "forget")
    assert (examples.name, examples.form, len(examples)) == ("forget", form, 1)
    assert (examples[0].question, examples[0].answer) == (question, answer)


def test_variants_and_meta_come_along() -> None:
    records = [
        {"question": "Who?", "answer": "Ana.", "perturbed_answer": ["Bo.", "Cy."], "paraphrased_answer": "It is Ana.",
         "kind": "name", "year": 1991, "list": [1], "nothing": None}
    ]  # fmt: skip
    (row,) = examples_from(records)
    assert row.answers == {"answer": "Ana.", "paraphrase": "It is Ana.", "perturbed_0": "Bo.", "perturbed_1": "Cy."}
    assert row.meta == {"kind": "name", "year": 1991}


def test_a_dataset_a_table_and_a_set_give_the_same() -> None:
    records = [{"question": f"Who is {i}?", "answer": f"Ana {i}."} for i in range(3)]
    plain = examples_from(records, "x")
    assert examples_from(datasets.Dataset.from_list(records), "x") == plain
    assert examples_from(pd.DataFrame(records), "x") == plain
    assert examples_from(plain, "x") is plain
    other = examples_from(plain, "y")
    assert (other.name, other.rows, other.fingerprint()) == ("y", plain.rows, plain.fingerprint())
    assert examples_from(ExampleSet("z", (Example(0, "q", {"answer": "a"}),)), "z")[0].answer == "a"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "forget: there are no rows"),
        ("rows.csv", "forget: expected a list of dicts or a dataset, got a str"),
        ({"question": ["a"]}, "forget: expected a list of dicts or a dataset, got a dict"),
        (3, "forget: expected a list of dicts or a dataset, got an int"),
        ([{"question": "a", "answer": "b"}, 3], "forget row 1: expected a dict or a text, got an int"),
        ([{"Frage": "a"}], "forget row 0: the columns are 'Frage'; allowed: question and answer"),
        ([{"question": "a", "answer": "b"}, {"question": "a"}], "forget row 1: no column 'answer'"),
        ([{"question": "a", "answer": "b"}, {"question": "a", "answer": {}}], "forget row 1: 'answer' must be text"),
        (
            [{"question": "a", "answer": "b", "prompt": "c", "completion": "d"}],
            "forget row 0: several pairs of columns could be question and answer: 'question' and 'answer', or 'prompt'",
        ),
        ([{"question": "a", "choices": ["b", "c"], "answer": "B"}], "probably of 'choices'; write the text of the"),
        ([{"text": "a", "labels": 1}, {"text": "b", "labels": 0}], "probably a class; pass the texts alone"),
        ([{"question": "a", "answer": ["b", "c"]}], "forget row 0: 'answer' lists 2 values"),
        ([{"Question": "a", "question": "b", "answer": "c"}], "'question' and 'Question' differ only in case"),
        ([{"question": "a", "answer": " "}], "forget row 0: 'answer' is empty"),
        ([{"messages": [USER]}], "forget row 0: 'messages' has the turns user; allowed are alternating turns"),
        ([{"messages": [USER, ASSISTANT, ASSISTANT]}], "has the turns user, assistant, assistant; allowed"),
        ([{"messages": [{"role": "system", "content": "x"}, USER, ASSISTANT]}], "system turn in a row is not read"),
        ([{"question": "a", "answer": "nan"}], "forget row 0: 'answer' is 'nan', which stands for a missing value"),
        ([{"question": "a", "answer": "\u200b"}], "forget row 0: 'answer' is empty: it has no visible character"),
        ([{"messages": [USER, ASSISTANT | {"content": "NaN"}]}], "the assistant turn is 'NaN', which stands for a"),
        (
            [{"messages": [USER, ASSISTANT | {"tool_calls": [1]}]}],
            "a turn has 'tool_calls', and calls of tools are not",
        ),
        ([{"instruction": "a", "input": {"b": 1}, "output": "c"}], "forget row 0: 'input' must be text, got {'b': 1}"),
        (
            pd.DataFrame([["a", "b", "c"]], columns=["question", "answer", "answer"]),
            "the column 'answer' is there twice",
        ),
        ([{"messages": [USER, ASSISTANT], "tools": [{"name": "f"}]}], "forget row 0: 'tools' would change the prompt"),
        ([{"messages": "no"}], "forget row 0: 'messages': expected a list of"),
        ([{"messages": [USER, {"role": "assistant", "content": None}]}], "the assistant turn is not text"),
    ],
)
def test_what_is_wrong_is_named(data: Any, words: str) -> None:
    with pytest.raises(DataError) as error:
        examples_from(data, "forget")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"text": "Q?", "labels": "A"}, "Q?", "A"),  # KnowUnDo's columns
        ({"question": "Q?", "answers": ["A"]}, "Q?", "A"),
        ({"Question": "Q?", "Answer": "A"}, "Q?", "A"),
        ({"query": "Q?", "response": "A"}, "Q?", "A"),
        ({"prompt": "Q?", "response": "A", "text": "Q? A"}, "Q?", "A"),
        ({"question": "Q?", "answer": "['1888']"}, "Q?", "1888"),
        ({"question": "Q?", "answer": 1994}, "Q?", "1994"),
        ({"instruction": "", "input": "Q?", "output": "A"}, "Q?", "A"),
        ({"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A"}]}, "Q?", "A"),
    ],
)
def test_records_are_read_as_rows_of_a_file(record: dict[str, Any], question: str, answer: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    in_memory = examples_from([record])
    from_file = load_rows(str(file), "data", Columns())
    for rows in (in_memory, from_file):
        assert [(row.question, row.answer) for row in rows] == [(question, answer)]
    assert in_memory.form == from_file.form


def test_numbered_wrong_answers_of_records() -> None:
    record = {"question": "a", "answer": "b", "perturbed_answer_1": "c", "perturbed_answer_2": "d"}
    (row,) = examples_from([record])
    assert dict(row.answers) == {"answer": "b", "perturbed_0": "c", "perturbed_1": "d"}
    assert row.meta == {}


def test_a_slice_of_a_set_keeps_its_form() -> None:
    texts = examples_from(["one", "two", "three"], "texts")
    part = texts[1:]
    assert (part.form, [row.row_id for row in part], [row.answer for row in part]) == ("text", [0, 1], ["two", "three"])
    assert examples_from(part, "forget").fingerprint() == examples_from(["two", "three"], "forget").fingerprint()
    assert texts[2].row_id == 2 and len(texts[:0]) == 0
    with pytest.raises(DataError, match="forget row 0: expected a dict or a text, got an Example; pass an ExampleSet"):
        examples_from(list(texts), "forget")


@pytest.mark.parametrize("row", [{"question": "Who?", "answer": "Ann"}, {"messages": []}])
def test_a_column_of_system_messages_is_refused_as_a_system_turn(row: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="a column of system messages is not read; remove it"):
        examples_from([{**row, "system": "Be brief."}], name="forget")
