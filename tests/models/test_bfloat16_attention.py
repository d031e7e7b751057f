"""Attention in float32 within models in bfloat16, against transformers' own attention in float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from expunge.models.bfloat16_attention import FUSED, compute_attention_in_float32


@pytest.fixture
def plain() -> Iterator[Any]:
    """The attention of transformers, which comes back after the test."""
    current = ALL_ATTENTION_FUNCTIONS[FUSED]
    original = getattr(current, "__wrapped__", current)
    AttentionInterface.register(FUSED, original)
    yield original
    AttentionInterface.register(FUSED, current)


class Layer(torch.nn.Module):
    num_key_value_groups = 2
    is_causal = True


def tensors(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, n, 9, 16, generator=draw).to(dtype) for n in (4, 2, 2))  # type: ignore[return-value]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_equals_attention_in_float32_rounded_once(plain: Any, masked: bool, autocast: bool) -> None:
    query, key, value = tensors(torch.bfloat16)
    mask = torch.zeros(2, 1, 9, 9, dtype=torch.bfloat16) if masked else None
    if mask is not None:
        mask[:, :, :, :3] = -torch.inf
    wide = None if mask is None else mask.float()
    layer = Layer()
    expected, _ = plain(layer, query.float(), key.float(), value.float(), wide, scaling=0.25)
    compute_attention_in_float32(layer)
    if autocast:  # rotary embeddings leave queries and keys in float32
        query, key = query.float(), key.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        actual, weights = ALL_ATTENTION_FUNCTIONS[FUSED](layer, query, key, value, mask, scaling=0.25)
    assert weights is None and actual.dtype == torch.bfloat16
    assert torch.equal(actual, expected.to(torch.bfloat16))


def test_float32_does_not_change_and_one_registration_stays(plain: Any) -> None:
    query, key, value = tensors(torch.float32)
    layer = Layer()
    expected, _ = plain(layer, query, key, value, None, scaling=0.25)
    compute_attention_in_float32(layer)
    first = ALL_ATTENTION_FUNCTIONS[FUSED]
    compute_attention_in_float32(layer)
    assert ALL_ATTENTION_FUNCTIONS[FUSED] is first
    assert torch.equal(first(layer, query, key, value, None, scaling=0.25)[0], expected)


def test_a_model_in_bfloat16_is_nearer_to_float32(plain: Any) -> None:
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 50, (4, 12))
    with torch.no_grad():
        exact = model(ids).logits
        half = model.to(torch.bfloat16)
        before = (half(ids).logits.float() - exact).abs().mean()
        compute_attention_in_float32(half)
        after = (half(ids).logits.float() - exact).abs().mean()
        other = (copy.deepcopy(half)(ids).logits.float() - exact).abs().mean()
    assert half.config._attn_implementation == FUSED
    assert 0 < after < before * 1.1
    assert not torch.equal(after, before)
    assert torch.equal(other, before)  # another model computes as before
