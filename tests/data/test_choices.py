"""Multiple-choice questions as rows: prompts, options, solved examples, and what is refused."""

from __future__ import annotations

import pytest

from expunge.core.errors import DataError
from expunge.data.choices import ChoiceQuestion, choice_rows, read_questions

FIRST = ChoiceQuestion("What is 2 + 2?", ("3", "4", "5"), 1)
SECOND = ChoiceQuestion("And 1 + 1?", ("2", "0", "1"), 0)


def test_letters_list_the_options_in_the_prompt() -> None:
    (row,) = choice_rows("m", [FIRST], about="sums")
    assert row.question == (
        "The following are multiple choice questions (with answers) about sums.\n\n"
        "What is 2 + 2?\nA. 3\nB. 4\nC. 5\nAnswer:"
    )
    assert row.answers == {"answer": "B", "wrong_0": "A", "wrong_1": "C"}


def test_options_are_the_answers() -> None:
    (row,) = choice_rows("m", [FIRST], about="sums", style="options")
    assert row.question.endswith("about sums.\n\nWhat is 2 + 2?\nAnswer:")
    assert row.answers == {"answer": "4", "wrong_0": "3", "wrong_1": "5"}


def test_the_head_stands_once_before_the_first_solved_question() -> None:
    rows = choice_rows("m", [FIRST], about="sums", shots=[SECOND, FIRST])
    assert rows.shots[0] == (
        "The following are multiple choice questions (with answers) about sums.\n\n"
        "And 1 + 1?\nA. 2\nB. 0\nC. 1\nAnswer:",
        "A",
    )
    assert rows.shots[1] == ("What is 2 + 2?\nA. 3\nB. 4\nC. 5\nAnswer:", "B")
    assert rows[0].question.startswith("What is")
    assert (rows.form, rows.long) == ("text", "left")


@pytest.mark.parametrize("answer", [1, "1", "B", " B "])
def test_the_right_option_by_position_or_letter(answer: object) -> None:
    listed = read_questions([{"question": " q ", "choices": ["x", "y"], "answer": answer}], "f")
    columns = read_questions([{"question": "q", "choice0": "x", "choice1": "y", "answer": answer}], "f")
    assert listed == columns == [ChoiceQuestion("q", ("x", "y"), 1)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"choices": ["x", "y"], "answer": 0}, "f row 0: no column 'question'"),
        ({"question": "q", "choices": ["x", "y"]}, "f row 0: no column 'answer'"),
        ({"question": "q", "choices": ["x"], "answer": 0}, "f row 0: needs a question and at least two options"),
        ({"question": "q", "choices": ["x", 3], "answer": 0}, "f row 0: needs a question and at least two options"),
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "f row 0: 'answer' must be 0 to 1 or A to B: '2'"),
        ({"question": "q", "choices": ["x", "y"], "answer": "AB"}, "f row 0: 'answer' must be 0 to 1 or A to B: 'AB'"),
        ({"question": "q", "choices": ["x", "y"], "answer": ""}, "f row 0: 'answer' must be 0 to 1 or A to B: ''"),
        ({"question": " ", "choices": ["x", "y"], "answer": 0}, "f row 0: 'question' is empty"),
        ({"question": "Q", "choices": ["x", " "], "answer": 0}, "f row 0: option 1 is empty"),
    ],
)
def test_what_is_refused(record: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as error:
        read_questions([record], "f")
    assert str(error.value).startswith(message)
