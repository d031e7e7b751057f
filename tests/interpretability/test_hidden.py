from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import AnalysisInputs


def alone(model: Any, read: AnalysisInputs, at: Any, last: int = 10) -> torch.Tensor:
    """Outputs of the blocks by the model's own hidden_states, each row run by itself; all but the last layer."""
    rows = []
    for i, row in enumerate(read.rows):
        with torch.no_grad():
            states = model(input_ids=torch.tensor([row.ids]), output_hidden_states=True).hidden_states[1:-1]
        rows.append(torch.stack([s[0, list(read.positions(i, at, last))] for s in states]))
    return torch.cat([r.mean(1, keepdim=True) for r in rows] if at == "last" else rows, dim=1)


@pytest.mark.parametrize("at", ["own", "predicts", "last"])
def test_equals_the_model_s_own_states_row_by_row(any_model: Any, read: AnalysisInputs, at: Any) -> None:
    result = hidden_states(any_model, read, at=at, last=4)
    assert result.layers == tuple(range(any_model.config.num_hidden_layers))
    atol = 2e-6 if any_model.config.model_type == "gemma2" else 1e-9  # Gemma 2 attends in float32 whatever its dtype
    torch.testing.assert_close(result.values_LND[:-1], alone(any_model, read, at, 4), rtol=0, atol=atol)
    expected = range(8) if at == "last" else [i for i in range(8) for _ in read.positions(i, at)]
    assert result.row_N.tolist() == list(expected)


@pytest.mark.parametrize("at", ["own", "last"])
def test_batches_and_padding_change_nothing(
    make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs], at: Any
) -> None:
    model = make_model(0)
    plain = hidden_states(model, read, at=at)
    for other in variants[:3]:
        torch.testing.assert_close(hidden_states(model, other, at=at).values_LND, plain.values_LND, rtol=0, atol=1e-11)
    moved = hidden_states(model, variants[3], at="last").values_LND
    here = hidden_states(model, read, at="last").values_LND
    torch.testing.assert_close(moved.roll(1, dims=1), here, rtol=0, atol=1e-11)


def test_only_the_layers_asked_for_run(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    every = hidden_states(model, read)
    ran = []
    for k, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda *_a, k=k: ran.append(k))
    some = hidden_states(model, dataclasses.replace(read, token_budget=10_000), layers=[1])
    assert set(ran) == {0, 1} or set(ran) == {0}
    assert torch.equal(some.values_LND[0], every.values_LND[1])
    with pytest.raises(ConfigError, match=r"^layers: the model has layers 0 to 2, got 3$"):
        hidden_states(model, read, layers=[3])


def test_low_precision_comes_out_wider(make_model: Any, read: AnalysisInputs) -> None:
    assert hidden_states(make_model(0).bfloat16(), read).values_LND.dtype == torch.float32
    assert hidden_states(make_model(0), read).values_LND.dtype == torch.float64
