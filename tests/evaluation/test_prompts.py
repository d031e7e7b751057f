"""The prompts of generations, and the check of lengths before a model is trained."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from expunge.core.errors import DataError
from expunge.data.encoder import Encoder
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.prompts import check_lengths, long_rows
from expunge.metrics.api import Metric
from expunge.models.build import train_tokenizer


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    tokenizer = train_tokenizer(["who? Ann"] * 9, 300, max_length=60)
    return Encoder(Template(max_length=60, apply_chat_template=False), tokenizer)


def of(question: str, answer: str) -> Mapping[str, ExampleSet]:
    rows = (Example(0, "who?", {ANSWER: "Ann"}), Example(1, question, {ANSWER: answer}))
    return {"forget": ExampleSet("forget", rows)}


def check(encoder: Encoder, sets: Mapping[str, ExampleSet], kind: str, context: int | None) -> None:
    metrics = [Metric("m", "probability" if kind == "tokens" else "rouge", rows="forget", reads={kind: ("answer",)})]
    check_lengths(metrics, sets, encoder, Generation(), context)


@pytest.mark.parametrize(
    ("question", "answer", "kind", "context", "message"),
    [
        ("z" * 70, "Ann", "tokens", None, r"^forget row 1: the prompt alone has \d+ tokens, max_length is 60"),
        ("z" * 70, "Ann", "texts", 60, r"^forget row 1: the prompt has \d+ tokens, which fill the model's context"),
        ("who?", "z" * 70, "tokens", 50, r"^forget row 1: 'answer' with its question has 60 tokens, but the model's"),
    ],
)
def test_a_row_without_room_is_named(
    encoder: Encoder, question: str, answer: str, kind: str, context: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check(encoder, of(question, answer), kind, context)


def test_rows_that_are_cut_or_fit_pass(encoder: Encoder) -> None:
    check(encoder, of("who?", "z" * 70), "tokens", None)  # the end of the answer is cut, and counted
    check(encoder, of("z" * 70, "Ann"), "texts", None)  # a prompt is not cut
    check(encoder, of("who?", "Ann"), "tokens", 60)


def test_only_the_longest_answer_of_a_row_counts(encoder: Encoder) -> None:
    short = {ANSWER: "Ann", **{f"perturbed_{i}": "z" * 20 for i in range(5)}}
    rows = (Example(0, "who?", short), Example(1, "who?", {**short, "perturbed_5": "z" * 70}))
    assert [row.row_id for row in long_rows(ExampleSet("forget", rows), encoder, 60)] == [1]
