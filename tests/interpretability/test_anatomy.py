from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from expunge.core.errors import JobError
from expunge.interpretability.model_layout import LayerPart, mlp_outputs, model_layout


def test_blocks_norm_and_neurons_of_several_architectures(any_model: Any) -> None:
    body = model_layout(any_model)
    depth = any_model.config.num_hidden_layers
    assert len(body.blocks) == depth
    assert "norm" in type(body.norm).__name__.lower()
    result = mlp_outputs(any_model)
    weights = dict(any_model.named_parameters())
    assert [body.part(name).layer for name in result] == list(range(depth))
    for name, axis in result.items():
        inner = 64 if any_model.config.model_type in ("gpt2",) else 32
        assert weights[name].shape[axis] == inner
        assert weights[name].shape[1 - axis] == 16


def test_parts(make_model: Any) -> None:
    body = model_layout(make_model(0))
    assert body.part("model.layers.2.mlp.up_proj.weight") == LayerPart(2, "mlp.up_proj.weight")
    assert body.part("model.embed_tokens.weight") == LayerPart(None, "model.embed_tokens.weight")
    assert body.part("model.norm.weight") == LayerPart(None, "model.norm.weight")


def test_a_model_without_blocks_or_neurons_is_refused(make_model: Any) -> None:
    model = make_model(0)
    model.model.layers[1].mlp = nn.Identity()
    with pytest.raises(JobError, match=r"^block 1 of LlamaForCausalLM has no MLP with separate neurons$"):
        mlp_outputs(model)
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(JobError, match=r"^LlamaForCausalLM has no list of 3 blocks"):
        model_layout(model)


def test_the_outermost_list_of_that_length_is_taken(make_model: Any) -> None:
    model = make_model(0)
    model.extra = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    assert model_layout(model).prefix == "model.layers"
    assert all(isinstance(p, torch.nn.Parameter) for p in model.parameters())
