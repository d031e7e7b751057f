from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.interpretability.inputs import AnalysisInputs, mean_loss, swapped
from expunge.interpretability.prune import edited, prune_curve, saliency

DOWN = "model.layers.1.mlp.down_proj.weight"


def silenced(model: Any, read: AnalysisInputs, neuron: int = 5) -> Any:
    """Plant a neuron that holds the rows' answers down: always on, it writes the direction that raises their loss."""
    mlp = model.model.layers[1].mlp
    survivors: list[torch.Tensor] = []
    hook = mlp.register_forward_hook(lambda _m, _a, out: survivors.append(out) or out.retain_grad())
    direction = torch.zeros(16, dtype=torch.float64)
    for i, row in enumerate(read.rows):
        logps = model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
        at = list(read.positions(i, "predicts"))
        (-logps[at, [row.ids[p + 1] for p in at]].mean()).backward()
        direction += survivors[-1].grad[0, at].mean(0)
    hook.remove()
    model.zero_grad()

    def always_on(_module: Any, args: Any) -> Any:
        wide = args[0].clone()
        wide[..., neuron] = 1.0
        return (wide,)

    mlp.down_proj.register_forward_pre_hook(always_on)
    with torch.no_grad():
        mlp.down_proj.weight[:, neuron] = 2.0 * direction / direction.norm()
    return model


def test_pruning_the_planted_neuron_removes_what_it_does(make_model: Any, read: AnalysisInputs) -> None:
    model = silenced(make_model(0), read)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    held_down = mean_loss(model, read)
    by = saliency(model, read, unit="neuron")
    assert int(by.scores[DOWN].argmax()) == 5
    changed = edited(model, by, 1)
    assert list(changed) == [DOWN]
    assert not changed[DOWN][:, 5].any()
    others = [k for k in range(32) if k != 5]
    assert torch.equal(changed[DOWN][:, others], before[DOWN][:, others])
    with swapped(model, changed):
        freed = mean_loss(model, read)
    assert freed < held_down - 0.3
    curve = prune_curve(model, by, [1], {"forget": read})
    assert curve.losses("forget") == pytest.approx([held_down, freed], rel=1e-12)
    assert [(line.count, line.moved) for line in curve.lines] == [(0, 0), (1, 1)]
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())


def test_scores_are_first_order_changes(make_model: Any, read: AnalysisInputs) -> None:
    model, reference = make_model(0), make_model(1)
    content, theirs = dict(model.named_parameters()), dict(reference.named_parameters())
    by = saliency(model, read, reference=reference)
    assert by.target is not None
    step, expected = 1e-3, sum(float(s.sum()) for s in by.scores.values())
    ends = []
    for sign in (1, -1):
        with swapped(model, {n: torch.lerp(content[n].detach(), theirs[n].detach(), sign * step) for n in by.scores}):
            ends.append(mean_loss(model, read))
    assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(expected, rel=1e-3)


def test_a_neuron_s_score_is_the_sum_of_its_weights(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    weights, neurons = saliency(model, read), saliency(model, read, unit="neuron")
    torch.testing.assert_close(neurons.scores[DOWN], weights.scores[DOWN].sum(0), rtol=1e-12, atol=0)
    assert (neurons.n_units, set(neurons.scores)) == (3 * 32, {n for n in weights.scores if "down_proj" in n})
    assert not any("embed" in n or "norm" in n for n in weights.scores)


def test_gpt2_s_neurons_lie_along_the_other_axis(any_model: Any, read: AnalysisInputs) -> None:
    by = saliency(any_model, read, unit="neuron")
    changed = edited(any_model, by, 1, rank="matters")
    (name,) = changed
    removals = dict(any_model.named_parameters())[name].detach() != changed[name]
    assert int(removals.any(1 - by.axes[name]).sum()) == 1
    assert int(removals.sum()) <= 16


def test_moving_everything_back_gives_the_reference(make_model: Any, read: AnalysisInputs) -> None:
    model, reference = make_model(0), make_model(0)
    with torch.no_grad():
        for p in model.model.layers.parameters():
            if p.dim() == 2:
                p.add_(0.05)
    by = saliency(model, read, reference=reference)
    with swapped(model, edited(model, by, by.n_units, rank="matters")):
        assert mean_loss(model, read) == pytest.approx(mean_loss(reference, read), rel=1e-9)


def test_units_that_raise_the_loss_are_left_alone(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    by = saliency(model, read, unit="neuron", layers=[1])
    assert list(by.scores) == [DOWN]
    changed = edited(model, by, 32)[DOWN]
    rest = by.scores[DOWN] <= 0
    assert torch.equal(changed[:, rest], dict(model.named_parameters())[DOWN].detach()[:, rest])
    assert not changed[:, ~rest].any()


def test_per_layer_takes_as_many_from_each(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    by = saliency(model, read, unit="neuron")
    curve = prune_curve(model, by, [2], {"forget": read}, rank="matters", per_layer=True)
    assert [line.moved for line in curve.lines] == [0, 6]
    assert len(edited(model, by, 2, rank="matters", per_layer=True)) == 3


def test_batches_change_nothing(make_model: Any, read: AnalysisInputs, variants: list[AnalysisInputs]) -> None:
    plain = saliency(make_model(0), read, unit="neuron").scores
    for other in variants:
        for name, score in saliency(make_model(0), other, unit="neuron").scores.items():
            torch.testing.assert_close(score, plain[name], rtol=1e-8, atol=1e-12)


def test_ties_go_to_the_earlier_unit(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    by = saliency(model, read, unit="neuron")
    even = dataclasses.replace(by, scores={n: torch.ones_like(s) for n, s in by.scores.items()})
    (name,) = edited(model, even, 3)
    assert name == "model.layers.0.mlp.down_proj.weight"
    assert (edited(model, even, 3)[name] == 0).all(0).tolist() == [True] * 3 + [False] * 29


def test_wrong_input_is_one_line(make_model: Any, read: AnalysisInputs) -> None:
    model = make_model(0)
    with pytest.raises(ConfigError, match=r"^layers: the model has layers 0 to 2, got 3$"):
        saliency(model, read, layers=[3])
    with pytest.raises(ConfigError, match=r"^reference: "):
        saliency(model, read, reference=make_model(0, intermediate_size=48))
    with pytest.raises(ConfigError, match=r"^count must be at least 0, got -1$"):
        edited(model, saliency(model, read), -1)
