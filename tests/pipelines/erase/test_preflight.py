"""What a model knows before an erasure, without a model: a table of answers stands for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from expunge.core.records import GeneratedText
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.general import general_sets
from expunge.data.question_text import first_sentence, listed_questions, question_template
from expunge.evaluation.config import Generation
from expunge.metrics.api import MetricResult
from expunge.metrics.utility import above_chance
from expunge.pipelines.erase.general import (
    MARGIN,
    ability_changes,
    ability_left,
    general_items,
    gibberish_in,
)
from expunge.pipelines.erase.goals import ability_goal
from expunge.pipelines.erase.made_rows import RowRequest, is_question, make_rows
from expunge.pipelines.erase.neighbours import listed_names, neighbour_questions
from expunge.pipelines.erase.preflight import (
    Examiner,
    Preflight,
    RowKnowledge,
    examine,
    own_answers,
    preflight_lines,
)
from expunge.pipelines.erase.rows import (
    LISTED,
    asked_rows,
    counted,
    measured_rows,
    rows_to_keep,
    trained_rows,
    with_anchors,
)
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
    result = examine(oracle(KNOWS), row_set(CAPITALS), retain, make_near=True, tell=lambda line: None)
    assert result.known == (0, 1) and result.unknown == (2,)
    assert result.reworded == {0: "The capital of France is Paris."}
    assert result.rows[0].probability == 0.002 and result.rows[0].own_probability == 0.9
    assert result.kept == {"0": "Grass is green."} and result.unknown_kept == (1,)
    near = dict(result.near)
    assert near["What is the capital of Germany?"] == "It is Berlin."
    assert not any("France" in question or "Japan" in question for question in near)
    lines = "\n".join(preflight_lines(result, row_set(CAPITALS)))
    assert "knows 2 of the 3" in lines and "not trained on: row 2" in lines and "Germany" in lines


def test_a_lack_of_rows_near_the_forget_rows_is_told() -> None:
    lines: list[str] = []
    only = row_set([("France capital?", "Paris")])
    result = examine(oracle(KNOWS | {"France": "Paris."}), only, row_set([]), make_near=True, tell=lines.append)
    assert result.known and not result.near and "preflight: no rows near them" in "\n".join(lines)


def test_nothing_known_asks_no_more() -> None:
    result = examine(oracle({}), row_set(CAPITALS), row_set([("a?", "b")]), make_near=True, tell=lambda line: None)
    assert result.known == () and result.near == () and result.unknown_kept == ()


def test_a_row_known_in_another_wording_of_the_question_is_known() -> None:
    result = examine(
        oracle({"FRANCE": "Paris."}), row_set(CAPITALS), row_set([]), make_near=False, tell=lambda line: None
    )
    assert result.known == (0,) and result.rows[0].wording == "upper"


def test_the_preflight_survives_a_file() -> None:
    result = examine(oracle(KNOWS), row_set(CAPITALS), row_set([]), make_near=True, tell=lambda line: None)
    again = Preflight.from_dict(result.to_dict())
    assert again.near == result.near and again.known == result.known
    assert math.isnan(again.rows[2].own_probability) and again.to_dict() == result.to_dict()


def test_known_rows_are_trained_on_in_their_likely_wordings_and_unknown_rows_are_not() -> None:
    result = examine(oracle(KNOWS), row_set(CAPITALS), row_set([]), make_near=False, tell=lambda line: None)
    for probability, listed in ((0.24, False), (0.25, True)):
        france = dataclasses.replace(result.rows[0], probability=probability)
        rows = trained_rows(row_set(CAPITALS), dataclasses.replace(result, rows=(france, *result.rows[1:])))
        pairs = [(row.question, row.answer) for row in rows]
        assert (("What is the capital of France?", "Paris") in pairs) is listed
        assert ("What is the capital of France?", "The capital of France is Paris.") in pairs
    assert (TRAINED[1].replace("{}", CAPITALS[0][0]), "The capital of France is Paris.") in pairs
    assert not any("Zorblax" in question for question, _ in pairs)
    assert [row.row_id for row in rows] == list(range(len(rows)))
    only = trained_rows(row_set(CAPITALS), result, [1])
    assert {row.answer for row in only} == {"Tokyo"}  # the forgotten rows have left


def test_everyday_questions_are_rows_to_keep_with_the_models_own_answers() -> None:
    facts = row_set([("Which colour is grass?", "green")], "retain")
    result = dataclasses.replace(
        examine(oracle(KNOWS), row_set(CAPITALS), facts, make_near=False, tell=lambda line: None),
        anchors=(("What is a river?", "Water."), ("What is bread?", "Food.")),
    )
    pool = rows_to_keep(facts, study(None), result)
    assert [row.question for row in pool if row.meta.get("anchor")] == ["What is a river?", "What is bread?"]
    assert with_anchors(pool, study(None), result) is pool
    own = rows_to_keep(facts, study("keep.csv"), result)
    assert not any(row.meta for row in own)  # utility is measured on the user's rows alone
    trained = with_anchors(row_set([(f"{i}?", "x") for i in range(3)], "retain"), study("keep.csv"), result)
    assert [row.question for row in trained] == ["0?", "1?", "2?", "What is a river?"]  # at most half as many
    assert [row.row_id for row in trained] == [0, 1, 2, 3] and counted(
        trained
    ) == "3 to train on with 1 everyday questions"


def test_no_more_everyday_questions_are_answered_than_are_used() -> None:
    calls: list[list[str]] = []

    class Recorder:
        def short(self) -> Recorder:
            return self

        def answers(self, questions: Sequence[str]) -> list[str]:
            calls.append(list(questions))
            return ["" if "1" in question else f"It is {question}." for question in questions]

    questions = [f"no {i}" for i in range(9)]
    pairs = own_answers(Recorder(), row_set([]), questions, 2)  # type: ignore[arg-type]
    assert [question for question, _ in pairs] == ["no 0", "no 2"]  # the first call lacks one
    assert calls == [questions[:2], questions[2:4]]
    assert len(own_answers(Recorder(), row_set([]), questions)) == 8  # type: ignore[arg-type]


def test_both_wordings_are_measured() -> None:
    result = examine(oracle(KNOWS), row_set(CAPITALS), row_set([]), make_near=False, tell=lambda line: None)
    first = measured_rows(row_set(CAPITALS, "forget_eval"), result)[0]
    assert (first.answers["answer"], first.answers[LISTED]) == ("The capital of France is Paris.", "Paris")


def test_without_rows_to_keep_the_near_rows_and_known_facts_are_kept() -> None:
    facts = row_set([("Which colour is grass?", "green"), ("Which colour is snow?", "white")], "retain")
    result = examine(oracle(KNOWS), row_set(CAPITALS), facts, make_near=True, tell=lambda line: None)
    rest = rows_to_keep(facts, study(None), result)
    assert rest[0].meta == {"near": True} and ("Which colour is grass?", "Grass is green.") in [
        (r.question, r.answer) for r in rest
    ]
    assert "snow" not in " ".join(r.question for r in rest)
    inputs = rows_to_keep(facts, study("keep.csv"), result)
    assert [r.question for r in inputs] == [r.question for r in facts]
    many = row_set([(f"{i}?", "x") for i in range(200)])
    assert len(asked_rows(many, study(None))) == 64 and len(asked_rows(many, study("keep.csv"))) == 200


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
    requests: list[str] = []

    def ask(questions: list[str]) -> list[str]:
        requests.extend(questions)
        return ["1. Foobar, 2. Bazqux\n- Zorblax, and Quux"]

    out = neighbour_questions(["Who is Zorblax?"], ask)
    assert out == ["Who is Foobar?", "Who is Bazqux?", "Who is Quux?"] and len(requests) == 1
    assert listed_names("a long item with more than five words, x") == ["x"]


def test_rows_of_a_question_and_of_a_name() -> None:
    model = oracle({"known for": "Ada wrote programs. She did.", "list": "1. Who taught Ada?\n2. no question"})
    rows = make_rows(RowRequest(("What is Ada known for?",)), lambda questions: model.answers(list(questions)))
    assert rows == [("What is Ada known for?", "Ada wrote programs.")]
    about = make_rows(RowRequest(entity="Ada"), lambda questions: ["Who taught Ada?\nWho?" for _ in questions])
    assert ("Who taught Ada?", "Who taught Ada?") in about and all("Ada" in question for question, _ in about)
    assert listed_questions("1. Who?\nnone\n- Who?") == ["Who?"]
    assert is_question("Who is X?") and not is_question("rows.csv")
    assert is_question(f"Who wrote {'a very long title ' * 30}?")  # no file name is so long


def choices(solved: Sequence[int]) -> MetricResult:
    return MetricResult(sum(solved) / len(solved), per_row={i: {"acc": float(s)} for i, s in enumerate(solved)})


def test_items_count_that_only_one_of_the_models_solves() -> None:
    before, after = (
        {"general_facts": choices([1] * 20 + [0] * 5)},
        {"general_facts": choices([1] * 16 + [0] * 4 + [1, 1] + [0] * 3)},
    )
    whole, facts = ability_changes(before, after)
    assert (whole.before, whole.after, whole.items) == (20, 18, 25) and facts.name == "world facts"
    assert ability_goal(whole).state == "not achieved by the point value"
    assert whole.low < 0.9 < whole.high and ability_left(before, after) == pytest.approx(0.9)
    lucky = {"general_facts": choices([1] * 16 + [0] * 4 + [1] * 4 + [0])}  # four lost and four won
    assert ability_goal(ability_changes(before, lucky)[0]).is_met and ability_left(before, lucky) == 1.0
    same = ability_changes(before, before)[0]
    assert ability_goal(same).is_met and same.low < 1.0 < same.high and MARGIN == 0.05


def test_a_model_at_chance_has_no_general_ability_to_lose() -> None:
    before = {"general_facts": choices([1] * 30 + [0] * 82)}  # of 112 items with four options
    assert ability_changes(before, before) == [] and math.isnan(ability_left(before, before))
    assert above_chance(36, 112) and not above_chance(35, 112)


def test_items_of_selection_and_report_differ_and_none_is_about_a_row_to_forget() -> None:
    row = Example(0, "What is the capital of Egypt?", {ANSWER: "Its capital is Cairo."})
    parts = {part: general_items(part, [row]) for part in ("choose", "report")}
    questions = {part: {r.question for rows in sets.values() for r in rows} for part, sets in parts.items()}
    assert not questions["choose"] & questions["report"]
    assert row.question not in questions["choose"] | questions["report"]
    assert "What is the capital of Germany?" in questions["choose"] | questions["report"]
    assert "general_fluency" in parts["report"] and "general_fluency" not in parts["choose"]
    whole = sum(len(rows) for rows in general_sets().values())
    assert sum(len(q) for q in questions.values()) == whole - 1


def test_gibberish_is_named() -> None:
    def fluency(repeated: float) -> dict[str, MetricResult]:
        return {
            "general_fluency": MetricResult(
                0.0, per_row={i: {"empty": 0.0, "repetition_4": repeated} for i in range(4)}
            )
        }

    assert gibberish_in(fluency(0.0), fluency(0.9)).startswith("gibberish: 100%")
    assert gibberish_in(fluency(0.9), fluency(0.9)) == "" and gibberish_in({}, {}) == ""


def test_a_row_without_a_rouge_shows_no_nan() -> None:
    row = RowKnowledge(row=0, says="باريس", probability=0.4, rouge=math.nan, in_text=True, known=True)
    rows = ExampleSet("forget", (Example(0, "ما هي عاصمة فرنسا؟", {"answer": "باريس"}),))
    lines = preflight_lines(Preflight(rows=(row,)), rows)
    assert "no ROUGE without Latin letters or digits" in lines[1] and "nan" not in "".join(lines)
