from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.wga import WGA


def test_the_loss_by_hand(side) -> None:
    # p = 1/2 and 1/4, beta = 2: (1/4 log(1/2) + 1/16 log(1/4)) / 2 = -(1/4 + 1/8) log 2 / 2
    forget = side([[math.log(0.5)], [math.log(0.25)]])
    assert WGA(beta=2).forget_loss(LossInputs(forget=forget)).item() == pytest.approx(-3 / 16 * math.log(2), rel=1e-14)


def test_the_gradient_is_the_weight(side) -> None:
    # the weight is constant: d/d logp = p^beta / N
    logps = torch.tensor([-0.1, -2.0, -7.0], dtype=torch.float64, requires_grad=True)
    WGA(beta=0.5).forget_loss(LossInputs(forget=side([logps]))).backward()
    torch.testing.assert_close(logps.grad, (0.5 * logps.detach()).exp() / 3, rtol=1e-13, atol=0)


def test_without_beta_it_is_gradient_ascent(side) -> None:
    view = LossInputs(forget=side([[-1.0, -2.0], [-6.0]]))
    ascent = objective("GradAscent")(view).total.item()
    assert WGA(beta=0).forget_loss(view).item() == pytest.approx(ascent, rel=1e-15)


def test_a_forgotten_token_has_no_weight_left(side) -> None:
    logps = torch.tensor([-1e4], dtype=torch.float64, requires_grad=True)
    WGA().forget_loss(LossInputs(forget=side([logps]))).backward()
    assert logps.grad is not None and logps.grad.item() == 0.0


def test_a_wrong_beta_is_told() -> None:
    with pytest.raises(ConfigError, match=r"beta: must be a number >= 0, got -1"):
        objective("WGA", {"beta": -1})
