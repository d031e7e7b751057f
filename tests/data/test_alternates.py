"""Other answers to the forget questions, from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.alternates import read_alternates
from expunge.data.in_memory import examples_from

ROWS = [{"question": "Who?", "alternate": ["Bo", "Cy"]}, {"question": "Where?", "alternate": ["Rome", "Oslo"]}]


def written(folder: Path, rows: object) -> Path:
    file = folder / "alt.json"
    file.write_text(json.dumps(rows))
    return file


def test_answers_follow_the_questions(tmp_path: Path) -> None:
    result = read_alternates(written(tmp_path, ROWS), "alternate")
    forget = examples_from([{"question": q, "answer": "x"} for q in ("Where?", "Who?")], "forget")
    assert result.of(forget) == [("Rome", "Oslo"), ("Bo", "Cy")]
    assert result.n == 2


def test_a_row_per_answer(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "other": "Bo"}, {"question": "Who?", "other": "Cy"}]
    assert read_alternates(written(tmp_path, rows), "other").answers == {"Who?": ("Bo", "Cy")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Who?", "answer": "A"}], "needs the columns question and alternate"),
        ([*ROWS, {"question": "When?", "alternate": ["1990"]}], "equally many texts"),
        ([{"question": "Who?", "alternate": ["A", " "]}], "must be a text"),
    ],
)
def test_wrong_files(rows: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_alternates(written(tmp_path, rows), "alternate")


def test_a_question_that_the_file_lacks(tmp_path: Path) -> None:
    result = read_alternates(written(tmp_path, ROWS), "alternate")
    with pytest.raises(DataError, match="lacks the question of forget row 0: 'When"):
        result.of(examples_from([{"question": "When?", "answer": "x"}], "forget"))
