from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.interpretability.attention import _jsd, compare_attention
from expunge.interpretability.inputs import AnalysisInputs


def test_divergence_by_hand() -> None:
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    q = torch.tensor([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5]])
    middle = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert _jsd(p, q).tolist() == pytest.approx([1.0, 0.0, middle], abs=1e-12)


def test_a_model_looks_where_it_looks(any_model: Any, read: AnalysisInputs) -> None:
    before = any_model.config._attn_implementation
    result = compare_attention(any_model, any_model, read)
    assert len(result.lines) == any_model.config.num_hidden_layers * any_model.config.num_attention_heads
    assert [line.divergence for line in result.lines] == pytest.approx([0.0] * len(result.lines), abs=1e-7)
    assert any_model.config._attn_implementation == before


def test_a_head_that_was_changed_stands_out(
    make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]
) -> None:
    model, other = make_model(0), make_model(0)
    with torch.no_grad():
        other.model.layers[1].self_attn.q_proj.weight[8:].mul_(-3)  # head 1 of layer 1
    result = compare_attention(model, other, read)
    here = {(line.layer, line.head): line.divergence for line in result.lines}
    assert here[0, 0] == here[0, 1] == pytest.approx(0, abs=1e-9)
    assert here[1, 0] == pytest.approx(0, abs=1e-9)
    assert here[1, 1] > 0.01
    assert result.layers[1] == pytest.approx((here[1, 0] + here[1, 1]) / 2)
    back = compare_attention(other, model, read)
    assert [ln.divergence for ln in back.lines] == pytest.approx([ln.divergence for ln in result.lines], abs=1e-12)
    for v in variants:
        again = compare_attention(model, other, v, token_budget=v.token_budget)
        assert [a.divergence for a in again.lines] == pytest.approx([a.divergence for a in result.lines], abs=1e-7)


def test_maps_equal_softmax_by_hand(make_model: Any, make_read: Any) -> None:
    model, other = make_model(0), make_model(1)
    read = make_read([(6, 3)])
    p, q = (_first_map(m, read.rows[0].ids)[:, list(read.positions(0, "predicts"))] for m in (model, other))
    m = (p + q) / 2
    jsd = (torch.special.entr(m).sum(-1) - (torch.special.entr(p).sum(-1) + torch.special.entr(q).sum(-1)) / 2).mean(1)
    result = [ln.divergence for ln in compare_attention(model, other, read).lines if ln.layer == 0]
    assert result == pytest.approx((jsd / math.log(2)).tolist(), rel=1e-4)


def _first_map(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    """The first layer's causal softmax, heads x T x T, from its weights and rotary positions."""
    layer, t = model.model.layers[0], len(ids)
    with torch.no_grad():
        x = layer.input_layernorm(model.model.embed_tokens(torch.tensor([ids])))
        heads = [w(x).view(t, 2, 8).transpose(0, 1) for w in (layer.self_attn.q_proj, layer.self_attn.k_proj)]
        angle = torch.arange(t)[:, None] / 10000.0 ** (torch.arange(0, 8, 2) / 8)
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
        q, k = (h * cos + torch.cat([-h[..., 4:], h[..., :4]], -1) * sin for h in heads)
        scores = (q @ k.transpose(1, 2)) / math.sqrt(8)
        return scores.masked_fill(torch.ones(t, t).triu(1).bool(), -math.inf).softmax(-1)


def test_models_of_other_shapes_are_refused(make_model: Any, read: AnalysisInputs) -> None:
    with pytest.raises(ConfigError, match=r"^compare_attention: the two models differ in layers or heads$"):
        compare_attention(make_model(0), make_model(0, num_hidden_layers=2), read)
