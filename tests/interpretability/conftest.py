"""A tiny random Llama in float64, rows of token ids for it, and small models of other architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from expunge.data.encoder import Encoded
from expunge.interpretability.inputs import AnalysisInputs

torch.set_num_threads(1)  # models this small only lose time to more threads, and much on a busy machine

SHAPE: dict[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(seed: int, **keys: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{"tie_word_embeddings": True, **SHAPE, **keys})
    return transformers.LlamaForCausalLM(config).double().eval()


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """A fresh random Llama of 3 layers in float64; the seed says which."""
    return llama


def _gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=67, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3, bos_token_id=1,
            eos_token_id=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def _gemma2() -> Any:
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(
            **SHAPE, head_dim=8, sliding_window=4, final_logit_softcapping=2.0, query_pre_attn_scalar=8
        )
    )


def _cohere() -> Any:
    return transformers.CohereForCausalLM(transformers.CohereConfig(**SHAPE, logit_scale=0.25))


def _neox() -> Any:
    keys = {k: v for k, v in SHAPE.items() if k not in ("num_key_value_heads", "pad_token_id")}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**keys))


def _opt() -> Any:
    return transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=67, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2, init_std=0.3,
            max_position_embeddings=64, word_embed_proj_dim=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
            dropout=0.0,
        )
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: llama(0),
    "gpt2": _gpt2,
    "gemma2": _gemma2,
    "cohere": _cohere,
    "gpt_neox": _neox,
    "opt": _opt,
}


@pytest.fixture(params=list(FAMILIES))
def any_model(request: pytest.FixtureRequest) -> Any:
    """One architecture after the other, in float64."""
    torch.manual_seed(0)
    return FAMILIES[request.param]().double().eval()


LENGTHS = [(6, 2), (9, 4), (13, 4), (7, 6), (8, 3), (11, 5), (6, 0), (20, 7)]


@pytest.fixture
def make_read() -> Callable[..., AnalysisInputs]:
    """Random rows of mixed lengths: (ids, ids of the prompt) each; EOS is 2."""

    def make(lengths: list[tuple[int, int]] = LENGTHS, seed: int = 1, **keys: Any) -> AnalysisInputs:
        draw = torch.Generator().manual_seed(seed)
        rows = [Encoded((1, *torch.randint(3, 67, (n - 2,), generator=draw).tolist(), 2), p) for n, p in lengths]
        return AnalysisInputs(tuple(rows), 0, **keys)

    return make


@pytest.fixture
def read(make_read: Callable[..., AnalysisInputs]) -> AnalysisInputs:
    """Eight rows."""
    return make_read()


@pytest.fixture
def variants(read: AnalysisInputs) -> list[AnalysisInputs]:
    """The same rows in other batches, under another pad id, and (the last) in another order: row 0 comes last."""
    rows = (*read.rows[1:], read.rows[0])
    return [
        dataclasses.replace(read, token_budget=1),
        dataclasses.replace(read, token_budget=40),
        dataclasses.replace(read, pad_id=5),
        dataclasses.replace(read, rows=rows, row_ids=(*range(1, len(rows)), 0)),
    ]
