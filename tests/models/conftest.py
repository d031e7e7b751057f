"""Tiny random models of several architectures, a tokenizer, and a folder for the code of models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from expunge.models.build import train_tokenizer

torch.set_num_threads(1)  # models this small only lose time to more threads, and much on a busy machine

SMALL = {
    "vocab_size": 67,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,  # large, so that logits differ and a cap on them is felt
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=67,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.GPT2LMHeadModel(config)


def _gemma2() -> Any:
    config = transformers.Gemma2Config(
        **SMALL, head_dim=8, sliding_window=4, final_logit_softcapping=2.0, query_pre_attn_scalar=8
    )
    return transformers.Gemma2ForCausalLM(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
    "gpt2": _gpt2,
    "gemma2": _gemma2,
    "cohere": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SMALL, logit_scale=0.25)),
    "granite": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**SMALL, logits_scaling=3.0)),
}


@pytest.fixture(params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> Any:
    """A small random model in evaluation mode, one architecture after the other."""
    torch.manual_seed(0)
    return FAMILIES[request.param]().eval()


TEXTS = [f"Who wrote book {i}? Author number {i}, of Paris and Lisboa, wrote it in {1900 + i}." for i in range(60)]


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE of 400 tokens at most."""
    return train_tokenizer(TEXTS, 400, max_length=128)


def _forget_imports() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let transformers copy the code of models to a folder of this test.

    The package that it makes there is imported once for a process, with the place of its first folder. So it is
    removed from the imported modules before and after the test.
    """
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    _forget_imports()
    yield
    _forget_imports()
