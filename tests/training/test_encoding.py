"""Examples of several sets as token ids, and other answers to their questions."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.models.build import train_tokenizer
from expunge.training.encoding import encode_alternates, encode_sets, warn_truncated

TEXTS = [f"Who is number {i}? It is Ann {i}, by the long river." for i in range(9)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(Template(max_length=64), train_tokenizer(TEXTS, 300, max_length=64))


def examples(name: str, n: int, **fields: Any) -> ExampleSet:
    rows = (Example(i, f"Who is number {i}?", {"answer": f"It is Ann {i}."}) for i in range(n))
    return ExampleSet(name, tuple(rows), **fields)


def test_sets_are_encoded_in_order_as_single_examples_are(encoder: Encoder) -> None:
    sets = [examples("one", 3), examples("two", 2, form="text")]
    expected = [encoder.row(one, row, "answer") for one in sets for row in one.rows]
    assert encode_sets(sets, encoder) == expected


def test_other_answers_belong_to_the_examples_of_all_sets_in_turn(encoder: Encoder) -> None:
    sets = [examples("one", 2), examples("two", 1)]
    texts = [["No."], ["Ann.", "Bob."], ["It is late."]]
    rows = encode_alternates(sets, texts, encoder)
    decoded = [encoder.tokenizer.decode(row.ids) for row in rows]
    assert [("number 0" in d, "number 1" in d) for d in decoded] == [
        (True, False), (False, True), (False, True), (True, False),
    ]  # fmt: skip
    for text, answer in zip(decoded, ("No.", "Ann.", "Bob.", "It is late."), strict=True):
        assert answer in text
    with pytest.raises(ValueError, match="1 lists of other answers"):
        encode_alternates(sets, [*texts, ["x"]], encoder)
    with pytest.raises(ValueError, match="zip"):
        encode_alternates(sets, texts[:1], encoder)


def test_other_answers_follow_the_trace_of_the_example(encoder: Encoder) -> None:
    row = Example(0, "Who is it?", {"answer": "Ann."}, trace="Let me see.")
    (only,) = encode_alternates([ExampleSet("traces", (row,))], [["Bob."]], encoder)
    text = encoder.tokenizer.decode(only.ids)
    assert "Ann" not in text and "Let me see." in text and "Bob." in encoder.tokenizer.decode(only.ids[only.n_prompt :])


def test_truncated_answers_are_reported(encoder: Encoder, caplog: pytest.LogCaptureFixture) -> None:
    short = Encoder(Template(max_length=24), encoder.tokenizer)
    one = examples("one", 3)
    with caplog.at_level(logging.WARNING):
        warn_truncated(one, encode_sets([one], encoder), encoder)
        assert not caplog.records
        warn_truncated(one, encode_sets([one], short), short)
    assert "3 of 3 answers of one are truncated at 24 tokens" in caplog.text
