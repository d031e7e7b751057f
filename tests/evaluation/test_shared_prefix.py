"""Answers read from a shared start: the same numbers as each read by itself, for every kind of row and model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.template import Template
from expunge.evaluation import loglikelihood
from expunge.evaluation.loglikelihood import encode_items, score_tokens
from expunge.evaluation.observation import capabilities
from expunge.evaluation.prefix_cache import common_length, shareable, slides
from expunge.evaluation.token_stats import empty_columns
from expunge.models.build import build_llama

WANTED = ("answer", "paraphrase", "perturbed")
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHOTS = tuple((f"Where is number {i}?", f"In town {i}, by the sea.") for i in range(3))


def llama(tokenizer: Any) -> Any:
    model = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 2:
                p.mul_(8)
    return model


def other(name: str) -> Any:
    """Small random models whose positions, windows and caches work in other ways."""
    torch.manual_seed(1)
    shape: dict[str, Any] = {
        "vocab_size": 400, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5, **IDS,
    }  # fmt: skip
    if name == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=256, initializer_range=0.5, **IDS
        )
    elif name == "gemma2":
        config = transformers.Gemma2Config(**shape, head_dim=8, sliding_window=8)
    elif name == "qwen2":
        config = transformers.Qwen2Config(**shape)
    else:
        heads = {"num_heads": 4, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 16}
        config = transformers.Mamba2Config(
            vocab_size=400, hidden_size=16, num_hidden_layers=2, expand=2, initializer_range=0.5, **heads, **IDS
        )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def columns(model: Any, rows: ExampleSet, encoder: Encoder, *, shared: bool, budget: int = 600) -> dict[str, Any]:
    """The statistics as they are computed, before they are narrowed to the table's float32."""
    items = encode_items(rows, WANTED, encoder)
    result = empty_columns(items[-1].slot + items[-1].n_scored, model.dtype)
    with torch.inference_mode():
        n = sum(loglikelihood._passes(model, items, result, 0, budget, shared))
    assert n == len(items)
    return result


def same(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    assert a["is_argmax"].tolist() == b["is_argmax"].tolist()
    for name, factor in (("logp", 1), ("mean", 1), ("var", 10)):
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=tolerance * factor, err_msg=name)


@pytest.fixture(scope="module")
def wide(rows: ExampleSet) -> ExampleSet:
    """Every question has at least two answers; some are one word."""
    more = [Example(r.row_id, r.question, {**r.answers, "perturbed_7": "Ana"}) for r in rows]
    return ExampleSet("wide", tuple(more))


@pytest.mark.parametrize("budget", [1, 200, 100_000])
@pytest.mark.parametrize(
    ("form", "shots", "template"),
    [
        ("qa", (), {}),
        ("qa", SHOTS, {}),
        ("text", SHOTS, {}),
        ("completion", (), {}),
        ("qa", SHOTS, {"labels": "all"}),
        ("qa", (), {"labels": "all"}),
        ("qa", (), {"compat": "openunlearning"}),
    ],
)
def test_float64_to_the_last_digits(
    wide: ExampleSet, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, form: Any, shots: Any, template: Any, budget: int
) -> None:
    model = llama(tokenizer).double()
    encoder = Encoder(Template(**template), tokenizer)
    rows = ExampleSet("r", wide.rows, form=form, shots=shots)
    starts: list[bool] = []
    plain = loglikelihood._score_groups
    monkeypatch.setattr(
        loglikelihood, "_score_groups", lambda m, g, s, *a, **k: (starts.append(s is not None), plain(m, g, s, *a, **k))
    )
    actual = columns(model, rows, encoder, shared=True, budget=budget)
    assert starts, "the shared way must have been taken"
    assert all(starts) == (bool(shots) and template != {"labels": "all"})
    same(actual, columns(model, rows, encoder, shared=False), 1e-12)


