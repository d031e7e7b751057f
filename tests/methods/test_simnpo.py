from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.simnpo import SimNPO, simnpo


def test_the_loss_by_hand(side) -> None:
    # mean log p: -(1 + 3)/2 = -2 and -2 - 2 log 3... with delta = 2, beta = 1/2:
    # beta (log p / n + delta) = 0 and -log 3; softplus = log 2 and log(4/3); loss = 4 * (log 2 + log(4/3)) / 2
    forget = side([[-1.0, -3.0], [-2 - 2 * math.log(3)]])
    actual = SimNPO(beta=0.5, delta=2.0).forget_loss(LossInputs(forget=forget))
    assert actual.item() == pytest.approx(2 * math.log(8 / 3), rel=1e-14)


def test_the_gradient_in_closed_form_and_by_differences() -> None:
    # d/d (log p / n) = 2 sigmoid(beta (log p / n + delta)) / B
    logp = torch.tensor([-0.1, -2.0, -30.0], dtype=torch.float64, requires_grad=True)
    simnpo(logp, beta=2.5, delta=0.4).backward()
    expected = 2 * torch.sigmoid(2.5 * (logp.detach() + 0.4)) / 3
    torch.testing.assert_close(logp.grad, expected, rtol=1e-13, atol=0)
    assert torch.autograd.gradcheck(lambda x: simnpo(x, beta=2.5, delta=0.4), (logp,))


def test_as_beta_vanishes_it_is_ascent_on_row_means(side) -> None:
    # the gradient tends to that of mean over rows of (log p / n): 1/(B n) for every token
    logps = torch.tensor([-1.0, -2.0, -6.0], dtype=torch.float64, requires_grad=True)
    SimNPO(beta=1e-8).forget_loss(LossInputs(forget=side([logps[:2], logps[2:]]))).backward()
    expected = torch.tensor([1 / 4, 1 / 4, 1 / 2], dtype=torch.float64)
    torch.testing.assert_close(logps.grad, expected, rtol=1e-7, atol=0)


def test_longer_answers_of_one_mean_weigh_the_same(side) -> None:
    short, long = side([[-2.0]]), side([[-2.0] * 9])
    loss = SimNPO()
    assert loss.forget_loss(LossInputs(forget=short)).item() == pytest.approx(
        loss.forget_loss(LossInputs(forget=long)).item()
    )


def test_defaults_and_ranges() -> None:
    loss = objective("SimNPO")
    assert (loss.weights.gamma, loss.weights.alpha, loss.method.beta, loss.method.delta) == (0.125, 1.0, 4.5, 0.0)
    assert loss.needs.forget_ref is None
    for args in ({"beta": 0}, {"delta": -0.1}):
        with pytest.raises(ConfigError, match="must be a number >"):
            objective("SimNPO", args)
