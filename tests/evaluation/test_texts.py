from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.records import GeneratedText
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer


@pytest.fixture(scope="module")
def encoder(tokenizer: Any) -> Encoder:
    return Encoder(Template(), tokenizer)


def family(name: str, base: Any) -> Any:
    """The random Llama, or small random models whose caches and positions work in other ways."""
    if name == "llama":
        return base
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(1)
    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=256, initializer_range=0.5, **ids
        )
        return transformers.GPT2LMHeadModel(config).eval()
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Gemma2Config(
        vocab_size=400, num_key_value_heads=1, head_dim=8, sliding_window=8, initializer_range=0.5, **shape, **ids
    )
    return transformers.Gemma2ForCausalLM(config).eval()


def raise_eos(model: Any, by: float) -> Any:
    """Hook that makes the end likelier, so that rows end at different steps."""

    def lift(_module: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[..., 2] += by
        return logits

    return model.get_output_embeddings().register_forward_hook(lift)


def by_transformers(model: Any, encoder: Encoder, question: str, limit: int) -> list[int]:
    ids = torch.tensor([encoder.prompt(question)])
    with torch.no_grad():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, pad_token_id=0
        )
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(("name", "lift"), [("llama", 2.0), ("gpt2", 2.0), ("gemma2", 3.0)])
def test_equals_transformers_generate(model: Any, rows: ExampleSet, encoder: Encoder, name: str, lift: float) -> None:
    choice = family(name, model)
    limit = 24
    handle = raise_eos(choice, lift)
    try:
        expected = [by_transformers(choice, encoder, r.question, limit) for r in rows]
        actual = {b: generate_texts(choice, rows, "answer", encoder, Generation(max_new_tokens=limit), token_budget=b)
               for b in (1, 400, 100_000)}  # fmt: skip
    finally:
        handle.remove()
    ended = [2 in ids for ids in expected]
    assert any(ended) and not all(ended), "the case must hold rows that end and rows that do not"
    assert len({len(ids) for ids in expected}) > 3
    for texts in actual.values():
        assert [t.row_id for t in texts] == list(range(len(rows)))
        for text, row, ids in zip(texts, rows, expected, strict=True):
            assert text.generation == encoder.tokenizer.decode(ids, skip_special_tokens=True).strip(), row.row_id
            assert (text.n_new_tokens, text.stopped) == (len(ids), ids[-1] == 2)
            assert (text.prompt, text.reference, text.sample) == (row.question, row.answers["answer"], 0)


def test_limit_and_determinism(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    def run(limit: int) -> list[GeneratedText]:
        return generate_texts(model, rows, "paraphrase", encoder, Generation(max_new_tokens=limit))

    one = run(1)
    assert all(t.n_new_tokens == 1 for t in one)
    assert run(5) == run(5)
    assert all(t.reference == r.answers["paraphrase"] for t, r in zip(one, rows, strict=True))


def test_model_that_ends_at_once_says_nothing(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    handle = raise_eos(model, 1e6)
    texts = generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=9))
    handle.remove()
    assert {(t.generation, t.n_new_tokens, t.stopped) for t in texts} == {("", 1, True)}


def test_other_ends_of_the_model_s_own_end_it_too(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    """Chat models list several ends (end of turn, end of text) in their generation_config."""
    plain = generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=6))
    first = encoder.tokenizer(plain[0].generation, add_special_tokens=False)["input_ids"]
    assert first
    several = model.generation_config.eos_token_id
    ids = by_transformers(model, encoder, rows[0].question, 6)
    model.generation_config.eos_token_id = [2, ids[1]]
    try:
        expected = [by_transformers(model, encoder, r.question, 6) for r in rows]
        actual = generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=6))
    finally:
        model.generation_config.eos_token_id = several
    assert len(expected[0]) <= 2
    assert [t.n_new_tokens for t in actual] == [len(ids) for ids in expected]
    assert actual[0].stopped


def test_progress_counts_rows(model: Any, rows: ExampleSet, encoder: Encoder) -> None:
    calls: list[int] = []
    generate_texts(
        model, rows, "answer", encoder, Generation(max_new_tokens=2), token_budget=100, progress=calls.append
    )
    assert len(calls) > 1
    assert sum(calls) == len(rows)


def test_wrong_length_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^generation\.max_new_tokens: must be at least 1, got 0$"):
        decode(Generation, {"max_new_tokens": 0}, where="generation")


@pytest.mark.shared
@pytest.mark.parametrize("which", ["full", "retain90"])
def test_first_golden_generations(shared: Path, which: str) -> None:
    golden = shared / "golden" / "visible"
    folder = str(golden / "tiny_llama" / which)
    lines = [json.loads(x) for x in (golden / "tofu_eval" / which / "generations.jsonl").read_text().splitlines()]
    sets = load_tofu(str(shared / "data" / "tofu"), forget_split="forget10", retain_split="retain90")
    rows = ExampleSet("first", tuple(Example(r.row_id, r.question, r.answers) for r in sets["forget_eval"].rows[:50]))
    encoder = Encoder(Template(compat="openunlearning"), load_tokenizer(folder, TokenizerArgs()))
    model = load_model(folder, ModelArgs(), device=torch.device("cpu"))
    texts = generate_texts(model, rows, "answer", encoder, Generation(max_new_tokens=200))
    compared = 0
    for text, line in zip(texts, lines, strict=True):
        assert text.row_id == line["index"]
        if line["min_top2_logit_margin"] <= 1e-3:
            continue
        compared += 1
        assert text.generation == line["generation"], line["index"]
        assert (text.n_new_tokens, text.stopped) == (line["n_new_tokens"], line["stopped_at_eos"]), line["index"]
    assert compared >= 45
