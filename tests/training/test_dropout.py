"""Dropout in training: where it acts, that it is seeded, and that it leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoded
from expunge.methods.objective import objective
from expunge.training.config import TrainArgs
from expunge.training.dropout import with_dropout
from expunge.training.loop import train

IDS = torch.tensor([[1, 5, 7, 3, 2, 9]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_only_passes_in_training_mode_drop_values(make_model: Callable[..., Any]) -> None:
    model = make_model()
    plain = logits(model)
    with with_dropout(model, 0.5):
        assert torch.equal(logits(model), plain)  # in evaluation mode
        model.train()
        assert not torch.equal(logits(model), logits(model))
        dropped = model.model.embed_tokens(IDS) == 0
        assert 0.3 < dropped.float().mean() < 0.7
        layer = model.model.layers[0]
        assert layer.self_attn.attention_dropout == 0.5
        assert (layer.mlp(torch.randn(1, 6, 16)) == 0).any()
    assert torch.equal(logits(model), plain) and layer.self_attn.attention_dropout == 0


@pytest.mark.slow
def test_a_run_is_seeded_and_differs_from_one_without(
    make_model: Callable[..., Any], rows: dict[str, list[Encoded]]
) -> None:
    def weights(**keys: Any) -> torch.Tensor:
        model = make_model()
        args = TrainArgs(max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=1, **keys)
        train(model, objective("finetune"), {"retain": rows["retain"]}, args, pad_id=0)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    first = weights(dropout=0.2, learning_rate=1e-2)
    assert torch.equal(first, weights(dropout=0.2, learning_rate=1e-2))
    assert not torch.equal(first, weights(learning_rate=1e-2))


def test_wrong_values() -> None:
    with pytest.raises(ConfigError, match=r"^TrainArgs\.dropout: must be at least 0 and less than 1"):
        TrainArgs(dropout=1.0)
    assert "dropout" not in TrainArgs().identity and TrainArgs(dropout=0.1).identity["dropout"] == 0.1


def test_an_unknown_architecture() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = torch.nn.Linear(2, 2)

    with (
        pytest.raises(ConfigError, match=r"trainer\.args\.dropout: this model has no layers"),
        with_dropout(Odd(), 0.1),
    ):
        pass
