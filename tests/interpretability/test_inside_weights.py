from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.interpretability.inputs import AnalysisInputs, mean_loss, swapped
from expunge.interpretability.model_layout import model_layout
from expunge.interpretability.weights import (
    cosines,
    gradient_attribution,
    gradient_cosines,
    loss_gradients,
    weight_drift,
)


def test_a_model_does_not_drift_from_itself(make_model: Any) -> None:
    result = weight_drift(make_model(0), make_model(0))
    assert (result.change, result.relative) == (0.0, 0.0)
    assert all(line.change == 0 for line in result.lines)


def test_a_planted_change_shows_where_it_is(make_model: Any) -> None:
    model, reference = make_model(0), make_model(0)
    name = "model.layers.1.mlp.down_proj.weight"
    weight = dict(model.named_parameters())[name]
    with torch.no_grad():
        weight[0, 0] += 3.0
        weight[1, 1] += 4.0
    norm = float(dict(reference.named_parameters())[name].detach().norm())
    lines = {(ln.layer, ln.module): ln for ln in weight_drift(model, reference).lines}
    here = lines[1, "mlp.down_proj.weight"]
    assert here.change == pytest.approx(5.0, rel=1e-14)
    assert here.norm == pytest.approx(norm, rel=1e-14)
    assert here.relative == pytest.approx(5.0 / norm, rel=1e-14)
    assert lines[1, ""].change == pytest.approx(5.0, rel=1e-14)
    assert lines[0, ""].change == lines[2, ""].change == lines[None, ""].change == 0
    whole = math.sqrt(sum(float(p.detach().square().sum()) for p in reference.parameters()))
    assert weight_drift(model, reference).relative == pytest.approx(5.0 / whole, rel=1e-14)
    with pytest.raises(ConfigError, match=r"^reference: "):
        weight_drift(model, make_model(0, intermediate_size=48))


def test_gradients_equal_a_plain_backward_and_leave_no_trace(any_model: Any, read: AnalysisInputs) -> None:
    any_model.requires_grad_(False)
    loss, grads = loss_gradients(any_model, read)
    assert loss == pytest.approx(mean_loss(any_model, read), rel=1e-9)
    assert all(p.grad is None and not p.requires_grad for p in any_model.parameters())
    any_model.requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(read.rows):
        logps = any_model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        at = list(read.positions(i, "predicts"))
        total = total - logps[at, [row.ids[p + 1] for p in at]].mean() / len(read.rows)
    total.backward()
    atol = 2e-6 if any_model.config.model_type in ("gemma2", "cohere") else 1e-9  # these round to float32 on the way
    for name, p in any_model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(grads[name], p.grad, rtol=0, atol=atol)


def test_batches_change_nothing(make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]) -> None:
    model = make_model(0)
    _, plain = loss_gradients(model, read)
    for other in variants:
        _, grads = loss_gradients(model, other)
        for name, grad in grads.items():
            torch.testing.assert_close(grad, plain[name], rtol=1e-9, atol=1e-12)


def test_attribution_by_a_step_along_the_gradient(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    result = gradient_attribution(model, read)
    _, grads = loss_gradients(model, read)
    assert result.gradient == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in grads.values())), rel=1e-12)
    # central difference with a step that the float32 of Llama's norms does not drown
    name, step = "model.layers.1.mlp.down_proj.weight", 1e-3
    weight = dict(model.named_parameters())[name].detach().clone()
    ends = []
    for sign in (1, -1):
        with swapped(model, {name: weight - sign * step * grads[name]}):
            ends.append(mean_loss(model, read))
    fell = (ends[1] - ends[0]) / (2 * step)
    line = next(ln for ln in result.lines if (ln.layer, ln.module) == (1, "mlp.down_proj.weight"))
    assert line.gradient**2 == pytest.approx(fell, rel=1e-4)
    assert line.attribution == pytest.approx(float((weight * grads[name]).abs().sum()), rel=1e-12)


def test_cosines_of_equal_opposite_and_crossed_gradients(make_model: Any, read: AnalysisInputs, make_read: Any) -> None:
    model = make_model(0)
    same = gradient_cosines(model, read, read)
    assert same.cosine == pytest.approx(1.0, rel=1e-12)
    other = gradient_cosines(model, read, make_read(seed=7))
    assert -1 < other.cosine < 1
    body, (_, grads) = model_layout(model), loss_gradients(model, read)
    opposite = cosines(body, grads, {n: -2 * g for n, g in grads.items()})
    assert all(line.cosine == pytest.approx(-1.0) for line in opposite.lines)
    a, b = (dict.fromkeys(grads, torch.tensor(v, dtype=torch.float64)) for v in ([1.0, 0.0], [3.0, 4.0]))
    assert cosines(body, a, b).cosine == pytest.approx(0.6, rel=1e-14)
    none = cosines(body, a, {n: 0 * g for n, g in a.items()})
    assert math.isnan(none.cosine)
    assert none.reason == "a gradient is zero there"
    with pytest.raises(ConfigError, match=r"^cosines: the two sets"):
        cosines(body, a, {})


def test_models_are_not_touched(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    before = copy.deepcopy(model.state_dict())
    gradient_attribution(model, read)
    weight_drift(model, make_model(1))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
