"""Texts that scoring has shown the beginning of are the texts that are made from nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.records import GeneratedText, TokenRecords, token_records
from expunge.data.batch import collate
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import score_tokens
from expunge.evaluation.observation import capabilities
from expunge.evaluation.prompts import SURE, DraftTexts, drafts_of, make_prompts, with_drafts
from expunge.models.build import build_llama

SAID = "It was written in Paris, by the sea, over many years."


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(Template(), tokenizer)


@pytest.fixture(scope="module")
def knows(tokenizer: Any, rows: ExampleSet, encoder: Encoder) -> Any:
    """A model that has learned one answer to all rows."""
    model = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0)
    batch = collate([encoder.encode(r.question, SAID) for r in rows], pad_id=0)
    labels = torch.full_like(batch.ids_BT, -100)
    labels[batch.row_N, batch.pos_N + 1] = batch.token_N
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    loss = torch.tensor(torch.inf)
    for _ in range(400):
        optimizer.zero_grad()
        loss = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long(), labels=labels).loss
        if loss < 0.1:
            break
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return model.eval()


@pytest.fixture(scope="module")
def questions(rows: ExampleSet) -> ExampleSet:
    """The rows, some with an answer that is the learned one for a while only, or not at all."""
    output = (SAID, SAID.replace("Paris", "Rome"), "Nobody knows.", SAID + " Yes.")
    result = [Example(r.row_id, r.question, {"answer": output[r.row_id % 4]}) for r in rows]
    return ExampleSet("asked", tuple(result))


def scored(model: Any, rows: ExampleSet, encoder: Encoder) -> TokenRecords:
    return token_records(score_tokens(model, rows, ("answer",), encoder))


@pytest.fixture(scope="module")
def drafts(knows: Any, questions: ExampleSet, encoder: Encoder) -> DraftTexts:
    return drafts_of(scored(knows, questions, encoder), "answer")


class Read:
    """Counts the tokens that a model reads and the times it is run."""

    def __init__(self, model: Any) -> None:
        self.tokens = self.runs = 0
        self.handle = model.get_input_embeddings().register_forward_hook(self.count)

    def count(self, _module: Any, args: Any, _out: Any) -> None:
        self.tokens += args[0].numel()
        self.runs += 1


@pytest.fixture
def read(knows: Any) -> Iterator[Read]:
    counts = Read(knows)
    yield counts
    counts.handle.remove()


def texts(model: Any, rows: ExampleSet, encoder: Encoder, drafts: DraftTexts | None, **how: Any) -> list[GeneratedText]:
    return generate_texts(model, rows, "answer", encoder, Generation(**{"max_new_tokens": 40, **how}), drafts=drafts)


def test_a_draft_is_what_comes_before_the_first_unsure_token(
    knows: Any, questions: ExampleSet, encoder: Encoder
) -> None:
    answers = scored(knows, questions, encoder)["answer"]
    logp = answers.logp.copy()
    logp[answers.offsets[0] : answers.offsets[1]] = np.log(SURE) + 0.01
    logp[answers.offsets[1] + 2] = np.log(SURE) - 0.01
    logp[answers.offsets[2] + 1] = np.nan
    logp[answers.offsets[3]] = -9.0
    result = drafts_of(TokenRecords({"answer": dataclasses.replace(answers, logp=logp)}), "answer")
    ids = [encoder.row(questions, r, "answer") for r in questions]
    assert result[0] == ids[0].ids[ids[0].n_prompt :]
    assert len(result[1]) <= 2
    assert len(result[2]) <= 1
    assert result[3] == ()
    assert drafts_of(TokenRecords({}), "answer") == {}


def test_texts_are_those_made_from_nothing(
    knows: Any, questions: ExampleSet, encoder: Encoder, drafts: DraftTexts, read: Read
) -> None:
    plain = texts(knows, questions, encoder, None)
    alone, read.tokens = read.tokens, 0
    assert texts(knows, questions, encoder, drafts) == plain
    ends = encoder.tokenizer.eos_token_id
    whole = [d for d in drafts.values() if d and d[-1] == ends]
    part = [d for d in drafts.values() if d and d[-1] != ends]
    assert whole, "the case must hold texts that are known whole,"
    assert part, "others in part,"
    assert not all(drafts.values()), "and others not at all"
    assert read.tokens < 0.9 * alone


def test_a_text_known_whole_needs_no_model(
    knows: Any, questions: ExampleSet, encoder: Encoder, drafts: DraftTexts
) -> None:
    ends = encoder.tokenizer.eos_token_id
    ids = [i for i, d in drafts.items() if d and d[-1] == ends]
    expected = [t for t in texts(knows, questions, encoder, None) if t.row_id in ids]
    broken = copy.copy(knows)
    capabilities(broken)  # observed while it still has a forward
    broken.forward = None
    actual = generate_texts(
        broken, questions, "answer", encoder, Generation(max_new_tokens=40), only=set(ids), drafts=drafts
    )
    assert actual == expected


@pytest.mark.parametrize("how", [{"max_new_tokens": 3}, {"stop": ("sea",)}, {"max_new_tokens": 1}])
def test_limits_and_stop_texts_hold_within_a_draft(
    knows: Any, questions: ExampleSet, encoder: Encoder, drafts: DraftTexts, how: dict[str, Any]
) -> None:
    plain = texts(knows, questions, encoder, None, **how)
    assert texts(knows, questions, encoder, drafts, **how) == plain
    cut = [t.n_new_tokens < len(drafts[t.row_id]) for t in plain]
    assert any(cut), "some drafts are longer than what is asked for"


def test_nothing_is_taken_from_a_draft_of_other_tokens(
    knows: Any, questions: ExampleSet, encoder: Encoder, drafts: DraftTexts, read: Read
) -> None:
    """Another prompt or answer than was scored, a prompt that is scored itself, sampling: all begin from nothing."""
    other = Encoder(Template(user_start_tag="Q: "), encoder.tokenizer)
    changed = ExampleSet("c", tuple(dataclasses.replace(r, answers={"answer": "It is 1991."}) for r in questions))
    whole = Encoder(Template(labels="all"), encoder.tokenizer)
    of_whole = drafts_of(scored(knows, questions, whole), "answer")
    generation = Generation(max_new_tokens=8)
    prompts = make_prompts(changed, encoder, generation, 256, None)
    assert not any(p.draft for p in with_drafts(prompts, drafts, changed, "answer", encoder))
    prompts = make_prompts(questions, whole, generation, 256, None)
    assert not any(p.draft for p in with_drafts(prompts, of_whole, questions, "answer", whole))
    for enc, rows, how in ((other, questions, {}), (encoder, changed, {}), (encoder, questions, {"temperature": 1.0})):
        read.tokens = 0
        plain = texts(knows, rows, enc, None, **how)
        alone, read.tokens = read.tokens, 0
        assert texts(knows, rows, enc, drafts, **how) == plain
        if enc is not other:
            assert read.tokens == alone
