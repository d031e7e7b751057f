"""A tiny random Llama, and rows of token ids for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from expunge.data.encoder import Encoded
from expunge.training import trainer

torch.set_num_threads(1)  # models this small only lose time to more threads, and much on a busy machine

VOCABULARY = 67


def rows_of(lengths: list[tuple[int, int]], seed: int) -> list[Encoded]:
    """Random rows, each of (ids, ids of the prompt); EOS is 2."""
    generator = torch.Generator().manual_seed(seed)
    return [
        Encoded((1, *torch.randint(3, VOCABULARY, (n - 2,), generator=generator).tolist(), 2), p) for n, p in lengths
    ]


@pytest.fixture
def bfloat16_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in bfloat16 on a CPU without the instructions as well; the numbers are the same, only slow."""
    monkeypatch.setattr(trainer, "cpu_has_bfloat16", lambda: True)


@pytest.fixture
def make_rows() -> Callable[[list[tuple[int, int]], int], list[Encoded]]:
    """The builder of random rows."""
    return rows_of


@pytest.fixture
def rows() -> dict[str, list[Encoded]]:
    """7 forget and 11 retain rows of mixed lengths."""
    forget = [(6, 2), (9, 4), (13, 4), (7, 6), (8, 3), (11, 5), (6, 3)]
    retain = [(8, 3), (5, 2), (12, 6), (9, 3), (7, 4), (15, 8), (6, 2), (10, 5), (8, 4), (9, 2), (14, 7)]
    return {"forget": rows_of(forget, 1), "retain": rows_of(retain, 2)}


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """A fresh copy of one random model, in evaluation mode."""

    def make(**keys: Any) -> Any:
        shape = {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,
            "tie_word_embeddings": True,
        }
        config = transformers.LlamaConfig(pad_token_id=0, bos_token_id=1, eos_token_id=2, **{**shape, **keys})
        torch.manual_seed(0)
        return transformers.LlamaForCausalLM(config).eval()

    return make
