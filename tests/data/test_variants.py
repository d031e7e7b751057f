"""Other ways to ask: questions change, row ids and answers do not."""

from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.examples import Example, ExampleSet
from expunge.data.variants import (
    DIRECT,
    INSIST,
    LANGUAGES,
    ROLE,
    VARIANTS,
    begun,
    prefixed,
    variant_of,
    with_refusals,
    with_shots,
)

ROWS = ExampleSet(
    "forget",
    (
        Example(0, "Who is Ana?", {"answer": "A poet.", "perturbed_0": "A cook."}, "Who might Ana be?", {"kind": "a"}),
        Example(1, "Where?", {"answer": "Paris."}, "In which place?"),
    ),
)
ASKED = {
    "direct": [f"{DIRECT}Who is Ana?", f"{DIRECT}Where?"],
    "role": [f"{ROLE}Who is Ana?", f"{ROLE}Where?"],
    "insist": [f"{INSIST}Who is Ana?", f"{INSIST}Where?"],
    "upper": ["WHO IS ANA?", "WHERE?"],
    "quoted": ['"Who is Ana?"', '"Where?"'],
    "plain": ["Who is Ana?", "Where?"],
    "paraphrased": ["Who might Ana be?", "In which place?"],
    **{name: [f"{words}Who is Ana?", f"{words}Where?"] for name, words in LANGUAGES.items()},
}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_only_the_question_changes(name: str) -> None:
    result = variant_of(ROWS, name)
    assert result.name == f"forget_{name}"
    assert [r.question for r in result] == ASKED[name]
    assert [(r.row_id, r.answers, r.meta) for r in result] == [(r.row_id, r.answers, r.meta) for r in ROWS]
    assert result.form == ("completion" if name == "plain" else "qa")
    assert result.fingerprint() != ROWS.fingerprint()


def test_each_way_has_its_own_identity() -> None:
    assert len({variant_of(ROWS, name).fingerprint() for name in VARIANTS}) == len(VARIANTS)
    assert prefixed(ROWS, "a ").fingerprint() != prefixed(ROWS, "b ").fingerprint()


def test_refusals_stand_beside_the_answer() -> None:
    result = with_refusals(ROWS, ["No.", "I don't know."])
    assert result[0].answers == {"answer": "A poet.", "refusal_0": "No.", "refusal_1": "I don't know."}
    assert result[1].question == "Where?"


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ConfigError, match="no prompt variant named 'uper'; did you mean 'upper'"):
        variant_of(ROWS, "uper")
    bare = ExampleSet("forget", (Example(0, "Who?", {"answer": "Ana."}),))
    with pytest.raises(DataError, match="forget row 0: no paraphrased question"):
        variant_of(bare, "paraphrased")


def test_an_answer_begun_keeps_its_last_word_to_say() -> None:
    result = begun(ROWS, 0.5, ("Q: ", " A: "))
    # "A poet." has 2 words: 1 given; "Paris." has 1: none can be
    assert [(r.question, dict(r.answers)) for r in result] == [
        ("Q: Who is Ana? A: A", {"answer": "poet."}),
        ("Q: Where? A: ", {"answer": "Paris."}),
    ]
    assert result.form == "completion"
    assert [r.answer for r in begun(ROWS, 1.0, ("", " "))] == ["poet.", "Paris."]


def test_shots_stand_beside_the_rows_and_count_in_their_fingerprint() -> None:
    result = with_shots(ROWS, [("Why?", "So.")])
    assert result.shots == (("Why?", "So."),)
    assert [r.question for r in result] == [r.question for r in ROWS]
    assert result.fingerprint() != ROWS.fingerprint()
