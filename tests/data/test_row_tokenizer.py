"""A prompt and an answer are tokenised apart only where this gives the ids of the whole text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from expunge.data.encoder import Encoder
from expunge.data.row_tokenizer import RowTokenizer
from expunge.data.template import Template

# as in Llama 3 and Qwen2: a sign before a word belongs to the part of the word
SIGN_AND_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
)
TEXTS = ["Answer:Carmen wrote it:Carmen (Ana) [Ana] 'Ana' I'm it's 1991 7", "Who was born in 1991? Answer: Carmen"]
WORDS = ("Ana", "Carmen", "I'm", "s", "ve", "1991", "7 years", "élan", "東京", "x²", "½", "a.b", "")
ENDS = ("Answer:", "Answer: ", "(", "]", "I'", "it", "12", "\n", "\t", "é", "? ", "--", "")


def tokenizer_of(rule: str | None) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if rule is not None:
        parts = pre_tokenizers.Split(Regex(rule), behavior="isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", clean_up_tokenization_spaces=False)


RULES: dict[str, Any] = {"words": None, "sign and word": SIGN_AND_WORD, "no parts": r"\z"}
TOKENIZERS = {name: tokenizer_of(rule) for name, rule in RULES.items()}


def test_a_sign_that_belongs_to_the_part_of_the_answer() -> None:
    """The sample words have the same ids apart as together here, and "Carmen" has not."""
    tokenizer = TOKENIZERS["sign and word"]
    rows = RowTokenizer(tokenizer, [], split_special_tokens=True)
    together = tokenizer("Answer:Carmen")["input_ids"]
    assert together != tokenizer("Answer:")["input_ids"] + tokenizer("Carmen")["input_ids"]
    assert not rows.splits("Answer:", "Carmen") and rows.splits("Answer:", " Carmen")
    template = Template(user_start_tag="Question: ", user_end_tag="\n", asst_start_tag="Answer:", asst_end_tag="")
    row = Encoder(template, tokenizer).encode("Who?", "Carmen wrote it")
    assert list(row.ids[:-1]) == tokenizer("Question: Who?\nAnswer:Carmen wrote it")["input_ids"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=200, deadline=None)
@given(
    prompt=st.text("Ana' :1\n(é", max_size=6),
    end=st.sampled_from(ENDS),
    blank=st.sampled_from(("", " ")),
    word=st.sampled_from(WORDS),
    answer=st.text("Ana' :1\n(é½東", max_size=4),
)
def test_apart_as_together(kind: str, prompt: str, end: str, blank: str, word: str, answer: str) -> None:
    rows = RowTokenizer(TOKENIZERS[kind], [], split_special_tokens=True)
    first, second = prompt + end, blank + word + answer
    if rows.splits(first, second):
        one, other, whole = (rows.ids([text])[0] for text in (first, second, first + second))
        assert one + other == whole


ADDED = (
    *(AddedToken("<|reply|>", rstrip=True, special=True), AddedToken("New York", normalized=False)),
    *(AddedToken("Oslo", single_word=True), AddedToken("Rome", lstrip=True), AddedToken("<|end|>", special=True)),
)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("Who?<|reply|>", " Ana wrote it", False),  # the token takes the blank after it
        ("Who?<|reply|>\n", " Ana wrote it", False),
        ("Who?<|reply|>", "Ana wrote it", False),
        ("She lives in New", " York today", False),
        ("Who?<|", "end|> Ana", False),
        ("from_", "Oslo", False),  # a token of a whole word, which the part before it makes no word
        ("in\n", "Rome", False),  # the token takes the white space before it
        ("She lives in New", " Yorkshire", False),  # these letters begin with the token
        ("She lives in Old", " York today", True),
        ("Who?<|end|>", " Ana wrote it", True),
    ],
)
def test_an_added_token_reaches_over_the_boundary(first: str, second: str, apart: bool) -> None:
    tokenizer = tokenizer_of(None)
    tokenizer.add_tokens(list(ADDED))
    assert RowTokenizer(tokenizer, [], split_special_tokens=True).splits(first, second) == apart
    template = Template(
        user_start_tag="", user_end_tag=first, asst_start_tag="", asst_end_tag="", split_special_tokens=False
    )
    row = Encoder(template, tokenizer).encode("", second)
    assert list(row.ids[:-1]) == tokenizer(first + second)["input_ids"]


def test_rows_of_one_template_need_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the question has no part in it."""
    rows = RowTokenizer(TOKENIZERS["words"], [], split_special_tokens=True)
    calls: list[int] = []
    plain = RowTokenizer.plain_ids
    monkeypatch.setattr(RowTokenizer, "plain_ids", lambda self, texts: calls.append(1) or plain(self, texts))
    for question in ("Who wrote it?", "Was she born in 1991?", "Où?"):
        assert rows.splits(f"Question: {question}\nAnswer:", " Ana")
    assert len(calls) == 1
