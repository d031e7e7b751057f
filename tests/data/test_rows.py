from __future__ import annotations

from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.data.examples import Example, ExampleSet, qa_rows

PLAIN = {"question": "Who?", "answer": "Ann."}


def rows(*raw: dict[str, Any], **keys: str) -> ExampleSet:
    return qa_rows(list(raw), name="set", where="set.json", **keys)


def test_plain_rows_have_one_variant() -> None:
    result = rows(PLAIN, {"question": "When?", "answer": "Now.", "option1": 3})
    assert result.name == "set" and len(result) == 2
    assert [(r.row_id, r.question, r.answer) for r in result] == [(0, "Who?", "Ann."), (1, "When?", "Now.")]
    assert result.variants == ("answer",)
    assert result[1].perturbed == [] and result[1].paraphrased_question is None


def test_all_variants() -> None:
    wrong = [f"Not {i}." for i in range(11)]
    result = rows(
        {**PLAIN, "paraphrased_question": "Whom?", "paraphrased_answer": "It is Ann.", "perturbed_answer": wrong}
    )
    assert result[0].answers["paraphrase"] == "It is Ann."
    assert result[0].paraphrased_question == "Whom?"
    assert result[0].perturbed == wrong
    assert result.variants == ("answer", "paraphrase", *(f"perturbed_{i}" for i in range(11)))  # 10 after 9


def test_one_perturbed_text_and_nulls() -> None:
    assert rows({**PLAIN, "perturbed_answer": "Bob."})[0].perturbed == ["Bob."]
    nulls = {"perturbed_answer": None, "paraphrased_answer": None, "paraphrased_question": None}
    assert rows({**PLAIN, **nulls})[0].answers == {"answer": "Ann."}


def test_other_columns() -> None:
    result = rows({"prompt": "Q", "response": "A"}, question_key="prompt", answer_key="response")
    assert (result[0].question, result[0].answer) == ("Q", "A")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"qestion": "Who?", "answer": "A"}, ["no column 'question'", "did you mean 'qestion'?"]),
        ({"question": "Who?"}, ["no column 'answer'", "allowed: question"]),
        ({"question": 3, "answer": "A"}, ["'question' must be text, got 3"]),
        ({"question": "Who?", "answer": None}, ["'answer' must be text, got None"]),
        ({"question": " \n", "answer": "A"}, ["'question' is empty"]),
        ({"question": "Who?", "answer": ""}, ["'answer' is empty"]),
        ({**PLAIN, "paraphrased_answer": " "}, ["'paraphrased_answer' is empty"]),
        ({**PLAIN, "paraphrased_question": 1}, ["'paraphrased_question' must be text"]),
        ({**PLAIN, "perturbed_answer": []}, ["'perturbed_answer' must be a text or a list of texts, got []"]),
        ({**PLAIN, "perturbed_answer": "['Bob.', 'Cy.']"}, ["is a list written out as text", "perturbed_answer_1"]),
        ({**PLAIN, "perturbed_answer": '[ "Bob." ]\n'}, ["is a list written out as text"]),
        ({**PLAIN, "perturbed_answer": {"a": 1}}, ["'perturbed_answer' must be a text or a list"]),
        ({**PLAIN, "perturbed_answer": ["B", 7]}, ["'perturbed_answer'[1] must be text, got 7"]),
        ({**PLAIN, "perturbed_answer": ["B", ""]}, ["'perturbed_answer'[1] is empty"]),
        ({"question": "\ud83d", "answer": "A"}, ["'question' contains a broken character at position 0"]),
    ],
)
def test_a_bad_row_is_named(bad: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        rows(PLAIN, bad)
    output = str(caught.value)
    assert output.startswith("set.json row 1: ") and "\n" not in output
    for word in words:
        assert word in output


def test_no_rows() -> None:
    with pytest.raises(DataError, match=r"set\.json: no rows"):
        rows()


def test_row_ids_are_positions() -> None:
    with pytest.raises(ValueError, match="position 0 has row_id 1"):
        ExampleSet("s", (Example(1, "Q", {"answer": "A"}),))


def test_the_fingerprint_covers_contents_not_names() -> None:
    one = rows(PLAIN)
    assert one.fingerprint() == qa_rows([PLAIN], name="other", where="elsewhere").fingerprint()
    others = [
        rows({**PLAIN, "answer": "Bob."}),
        rows({**PLAIN, "perturbed_answer": "Bob."}),
        rows({**PLAIN, "paraphrased_question": "Whom?"}),
        rows(PLAIN, PLAIN),
        ExampleSet("set", (Example(0, "Who?", {"answer": "Ann."}, meta={"author": 1}),)),
    ]
    assert len({s.fingerprint() for s in (one, *others)}) == 6
