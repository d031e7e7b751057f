"""A tiny model that knows a few invented facts, in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from library_facts import FACTS, SHORT

import expunge
from expunge.models.build import build_llama, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level tokenizer with a pad token."""
    texts = [text for row in FACTS for text in row.values()]
    return train_tokenizer(texts, 320, max_length=128)


@pytest.fixture(scope="session")
def _full(tokenizer: Any) -> Any:
    """The model that knows all facts; tests take copies."""
    model = build_llama("llama-64k", tokenizer, vocab_size=320, seed=0)
    settings = expunge.FinetuneConfig(**{**SHORT, "learning_rate": 1e-2, "num_train_epochs": 15})
    expunge.UnlearnTrainer(model, settings, retain_dataset=FACTS, processing_class=tokenizer).train()
    return model


@pytest.fixture
def full(_full: Any) -> Any:
    """A copy of the model that knows all facts."""
    return copy.deepcopy(_full)


@pytest.fixture
def weights() -> Callable[[Any], torch.Tensor]:
    """A model's weights as one vector."""
    return lambda model: torch.cat([p.detach().double().flatten() for p in model.parameters()])