@pytest.mark.parametrize(("name", "can"), [("gpt2", True), ("gemma2", True), ("qwen2", True), ("mamba2", False)])
@pytest.mark.parametrize("shots", [(), SHOTS])
def test_other_architectures(wide: ExampleSet, tokenizer: Any, name: str, can: bool, shots: Any) -> None:
    model = other(name)
    assert shareable(model) == can
    if can:
        assert slides(model) == (name == "gemma2")
    rows = ExampleSet("r", wide.rows, shots=shots)
    encoder = Encoder(Template(), tokenizer)
    same(columns(model, rows, encoder, shared=True), columns(model, rows, encoder, shared=False), 2e-5)


def test_a_model_that_reads_caches_wrongly_is_read_the_plain_way(wide: ExampleSet, tokenizer: Any) -> None:
    """As if an architecture ignored positions: what is checked on one row decides for all."""
    model = other("gpt2")
    encoder = Encoder(Template(), tokenizer)
    expected = columns(model, wide, encoder, shared=False)
    forward = model.forward

    def wrong(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] * 0
        return forward(*args, **kwargs)

    model.forward = wrong
    same(columns(model, wide, encoder, shared=True), expected, 1e-12)


def test_one_token_options_cost_one_question(tokenizer: Any, model: Any) -> None:
    """Four letters after a long question: the model reads the question once and nothing else."""
    options = {"answer": "A", **{f"perturbed_{k}": x for k, x in enumerate("BCD")}}
    rows = ExampleSet(
        "mc", tuple(Example(i, f"Number {i}? " * 6 + "Answer:\n", options) for i in range(3)), form="text"
    )
    encoder = Encoder(Template(), tokenizer)
    lengths = [len(encoder.row_prompt(rows, r)) for r in rows]
    capabilities(model)  # observed once, before the count
    read: list[int] = []
    hook = model.model.embed_tokens.register_forward_hook(lambda _m, args, _o: read.append(args[0].numel()))
    actual = score_tokens(model, rows, WANTED, encoder, token_budget=1)
    hook.remove()
    assert sum(read) == sum(lengths)
    plain = score_tokens(model, rows, WANTED, encoder, shared_prefix=False)
    np.testing.assert_allclose(actual["logp"].to_numpy(), plain["logp"].to_numpy(), rtol=1e-5, atol=2e-6)
    assert actual.num_rows == 12


def test_same_bytes_and_any_subset(wide: ExampleSet, tokenizer: Any, model: Any) -> None:
    encoder = Encoder(Template(), tokenizer)
    whole = score_tokens(model, wide, WANTED, encoder)
    assert whole.equals(score_tokens(model, wide, WANTED, encoder), check_metadata=True)
    some = score_tokens(model, wide, WANTED, encoder, only={3, 8})
    rest = whole.filter([r in (3, 8) for r in whole["row_id"].to_pylist()])
    np.testing.assert_allclose(some["logp"].to_numpy(), rest["logp"].to_numpy(), rtol=1e-4, atol=2e-5)
    assert some.select(["row_id", "variant", "position"]).equals(rest.select(["row_id", "variant", "position"]))


def test_logits_of_a_batch_are_bounded(wide: ExampleSet, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(tokenizer)
    encoder = Encoder(Template(), tokenizer)
    expected = columns(model, wide, encoder, shared=True)
    monkeypatch.setattr(loglikelihood, "SCORED_LOGITS", 400 * 60)
    sizes: list[int] = []
    hook = model.lm_head.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[-2]))
    same(columns(model, wide, encoder, shared=True), expected, 2e-5)
    hook.remove()
    longest = max(i.n_scored for i in encode_items(wide, WANTED, encoder))
    assert max(sizes[4:]) <= max(longest, 60)


@pytest.mark.parametrize(
    ("rows", "n"), [([(1, 2, 3), (1, 2, 4), (1, 2)], 2), ([(1,), (2,)], 0), ([(1, 2)], 2), ([(), (1,)], 0)]
)
def test_common_length(rows: list[tuple[int, ...]], n: int) -> None:
    assert common_length(rows) == n
