from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.dpo import DPO, dpo


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_by_hand(side) -> None:
    # rewards: alternate -1 - 2 + 3 = 0 and -4 + 4 = 0; forget -5 + 5 = 0 and -2 + (2 + 2 log 3) = 2 log 3.
    # beta = 1/2: beta (r_forget - r_alternate) = 0 and log 3; softplus = log 2 and log 4 = 2 log 2.
    # loss = 2/beta * mean = 4 * (3 log 2) / 2 = 6 log 2
    view = LossInputs(
        alternate=side([[-1.0, -2.0], [-4.0]]),
        alternate_ref=side([[-3.0, 0.0], [-4.0]]),
        forget=side([[-5.0], [-1.0, -1.0]]),
        forget_ref=side([[-5.0], [-1.0, -1.0 - 2 * math.log(3)]]),
    )
    assert DPO(beta=0.5).forget_loss(view).item() == pytest.approx(6 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_at_the_reference_it_is_two_over_beta_log_two(side, beta: float) -> None:
    now, alt = side([[-1.0, -2.0], [-4.0]]), side([[-0.3], [-2.0]])
    view = LossInputs(forget=now, forget_ref=now, alternate=alt, alternate_ref=alt)
    assert DPO(beta=beta).forget_loss(view).item() == pytest.approx(2 / beta * math.log(2), rel=1e-14)


def test_the_gradient_in_closed_form_and_by_differences() -> None:
    # d/d r_alternate = -2 sigmoid(beta (r_forget - r_alternate)) / B, and the opposite for r_forget
    good, bad, beta = tensor(1.0, -3.0, 0.0).requires_grad_(), tensor(-1.0, 4.0, 0.0).requires_grad_(), 0.3
    dpo(good, bad, beta=beta).backward()
    expected = 2 * torch.sigmoid(beta * (bad - good).detach()) / 3
    torch.testing.assert_close(bad.grad, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(good.grad, -expected, rtol=1e-13, atol=0)
    assert torch.autograd.gradcheck(lambda a, b: dpo(a, b, beta=beta), (good, bad))


def test_as_beta_vanishes_it_ascends_on_one_answer_and_descends_on_the_other() -> None:
    good, bad = tensor(1.0, -3.0).requires_grad_(), tensor(-1.0, 4.0).requires_grad_()
    dpo(good, bad, beta=1e-9).backward()
    torch.testing.assert_close(bad.grad, tensor(0.5, 0.5), rtol=1e-7, atol=0)
    torch.testing.assert_close(good.grad, tensor(-0.5, -0.5), rtol=1e-7, atol=0)


def test_an_alternate_that_never_changes_leaves_npo(side) -> None:
    now, ref, alt = side([[-1.0], [-3.0]]), side([[-0.5], [-0.2]]), side([[-9.0], [-9.0]])
    view = LossInputs(forget=now, forget_ref=ref, alternate=alt, alternate_ref=alt)
    npo = objective("NPO", {"beta": 0.7}).method.forget_loss(view)
    assert DPO(beta=0.7).forget_loss(view).item() == pytest.approx(npo.item(), rel=1e-14)


def test_names_and_ranges() -> None:
    assert objective("IdkDPO").spec.name == "DPO"
    with pytest.raises(ConfigError, match=r"beta: must be a number > 0, got 0"):
        objective("DPO", {"beta": 0})
