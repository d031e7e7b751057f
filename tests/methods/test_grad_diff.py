from __future__ import annotations

import pytest
import torch

from expunge.methods import LossInputs, objective


def test_the_loss_by_hand(side) -> None:
    # NLL_f = (1 + 2 + 6) / 3 = 3; NLL_r = (4 + 1) / 2 = 2.5; 0.5 * -3 + 2 * 2.5 = 3.5
    view = LossInputs(forget=side([[-1.0, -2.0], [-6.0]]), retain=side([[-4.0], [-1.0]]))
    terms = objective("GradDiff", {"gamma": 0.5, "alpha": 2})(view)
    assert terms.total.item() == pytest.approx(3.5, rel=1e-15)
    assert {k: v.item() for k, v in terms.parts.items()} == {
        "forget": pytest.approx(-3.0),
        "retain": pytest.approx(2.5),
    }


def test_with_the_kl_retain_loss_by_hand(side, logit_side) -> None:
    # p_ref = (1/2, 1/2), p = (1/4, 3/4): KL(p_ref || p) = 1/2 log 2 + 1/2 log(2/3) = 1/2 log(4/3)
    # (the other way round it would be 1/4 log(1/2) + 3/4 log(3/2), which is not the same)
    tokens, rows = torch.tensor([0]), torch.tensor([0])
    now = logit_side(torch.tensor([[0.25, 0.75]], dtype=torch.float64).log() + 7.0, tokens, rows)
    ref = logit_side(torch.zeros(1, 2, dtype=torch.float64), tokens, rows)
    view = LossInputs(forget=side([[-2.0]]), retain=now, retain_ref=ref)
    terms = objective("GradDiff", {"retain_loss_type": "KL", "alpha": 4})(view)
    kl = 0.5 * torch.log(torch.tensor(4 / 3, dtype=torch.float64)).item()
    assert terms.parts["retain"].item() == pytest.approx(kl, rel=1e-14)
    assert terms.total.item() == pytest.approx(-2.0 + 4 * kl, rel=1e-14)


def test_the_gradient_is_minus_gamma_on_forget_and_plus_alpha_on_retain(side) -> None:
    forget = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    retain = torch.tensor([-3.0, -4.0, -5.0, -6.0], dtype=torch.float64, requires_grad=True)
    view = LossInputs(forget=side([forget]), retain=side([retain]))
    objective("GradDiff", {"gamma": 3, "alpha": 2})(view).total.backward()
    assert forget.grad is not None and retain.grad is not None
    assert forget.grad.tolist() == pytest.approx(
        [3 / 2] * 2
    )  # d/d logp of gamma * mean(logp): up, so minimising lowers
    assert retain.grad.tolist() == pytest.approx([-2 / 4] * 4)


def test_without_a_retain_weight_it_is_gradient_ascent(side) -> None:
    view = LossInputs(forget=side([[-1.0, -2.0], [-6.0]]))
    loss = objective("GradDiff", {"retain_loss_type": None})
    assert loss.needs.retain is None
    assert loss(view).total.item() == objective("GradAscent")(view).total.item()
