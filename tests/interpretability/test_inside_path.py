from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.interpretability.inputs import AnalysisInputs, mean_loss
from expunge.interpretability.mode_connectivity import loss_path


def test_no_barrier_between_a_model_and_itself(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    result = loss_path(model, model, {"forget": read})
    assert result.barrier["forget"] == pytest.approx(0, abs=1e-7)
    assert len({round(line.loss, 6) for line in result.lines}) == 1


def test_ends_and_middle_by_hand(make_model: Any, read: AnalysisInputs, make_read: Any) -> None:
    start, end, other = make_model(0), make_model(1), make_read(seed=4)
    before = [p.detach().clone() for p in start.parameters()]
    result = loss_path(start, end, {"forget": read, "retain": other}, points=3)
    middle = make_model(0)
    with torch.no_grad():
        for p, a, b in zip(middle.parameters(), start.parameters(), end.parameters(), strict=True):
            p.copy_((a + b) / 2)
    for name, rows in {"forget": read, "retain": other}.items():
        losses = [mean_loss(m, rows) for m in (start, middle, end)]
        lines = [line for line in result.lines if line.rows == name]
        assert [line.a for line in lines] == [0.0, 0.5, 1.0]
        assert [line.loss for line in lines] == pytest.approx(losses, rel=1e-6)
        assert result.barrier[name] == pytest.approx(max(0.0, losses[1] - (losses[0] + losses[2]) / 2), abs=1e-6)
    assert all(torch.equal(p, b) for p, b in zip(start.parameters(), before, strict=True))


def test_a_planted_barrier_is_found(make_model: Any, read: AnalysisInputs) -> None:
    # both ends say the same: the sign of two neurons' ins and outs is turned in one of them, which half way is nothing
    start, end = make_model(0), make_model(0)
    with torch.no_grad():
        for layer in end.model.layers:
            layer.self_attn.v_proj.weight.neg_()
            layer.self_attn.o_proj.weight.neg_()
    result = loss_path(start, end, {"forget": read}, points=5)
    losses = [line.loss for line in result.lines]
    assert losses[0] == pytest.approx(losses[-1], rel=1e-6)
    assert result.lines[2].above == pytest.approx(losses[2] - losses[0], rel=1e-5)
    assert abs(result.lines[2].above) > 1e-2


def test_a_loss_that_is_not_finite_has_no_barrier(make_model: Any, read: AnalysisInputs) -> None:
    end = make_model(1)
    with torch.no_grad():
        end.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    result = loss_path(make_model(0), end, {"forget": read}, points=3)
    assert math.isnan(result.barrier["forget"])
    assert result.reason == "a loss along the line is not finite: forget"


def test_wrong_input_is_one_line(make_model: Any, read: AnalysisInputs) -> None:
    with pytest.raises(ConfigError, match=r"^points must be at least 3, got 2$"):
        loss_path(make_model(0), make_model(1), {"a": read}, points=2)
    with pytest.raises(ConfigError, match=r"^end: "):
        loss_path(make_model(0), make_model(0, num_hidden_layers=2), {"a": read})
