from __future__ import annotations

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods.weight_edits import make_weight_edit
from expunge.methods.weight_edits.noise import Noise


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"big": 5 * torch.randn(200, 100, generator=generator), "gain": torch.tensor([1.0, 3.0])}


def test_shrinking_without_noise() -> None:
    actual = Noise(a=0.25, beta=0.0)({"w": torch.tensor([[4.0, -8.0]])})
    assert actual["w"].tolist() == [[3.0, -6.0]]


def test_it_agrees_with_the_authors() -> None:
    case = cases("undo")["shrink"]
    inputs = case["inputs"]
    rule = Noise(a=inputs["a"], beta=inputs["beta"])
    actual = rule({"weight": tensor(inputs["weight"]), "bias": tensor(inputs["bias"])})
    for name, values in case["outputs"].items():
        torch.testing.assert_close(actual[name], tensor(values), rtol=1e-15, atol=0)
    case = cases("undo")["noise"]  # a and beta are 0.5 and 0.4, so the bound is 0.2 sqrt(6 / 100)
    result = Noise(a=0.5, beta=0.4)({"w": torch.zeros(60, 40, dtype=torch.float64)})["w"]
    assert float(result.std()) == pytest.approx(case["outputs"]["std"], rel=0.03)
    assert case["outputs"]["max"] <= 0.2 * 0.06**0.5 and 0.19 * 0.06**0.5 < float(result.abs().max()) <= 0.2 * 0.06**0.5


def test_the_noise_has_the_width_of_its_tensor_if_asked_for() -> None:
    theta = weights()
    wide = {"a": 0.4, "distribution": "width"}
    added = Noise(**wide, beta=1.0)(theta)["big"] - 0.6 * theta["big"]
    assert float(added.std()) == pytest.approx(0.4 * float(theta["big"].std()), rel=0.03)
    assert abs(float(added.mean())) < 5 * 0.4 * 5 / 20000**0.5
    twice = Noise(**wide, beta=2.0)(theta)["big"] - 0.6 * theta["big"]
    torch.testing.assert_close(twice, 2 * added, rtol=1e-4, atol=1e-5)


def test_nothing_of_the_model_is_left_at_one() -> None:
    theta = weights()
    actual = Noise(a=1.0)(theta)["big"]
    together = torch.stack([actual.flatten(), theta["big"].flatten()])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 5 / 20000**0.5


def test_vectors_shrink_unless_they_are_left_alone() -> None:
    theta = weights()
    assert torch.equal(Noise(a=0.5, vectors=False)(theta)["gain"], theta["gain"])
    assert Noise(a=0.5, beta=0.7)(theta)["gain"].tolist() == [0.5, 1.5]
    assert Noise(a=0.5, beta=0.7, distribution="width")(theta)["gain"].tolist() != [0.5, 1.5]


def test_it_is_a_function_of_the_seed_and_not_of_the_global_one() -> None:
    torch.manual_seed(1)
    first = Noise(seed=4)(weights())["big"]
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, Noise(seed=4)(weights())["big"])
    assert not torch.equal(first, Noise(seed=5)(weights())["big"])
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())


def test_settings_are_checked() -> None:
    for keys in ({"a": -0.1}, {"a": 1.1}, {"beta": -1}):
        with pytest.raises(ConfigError, match=rf"^edit_args\.{next(iter(keys))}: must be "):
            make_weight_edit("noise", keys)
    with pytest.raises(ConfigError, match="noise: reads no other model, got 1"):
        Noise()(weights(), [weights()])
