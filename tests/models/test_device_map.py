"""A model whose places `device_map` has chosen stays there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from expunge.data.encoder import Encoded
from expunge.methods import objective
from expunge.models.config import ModelArgs
from expunge.models.load import load_model
from expunge.training.config import TrainArgs
from expunge.training.loop import train

ROWS = [Encoded((1, 5, 9, 11, 2), 2), Encoded((1, 7, 8, 2), 2)]


def trained(folder: Path, device: str, **keys: Any) -> torch.Tensor:
    model = load_model(str(folder), ModelArgs(**keys), device=torch.device(device))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    args = TrainArgs(num_train_epochs=1, gradient_accumulation_steps=1, learning_rate=1e-2)
    train(model, objective("GradDiff"), {"forget": ROWS, "retain": ROWS[::-1]}, args, pad_id=0)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_mapped_model_is_not_moved_and_trains_alike(tmp_path: Path) -> None:
    """It would be lost on `meta`, where one without a map is sent."""
    torch.manual_seed(0)
    shape = {"vocab_size": 31, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**shape, num_attention_heads=2, pad_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert torch.equal(trained(tmp_path, "meta", device_map="cpu"), trained(tmp_path, "cpu"))
