from __future__ import annotations

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods.weight_edits import make_weight_edit
from expunge.methods.weight_edits.quantize import nearest_levels


def test_a_row_is_rounded_to_127_levels_of_its_largest_entry() -> None:
    w = torch.tensor([[1.27, 0.004, -0.006, 0.635], [12.7, 0.04, 0.06, 0.0]], dtype=torch.float64)
    # the levels lie 0.01 apart in the first row and 0.1 in the second
    want = torch.tensor([[1.27, 0.0, -0.01, 0.64], [12.7, 0.0, 0.1, 0.0]], dtype=torch.float64)
    assert torch.allclose(make_weight_edit("quantize", {"bits": 8})({"w": w}, [])["w"], want, atol=1e-12)


def test_four_bits_go_by_groups_and_the_last_may_be_shorter() -> None:
    w = torch.tensor([[0.7, 0.14, 7.0, -1.4, 0.07]], dtype=torch.float64)
    # groups of two: steps 0.1, 1 and 0.01
    want = torch.tensor([[0.7, 0.1, 7.0, -1.0, 0.07]], dtype=torch.float64)
    assert torch.allclose(nearest_levels(w, 4, 2), want, atol=1e-12)


def test_no_entry_moves_by_more_than_half_a_step_and_once_is_enough() -> None:
    w = torch.randn(5, 130, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = nearest_levels(w, 4, 64)
    for start in (0, 64, 128):
        part, result = w[:, start : start + 64], once[:, start : start + 64]
        half = part.abs().amax(dim=1, keepdim=True) / 14
        assert bool(((part - result).abs() <= half * (1 + 1e-12)).all())
    assert torch.allclose(nearest_levels(once, 4, 64), once, atol=1e-12)


def test_vectors_embeddings_and_zeros_stay() -> None:
    state = {
        "norm.weight": torch.tensor([0.333, 0.777]),
        "model.embed_tokens.weight": torch.tensor([[1.0, 0.3333]]),
        "layer.weight": torch.zeros(2, 3),
    }
    edit = make_weight_edit("quantize", {"bits": 4})(state, [])
    assert all(torch.equal(edit[name], state[name]) for name in state)


def test_wrong_settings_and_further_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="bits: must be 4 or 8"):
        make_weight_edit("quantize", {"bits": 3})
    with pytest.raises(ConfigError, match="reads no other model"):
        make_weight_edit("quantize", {})({"w": torch.ones(1, 1)}, [{"w": torch.ones(1, 1)}])
