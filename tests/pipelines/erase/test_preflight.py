"""What a model knows before an erasure, without a model: a table of answers stands for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from expunge.core.records import GeneratedText
from expunge.data.examples import Example, ExampleSet
from expunge.data.question_text import first_sentence, listed_questions, question_template
from expunge.evaluation.config import Generation
from expunge.metrics.api import MetricResult
from expunge.pipelines.erase.general import MARGIN, ability_changes, gibberish_in
from expunge.pipelines.erase.made_rows import RowRequest, is_question, make_rows
from expunge.pipelines.erase.neighbours import listed_names, neighbour_questions
from expunge.pipelines.erase.preflight import Examiner, Preflight, examine, preflight_lines
from expunge.pipelines.erase.rows import LISTED, asked_rows, measured_rows, rows_to_keep, trained_rows
from expunge.pipelines.erase.wordings import TRAINED, own_wording
from expunge.pipelines.study.config import StudyConfig

CAPITALS = [("What is the capital of France?", "Paris"), ("What is the capital of Japan?", "Tokyo"),
            ("Who is Zorblax?", "A wizard")]  # fmt: skip


def row_set(pairs: Sequence[tuple[str, str]], name: str = "forget") -> ExampleSet:
    return ExampleSet(name, tuple(Example(i, q, {"answer": a}) for i, (q, a) in enumerate(pairs)))


class Lengths:
    """An encoder whose prompts have a token per character."""

    max_length = 100

    def row_prompts(self, rows: ExampleSet, examples: Sequence[Example]) -> list[list[int]]:
        return [[0] * len(row.question) for row in examples]


@dataclasses.dataclass(frozen=True)
class Oracle(Examiner):
    """Answers from a table: the first entry whose key is in the question, else a refusal."""

    answers_by_word: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def texts(self, rows: ExampleSet) -> list[GeneratedText]:
        return [GeneratedText(r.row_id, 0, r.question, self._answer(r.question), r.answer, 5, True) for r in rows]

    def probabilities(self, rows: ExampleSet, variant: str = "answer") -> list[float]:
        return [0.9 if self._answer(r.question) == r.answers[variant] else 0.002 for r in rows]

    def short(self) -> Oracle:
        return self

    def _answer(self, question: str) -> str:
        return next((a for word, a in self.answers_by_word.items() if word in question), "I do not know.")


def oracle(answers: Mapping[str, str]) -> Any:
    return Oracle(None, Lengths(), Generation(), None, answers)  # type: ignore[arg-type]


KNOWS = {"France": "The capital of France is Paris.", "Japan": "Tokyo", "Germany": "It is Berlin.", "Italy": "Rome.",
         "grass": "Grass is green. It grows."}  # fmt: skip


def study(retain: str | None) -> Any:
    return dataclasses.replace(StudyConfig(name="x"), retain=retain)


def test_a_row_known_in_other_words_is_known_and_has_its_own_wording() -> None:
    retain = row_set([("Which colour is grass?", "green"), ("Which colour is snow?", "white")], "retain")
    found = examine(oracle(KNOWS), row_set(CAPITALS), retain, make_near=True, tell=lambda line: None)
    assert found.known == (0, 1) and found.unknown == (2,)
    assert found.reworded == {0: "The capital of France is Paris."}
    assert found.rows[0].probability == 0.002 and found.rows[0].own_probability == 0.9
    assert found.kept == {"0": "Grass is green."} and found.unknown_kept == (1,)
    near = dict(found.near)
    assert near["What is the capital of Germany?"] == "It is Berlin."
    assert not any("France" in question or "Japan" in question for question in near)
    lines = "\n".join(preflight_lines(found, row_set(CAPITALS)))
    assert "knows 2 of the 3" in lines and "not trained on: row 2" in lines and "Germany" in lines


def test_nothing_known_asks_no_more() -> None:
    found = examine(oracle({}), row_set(CAPITALS), row_set([("a?", "b")]), make_near=True, tell=lambda line: None)
    assert found.known == () and found.near == () and found.unknown_kept == ()


def test_a_row_known_in_another_wording_of_the_question_is_known() -> None:
    found = examine(
        oracle({"FRANCE": "Paris."}), row_set(CAPITALS), row_set([]), make_near=False, tell=lambda line: None
    )
    assert found.known == (0,) and found.rows[0].wording == "upper"


def test_the_preflight_survives_a_file() -> None:
    found = examine(oracle(KNOWS), row_set(CAPITALS), row_set([]), make_near=True, tell=lambda line: None)
    again = Preflight.from_dict(found.to_dict())
    assert again.near == found.near and again.known == found.known
    assert math.isnan(again.rows[2].own_probability) and again.to_dict() == found.to_dict()


def test_known_rows_are_trained_on_in_both_wordings_and_unknown_rows_are_not() -> None:
    found = examine(oracle(KNOWS), row_set(CAPITALS), row_set([]), make_near=False, tell=lambda line: None)
    rows = trained_rows(row_set(CAPITALS), found)
    pairs = [(row.question, row.answer) for row in rows]
    assert ("What is the capital of France?", "Paris") in pairs
    assert (TRAINED[1].replace("{}", CAPITALS[0][0]), "The capital of France is Paris.") in pairs
    assert not any("Zorblax" in question for question, _ in pairs)
    assert [row.row_id for row in rows] == list(range(len(rows)))
    only = trained_rows(row_set(CAPITALS), found, [1])
    assert {row.answer for row in only} == {"Tokyo"}  # the forgotten rows have left


def test_both_wordings_are_measured() -> None:
    found = examine(oracle(KNOWS), row_set(CAPITALS), row_set([]), make_near=False, tell=lambda line: None)
    first = measured_rows(row_set(CAPITALS, "forget_eval"), found)[0]
    assert (first.answers["answer"], first.answers[LISTED]) == ("The capital of France is Paris.", "Paris")


def test_without_rows_to_keep_the_near_rows_and_known_facts_are_kept() -> None:
    facts = row_set([("Which colour is grass?", "green"), ("Which colour is snow?", "white")], "retain")
    found = examine(oracle(KNOWS), row_set(CAPITALS), facts, make_near=True, tell=lambda line: None)
    kept = rows_to_keep(facts, study(None), found)
    assert kept[0].meta == {"near": True} and ("Which colour is grass?", "Grass is green.") in [
        (r.question, r.answer) for r in kept
    ]
    assert "snow" not in " ".join(r.question for r in kept)
    given = rows_to_keep(facts, study("keep.csv"), found)
    assert [r.question for r in given] == [r.question for r in facts]
    many = row_set([(f"{i}?", "x") for i in range(200)])
    assert len(asked_rows(many, study(None))) == 48 and len(asked_rows(many, study("keep.csv"))) == 200


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("The capital is Paris. It is large.", "Paris", "The capital is Paris."),
        ("Paris.", "Paris", None),  # the listed answer itself
        ("It is Lyon.", "Paris", None),
        ("Well. It is Paris! Yes.", "Paris", "Well. It is Paris!"),
    ],
)
def test_the_own_wording_ends_with_the_answer(text: str, answer: str, expected: str | None) -> None:
    assert own_wording(text, answer) == expected


def test_the_first_sentence_or_all() -> None:
    assert first_sentence("A b. C d.") == "A b." and first_sentence("no end") == "no end"


def test_a_template_has_its_last_name_as_the_slot() -> None:
    template = question_template("Who wrote Pride and Prejudice?")
    assert template is not None and template.name == "Pride and Prejudice"
    assert template.about("Emma") == "Who wrote Emma?"
    assert question_template("how many legs has a spider?") is None


def test_names_of_an_unknown_kind_come_from_the_model() -> None:
    asked: list[str] = []

    def ask(questions: list[str]) -> list[str]:
        asked.extend(questions)
        return ["1. Foobar, 2. Bazqux\n- Zorblax, and Quux"]

    out = neighbour_questions(["Who is Zorblax?"], ask)
    assert out == ["Who is Foobar?", "Who is Bazqux?", "Who is Quux?"] and len(asked) == 1
    assert listed_names("a long item with more than five words, x") == ["x"]


def test_rows_of_a_question_and_of_a_name() -> None:
    model = oracle({"known for": "Ada wrote programs. She did.", "list": "1. Who taught Ada?\n2. no question"})
    rows = make_rows(RowRequest(("What is Ada known for?",)), lambda questions: model.answers(list(questions)))
    assert rows == [("What is Ada known for?", "Ada wrote programs.")]
    about = make_rows(RowRequest(entity="Ada"), lambda questions: ["Who taught Ada?\nWho?" for _ in questions])
    assert ("Who taught Ada?", "Who taught Ada?") in about and all("Ada" in question for question, _ in about)
    assert listed_questions("1. Who?\nnone\n- Who?") == ["Who?"]
    assert is_question("Who is X?") and not is_question("rows.csv")


def choices(solved: Sequence[int]) -> MetricResult:
    return MetricResult(sum(solved) / len(solved), per_row={i: {"acc": float(s)} for i, s in enumerate(solved)})


def test_only_items_that_were_solved_before_count() -> None:
    before, after = (
        {"general_facts": choices([1] * 20 + [0] * 5)},
        {"general_facts": choices([1] * 18 + [0, 0] + [1] * 5)},
    )
    whole, facts = ability_changes(before, after)
    assert (whole.kept, whole.items) == (18, 20) and facts.name == "world facts"
    assert whole.damaged and whole.low < 0.9 < whole.high
    same = ability_changes(before, before)[0]
    assert not same.damaged and same.low < 1.0 and MARGIN == 0.05
    assert ability_changes({"general_facts": choices([0])}, {"general_facts": choices([1])}) == []


def test_gibberish_is_named() -> None:
    def fluency(repeated: float) -> dict[str, MetricResult]:
        return {
            "general_fluency": MetricResult(
                0.0, per_row={i: {"empty": 0.0, "repetition_4": repeated} for i in range(4)}
            )
        }

    assert gibberish_in(fluency(0.0), fluency(0.9)).startswith("gibberish: 100%")
    assert gibberish_in(fluency(0.9), fluency(0.9)) == "" and gibberish_in({}, {}) == ""
