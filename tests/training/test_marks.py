"""Marks of tokens: traces and unwanted words."""

from __future__ import annotations

import pytest

from expunge.core.errors import ConfigError, DataError
from expunge.data.batch import collate
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import Example, ExampleSet, qa_rows
from expunge.data.template import Template
from expunge.models.build import train_tokenizer
from expunge.training.encoding import check_span, encode_sets
from expunge.training.marks import unwanted_words

ROWS = ExampleSet(
    "rows",
    (
        Example(0, "Where is Ann?", {"answer": "Ann is in Rome now."}, meta={"unwanted": ["rome"]}, trace="A walk."),
        Example(1, "Where is Bob?", {"answer": "Bob is in Prague."}),
    ),
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    texts = [text for row in ROWS for text in (row.question, row.text("trace+answer" if row.trace else "answer"))]
    return Encoder(Template(), train_tokenizer(texts, 300, max_length=256))


def shown(encoder: Encoder, row: Encoded) -> str:
    return str(encoder.tokenizer.decode([row.ids[i] for i in row.marks])).strip()


def test_traces_are_marked_on_rows_that_have_one(encoder: Encoder) -> None:
    rows = encode_sets([ROWS], encoder, "trace+answer", "trace")
    assert [shown(encoder, row) for row in rows] == ["A walk.", ""]
    assert rows[0].ids == encode_sets([ROWS], encoder, "trace+answer")[0].ids


def test_unwanted_words_are_named_or_follow_from_the_answer(encoder: Encoder) -> None:
    rows = encode_sets([ROWS], encoder, "answer", "unwanted")
    assert [shown(encoder, row) for row in rows] == ["Rome", "Prague"]


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        ("Where is Bob?", "Bob is in Prague.", ["Prague"]),  # neither the question's words nor empty ones
        ("Is it Bob?", "It is Bob.", ["Bob"]),  # no other content
        ("Is it?", "It is.", ["It", "is"]),  # no content at all
    ],
)
def test_the_rule_for_unwanted_words(question: str, answer: str, words: list[str]) -> None:
    assert unwanted_words(Example(0, question, {"answer": answer})) == words


@pytest.mark.parametrize(("answer", "word"), [("né né", "né"), ("東京", "京"), ("Rome, romeo", "rome")])
def test_every_token_of_a_word_is_marked(encoder: Encoder, answer: str, word: str) -> None:
    """A word counts whole: "romeo" has no mark. Characters of several tokens are marked with each of them."""
    rows = ExampleSet("x", (Example(0, "Q?", {"answer": answer}, meta={"unwanted": [word]}),))
    marked = shown(encoder, encode_sets([rows], encoder, "answer", "unwanted")[0])
    assert marked.replace(" ", "").casefold() == ("néné" if word == "né" else word)


def test_a_batch_lists_the_marks_at_each_kind_of_position() -> None:
    rows = [Encoded((5, 6, 7, 8), 2, marks=(3,)), Encoded((5, 6), 1, marks=(1,))]
    for positions in ("answer", "own"):
        batch = collate(rows, pad_id=0, positions=positions, marks=True)
        assert batch.token_N.tolist() == [7, 8, 6] and batch.marked_N is not None
        assert batch.marked_N.tolist() == [False, True, True]
    left = collate(rows, pad_id=0, padding_side="left", marks=True)
    assert left.marked_N is not None and left.marked_N.tolist() == [False, True, True]
    assert collate(rows, pad_id=0).marked_N is None


def test_the_column_is_checked() -> None:
    rows = qa_rows([{"question": "Q?", "answer": "In Rome.", "unwanted": "Rome"}], name="r", where="f")
    assert rows[0].meta == {"unwanted": ["Rome"]}
    for value, words in (("Paris", "has 'Paris', which is not in the answer 'In"), (3, "must be"), ([""], "is empty")):
        with pytest.raises(DataError, match=rf"^f row 0: 'unwanted'.*{words}"):
            qa_rows([{"question": "Q?", "answer": "In Rome.", "unwanted": value}], name="r", where="f")


def test_texts_without_answers_have_no_unwanted_words(encoder: Encoder) -> None:
    texts = ExampleSet("t", (Example(0, "", {"answer": "Ann is in Rome."}),), form="text")
    with pytest.raises(DataError, match=r"^t: the method forgets words of answers"):
        encode_sets([texts], encoder, "answer", "unwanted")


def test_a_method_of_traces_needs_both_spans() -> None:
    with pytest.raises(ConfigError, match=r"^t: this method reads traces and answers; set t=trace\+answer$"):
        check_span([ROWS], "answer", forgets=True, alternates=False, where="t", marks="trace")
