from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, SideOutputs, objective
from expunge.methods.repnoise import RepNoise, mmd
from expunge.methods.weight_edits.api import seeded


def test_the_distance_of_two_points_by_hand() -> None:
    # one point each, squared distance 25: the mean over two different points is 25, so the exponents are -1 / c
    a, b = torch.tensor([[3.0, 0.0]], dtype=torch.float64), torch.tensor([[0.0, 4.0]], dtype=torch.float64)
    expected = 2 * 5 - 2 * sum(math.exp(-1 / c) for c in (0.25, 0.5, 1, 2, 4))
    assert mmd(a, b).item() == pytest.approx(expected, rel=1e-14)


def test_equal_samples_have_no_distance_and_the_gradient_is_exact() -> None:
    a = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert mmd(a, a).item() == pytest.approx(0.0, abs=1e-14)
    fixed = torch.cat([a, b])  # the widths have no gradient, so they are held for the differences
    scale = torch.cdist(fixed, fixed).square().sum() / 30

    def content(x: torch.Tensor) -> torch.Tensor:
        points = torch.cat([x, b])
        square = (points[:, None] - points[None]).square().sum(-1)
        k = torch.stack([torch.exp(-square / (c * scale)) for c in (0.25, 0.5, 1, 2, 4)]).sum(0)
        return k[:3, :3].mean() + k[3:, 3:].mean() - 2 * k[:3, 3:].mean()

    x, y = a.clone().requires_grad_(), a.clone().requires_grad_()
    mmd(x, b).backward()
    content(y).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-12, atol=1e-14)


def test_the_loss_is_distance_minus_the_logarithmic_ascent() -> None:
    h_ND = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logps = torch.tensor([-1.0, -2.0, -3.0, -6.0], dtype=torch.float64)  # NLL 3
    side = SideOutputs(logps, torch.zeros(4, dtype=torch.long), 1, hidden_ND=h_ND, widths=(2, 4))
    rule, memory = RepNoise(beta=0.5, ascent=2.0), {}
    first = rule.forget_loss(LossInputs(forget=side, memory=memory)).item()
    generator = seeded(0, 0)
    noise = [torch.randn(4, d, generator=generator, dtype=torch.float64) for d in (2, 4)]
    distance = (mmd(h_ND[:, :2], noise[0]) + mmd(h_ND[:, 2:], noise[1])) / 2
    assert first == pytest.approx(0.5 * distance.item() - 2 * math.log(4), rel=1e-13)
    later = {rule.forget_loss(LossInputs(forget=side, memory=memory)).item() for _ in range(5)}
    assert len(later | {first}) == 6  # each call draws new noise
    assert memory["repnoise_draws"] == 5


def test_the_distance_equals_the_authors() -> None:
    measured = cases("repnoise")["distance"]
    states, noise = (tensor(measured["inputs"][key]) for key in ("states", "noise"))
    assert mmd(states, noise).item() == pytest.approx(measured["outputs"], rel=1e-12)


def test_the_authors_loss_is_ours_but_for_the_ascent() -> None:
    # rows of one point; their ascent is ln(1 + (NLL + the NLL of each of n layers) / n), with n = 1 and equal logits
    measured = cases("repnoise")["loss"]
    inputs = measured["inputs"]
    logps_NV = torch.log_softmax(tensor(inputs["logits"]), -1)
    nll = -logps_NV.gather(1, torch.tensor(inputs["tokens"])[:, None]).mean().item()
    layers = zip(tensor(inputs["states"]), tensor(inputs["noise"]), strict=True)
    distance = sum(mmd(h, z).item() for h, z in layers) / 2
    expected = math.log(4) + inputs["beta"] * distance - inputs["alpha"] * math.log1p(2 * nll)
    assert expected == pytest.approx(measured["outputs"], rel=1e-12)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^trainer.method_args.beta: must be a number >= 0, got -1$"):
        objective("RepNoise", {"beta": -1})
