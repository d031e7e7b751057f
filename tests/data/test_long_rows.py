"""Rows that are longer than their set's max_length: cut on the right, on the left, or the whole set in pieces."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet, text_rows
from expunge.data.template import Template
from expunge.models.build import train_tokenizer

TEXTS = [
    "The first text, of some length, is here.",
    "A second one.",
    "And the third is a little longer than the second.",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS * 4, 300, max_length=1024)


def texts(max_length: int) -> ExampleSet:
    return text_rows([{"text": t} for t in TEXTS], name="t", where="f", max_length=max_length, long="pieces")


@pytest.mark.parametrize("max_length", [2, 7, 16, 1000])
def test_pieces_lose_nothing_and_are_alike_in_length(tokenizer: Any, max_length: int) -> None:
    pieces = Encoder(Template(max_length=4), tokenizer).pieces(texts(max_length))
    assert all(p.ids[0] == tokenizer.bos_token_id and p.n_prompt == 1 and not p.truncated for p in pieces)
    lengths = [len(p.ids) for p in pieces]
    assert max(lengths) <= max_length and max(lengths) - min(lengths) <= 1
    assert tokenizer.decode([i for p in pieces for i in p.ids[1:]]) == "\n\n".join(TEXTS)
    assert len(pieces) == -(-sum(n - 1 for n in lengths) // (max_length - 1))


def test_pieces_without_a_first_token_of_their_own(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = None
    bare.bos_token = None
    pieces = Encoder(Template(), bare).pieces(texts(8))
    assert bare.decode([i for p in pieces for i in p.ids]) == "\n\n".join(TEXTS)
    assert {p.n_prompt for p in pieces} == {1}


def test_cut_on_the_left_keeps_the_answer_and_the_end_of_the_prompt(tokenizer: Any) -> None:
    row = Example(0, "x " * 50 + "Question?\nAnswer:", {"answer": "B"})
    whole = Encoder(Template(), tokenizer).row(
        ExampleSet("m", (row,), form="text", max_length=500, long="left"), row, "answer"
    )
    cut = Encoder(Template(), tokenizer).row(
        ExampleSet("m", (row,), form="text", max_length=20, long="left"), row, "answer"
    )
    assert (whole.truncated, cut.truncated) == (0, len(whole.ids) - 20)
    assert cut.ids == (whole.ids[0], *whole.ids[-19:])
    assert cut.n_answer == whole.n_answer


def test_an_answer_that_leaves_no_room_is_cut_or_refused_as_ever(tokenizer: Any) -> None:
    row = Example(0, "Why?", {"answer": TEXTS[0]})
    with pytest.raises(DataError, match="m row 0: the prompt alone"):
        Encoder(Template(), tokenizer).row(
            ExampleSet("m", (row,), form="text", max_length=3, long="left"), row, "answer"
        )


def test_a_set_has_its_own_length_and_shots(tokenizer: Any) -> None:
    row = Example(0, "Why?", {"answer": TEXTS[0]})
    encoder = Encoder(Template(max_length=512), tokenizer)
    assert len(encoder.row(ExampleSet("m", (row,), max_length=24), row, "answer").ids) == 24
    display = encoder.row_prompt(ExampleSet("m", (row,), shots=(("When?", "Now"),)), row)
    assert "Question: When?\nAnswer: Now\n\nQuestion: Why?" in tokenizer.decode(display)
    assert encoder.template.max_length == 512


def test_how_long_rows_are_cut_counts_and_the_usual_way_leaves_no_trace() -> None:
    row = Example(0, "Why?", {"answer": "So."})
    plain = ExampleSet("m", (row,), form="text")
    prints = {
        ExampleSet("m", (row,), form="text", max_length=n, long=w).fingerprint()
        for n in (8, 9)
        for w in ("left", "right")
    }
    assert len(prints | {plain.fingerprint()}) == 5
