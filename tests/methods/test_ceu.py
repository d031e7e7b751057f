from __future__ import annotations

import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, objective
from expunge.methods.ceu import CEU


def test_the_loss_by_hand(logit_side) -> None:
    # p = (1/2, 1/4, 1/4), true token 0: q = (0, 1/2, 1/2); cross-entropy = -log(1/4) = 2 log 2.
    # p = (1/2, 1/4, 1/4), true token 1: q = (2/3, 0, 1/3); -(2/3 log 1/2 + 1/3 log 1/4) = 4/3 log 2.
    logits = torch.tensor([[0.5, 0.25, 0.25]] * 2, dtype=torch.float64).log() + 3.0
    side = logit_side(logits, torch.tensor([0, 1]), torch.tensor([0, 0]))
    both = CEU(ignore_first_n_answer_tokens=0).forget_loss(LossInputs(forget=side))
    second = CEU(ignore_first_n_answer_tokens=1).forget_loss(LossInputs(forget=side))
    assert both.item() == pytest.approx((2 + 4 / 3) / 2 * math.log(2), rel=1e-14)
    assert second.item() == pytest.approx(4 / 3 * math.log(2), rel=1e-14)


def test_the_gradient_is_the_model_minus_its_target(logit_side) -> None:
    # the target q is constant and sums to 1, so d/d logits = (p - q) / N; tokens left out get nothing
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(4, 7, dtype=torch.float64, generator=generator)).requires_grad_()
    token_N, row_N = torch.tensor([3, 0, 6, 1]), torch.tensor([0, 0, 1, 1])
    CEU().forget_loss(LossInputs(forget=logit_side(logits, token_N, row_N))).backward()
    p = logits.detach().softmax(-1)
    q = p.scatter(-1, token_N[:, None], 0.0)
    expected = (p - q / q.sum(-1, keepdim=True)) / 2
    expected[[0, 2]] = 0.0
    torch.testing.assert_close(logits.grad, expected, rtol=1e-12, atol=1e-15)


def test_the_gradient_does_not_vanish_where_the_model_is_sure(logit_side) -> None:
    # p(y) -> 1: d/d z_y -> 1 (gradient ascent has 1 - p(y) -> 0 there)
    logits = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    one = torch.tensor([0])
    CEU(ignore_first_n_answer_tokens=0).forget_loss(LossInputs(forget=logit_side(logits, one, one))).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, -0.5, -0.5]], dtype=torch.float64))


def test_an_answer_that_is_left_out_whole_gives_zero_and_no_gradient(logit_side) -> None:
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    one = torch.tensor([0])
    loss = CEU().forget_loss(LossInputs(forget=logit_side(logits, one, one)))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and logits.grad.abs().max().item() == 0.0


def test_defaults_and_ranges() -> None:
    assert objective("CE-U").needs.retain is None
    assert objective("CEU", {"alpha": 1}).needs.retain is not None
    with pytest.raises(ConfigError, match=r"ignore_first_n_answer_tokens: must be a whole number >= 0, got -1"):
        objective("CEU", {"ignore_first_n_answer_tokens": -1})
