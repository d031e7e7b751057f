"""With `batched: false` a model in bfloat16 is read as transformers' own functions read one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import score_tokens
from expunge.evaluation.passport import check_model
from expunge.models.build import build_llama
from expunge.models.config import ModelArgs
from expunge.models.load import load_model, save_model

ROWS = ExampleSet(
    "rows",
    tuple(Example(i, f"Where was number {i} born?", {"answer": f"In the town of {'x' * i}."}) for i in range(6)),
)
NEW = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model whose choices between tokens are close."""
    model = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.1)
    place = tmp_path_factory.mktemp("one_row") / "m"
    save_model(model, tokenizer, place)
    return place


def loaded(folder: Path, tokenizer: Any, *, batched: bool) -> Any:
    args = ModelArgs(dtype="bfloat16", batched=batched)
    model = load_model(str(folder), args, device=torch.device("cpu"))
    check_model(model, tokenizer, str(folder), args)
    return model


@torch.inference_mode()
def test_texts_and_losses_are_those_of_transformers(folder: Path, tokenizer: Any) -> None:
    encoder = Encoder(Template(), tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    texts, losses = [], []
    for row in ROWS:
        prompt = torch.tensor([encoder.row_prompt(ROWS, row)])
        out = plain.generate(prompt, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        texts.append(tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True).strip())
        encoded = encoder.row(ROWS, row, "answer")
        labels = torch.tensor([[-100] * encoded.n_prompt + list(encoded.ids[encoded.n_prompt :])])
        losses.append(float(plain(torch.tensor([encoded.ids]), labels=labels).loss) * encoded.n_answer)

    def measured(batched: bool) -> tuple[list[str], float]:
        model = loaded(folder, tokenizer, batched=batched)
        generated = generate_texts(model, ROWS, "answer", encoder, Generation(max_new_tokens=NEW))
        table = score_tokens(model, ROWS, ("answer",), encoder)
        return [text.generation for text in generated], -float(table["logp"].to_numpy().sum())

    one_row, batched = measured(batched=False), measured(batched=True)
    assert one_row == (texts, pytest.approx(sum(losses), rel=1e-6))
    assert batched[1] != pytest.approx(sum(losses), rel=1e-6)  # the setting changes something
