"""The template's end token stops a generation, is marked as the end, and is not part of the text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import LlamaConfig, LlamaForCausalLM

from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import end_ids, generate_texts, generated_text
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
    assert end_ids(model, encoder) == {encoder.eos, stop, 7, 8}
    assert end_ids(SimpleNamespace(), encoder) == {encoder.eos, stop}


def test_it_is_no_part_of_a_text(encoder: Encoder) -> None:
    row = encoder.encode("Who?", "Ana Silva")
    answer = list(row.ids[row.n_prompt :])
    assert generated_text(PromptBatch(answer, True), encoder, Generation(), encoder.end_ids) == "Ana Silva"
    assert _scored_text(row, encoder).strip() == b"Ana Silva"


def test_an_end_of_the_models_list_alone_is_no_part_of_a_text(encoder: Encoder) -> None:
    """A model may list an end that the template does not write and the tokenizer does not name as special."""
    config = LlamaConfig(
        vocab_size=len(encoder.tokenizer), hidden_size=16, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, initializer_range=0.4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    prompt = torch.tensor([encoder.prompt("Who?")])
    how = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
    plain = model.generate(prompt, eos_token_id=encoder.eos, **how)[0, prompt.shape[1] :].tolist()
    end = plain[3]
    model.generation_config.eos_token_id = [encoder.eos, end]
    rows = ExampleSet("x", (Example(0, "Who?", {"answer": "Ana"}),))
    (text,) = generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=8))
    first = plain.index(end)
    assert text.stopped and text.n_new_tokens == first + 1
    assert text.generation == encoder.tokenizer.decode(plain[:first]).strip()
