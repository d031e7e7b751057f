from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.satimp import SatImp


def test_the_loss_by_hand(side) -> None:
    # p = 1/2 and 1/4, beta1 = 2, beta2 = 1: weights 1/4 * 1/2 = 1/8 and 1/16 * 3/4 = 3/64
    # (1/8 * log(1/2) + 3/64 * log(1/4)) / 2 = -(8 + 6) / 128 log 2
    forget = side([[math.log(0.5), math.log(0.25)]])
    actual = SatImp(beta1=2, beta2=1).forget_loss(LossInputs(forget=forget))
    assert actual.item() == pytest.approx(-7 / 64 * math.log(2), rel=1e-14)


def test_the_gradient_is_the_weight(side) -> None:
    logps = torch.tensor([-0.1, -2.0, -7.0], dtype=torch.float64, requires_grad=True)
    SatImp(beta1=1.5, beta2=0.5).forget_loss(LossInputs(forget=side([logps]))).backward()
    p = logps.detach().exp()
    torch.testing.assert_close(logps.grad, p**1.5 * (1 - p) ** 0.5 / 3, rtol=1e-12, atol=0)


def test_without_betas_it_is_gradient_ascent_and_with_the_first_alone_it_is_wga(side) -> None:
    view = LossInputs(forget=side([[-1.0, -2.0], [-6.0], [0.0]]))  # p = 1 too: (1 - p)^0 = 1
    ascent, wga = objective("GradAscent")(view).total, objective("WGA", {"beta": 3, "alpha": 0})(view).total
    assert SatImp(beta1=0, beta2=0).forget_loss(view).item() == pytest.approx(ascent.item(), rel=1e-15)
    assert SatImp(beta1=3, beta2=0).forget_loss(view).item() == pytest.approx(wga.item(), rel=1e-14)


def test_the_weights_vanish_at_both_ends(side) -> None:
    logps = torch.tensor([0.0, -1e4], dtype=torch.float64, requires_grad=True)
    SatImp().forget_loss(LossInputs(forget=side([logps]))).backward()
    assert logps.grad is not None and logps.grad.tolist() == [0.0, 0.0]


def test_the_largest_weight_is_the_one_the_page_tells() -> None:
    p = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    weight = p**5 * (1 - p)
    assert weight.max().item() == pytest.approx(0.067, abs=5e-4)
    assert p[weight.argmax()].item() == pytest.approx(5 / 6, abs=1e-4)


def test_defaults_are_the_papers_and_ranges_are_told() -> None:
    weights = objective("SatImp").weights
    assert (weights.gamma, weights.alpha) == (1.0, 0.1)
    for key in ("beta1", "beta2"):
        with pytest.raises(ConfigError, match=rf"{key}: must be a number >= 0, got -1"):
            objective("SatImp", {key: -1})
