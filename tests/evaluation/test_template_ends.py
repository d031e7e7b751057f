"""The template's end token stops a generation, is marked as the end, and is not part of the text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import AddedToken

from expunge.data.encoder import Encoder
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import _ends, generated_text
from expunge.evaluation.loglikelihood import _scored_text
from expunge.evaluation.prompts import PromptBatch
from expunge.models.build import train_tokenizer

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|stop|>\n{% endfor %}"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    tokenizer = train_tokenizer(["user: Who? assistant: Ana Silva"], 300, max_length=256)
    tokenizer.add_tokens([AddedToken("<|stop|>", special=False)])  # not named as special
    tokenizer.chat_template = CHAT + "{% if add_generation_prompt %}assistant: {% endif %}"
    return Encoder(Template(), tokenizer)


def test_it_stops_generation_with_the_models_own_list(encoder: Encoder) -> None:
    stop = encoder.tokenizer.convert_tokens_to_ids("<|stop|>")
    model: Any = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[7, 8]))
    assert _ends(model, encoder) == {encoder.eos, stop, 7, 8}
    assert _ends(SimpleNamespace(), encoder) == {encoder.eos, stop}


def test_it_is_no_part_of_a_text(encoder: Encoder) -> None:
    row = encoder.encode("Who?", "Ana Silva")
    answer = list(row.ids[row.n_prompt :])
    assert generated_text(PromptBatch(answer, True), encoder, Generation()) == "Ana Silva"
    assert _scored_text(row, encoder).strip() == b"Ana Silva"
