from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, ScoredPositions, objective
from expunge.methods.undial import UNDIAL


def logits(n: int, v: int, seed: int) -> torch.Tensor:
    return 2 * torch.randn(n, v, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_loss_by_hand(logit_side) -> None:
    # reference (2/3, 1/3), true token 0, beta = log 2: lowered weights (2/3 / 2, 1/3) = (1/2, 1/2) after normalising.
    # model (1/4, 3/4): cross-entropy = -(log 1/4 + log 3/4) / 2 = log(16/3) / 2
    one = torch.tensor([0])
    now = logit_side(torch.tensor([[0.25, 0.75]], dtype=torch.float64).log(), one, one)
    ref = logit_side(torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64).log(), one, one)
    actual = UNDIAL(beta=math.log(2)).forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert actual.item() == pytest.approx(math.log(16 / 3) / 2, rel=1e-14)


def test_the_gradient_in_closed_form_and_by_differences(logit_side) -> None:
    z, ref_z = logits(3, 5, 0).requires_grad_(), logits(3, 5, 1)
    token_N, row_N = torch.tensor([4, 0, 2]), torch.tensor([0, 0, 1])
    ref = logit_side(ref_z, token_N, row_N)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return UNDIAL(beta=1.5).forget_loss(LossInputs(forget=logit_side(x, token_N, row_N), forget_ref=ref))

    loss(z).backward()
    target = (ref_z - 1.5 * torch.nn.functional.one_hot(token_N, 5)).softmax(-1)
    torch.testing.assert_close(z.grad, (z.detach().softmax(-1) - target) / 3, rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(loss, (z,))


def test_without_beta_the_reference_is_the_minimum(logit_side) -> None:
    z = logits(3, 5, 0).requires_grad_()
    token_N, row_N = torch.tensor([4, 0, 2]), torch.tensor([0, 0, 1])
    ref = logit_side(z.detach() + 7.0, token_N, row_N)
    UNDIAL(beta=0).forget_loss(LossInputs(forget=logit_side(z, token_N, row_N), forget_ref=ref)).backward()
    assert z.grad is not None and z.grad.abs().max().item() < 1e-15


def test_the_peers_form_by_hand(logit_side) -> None:
    # One row of three positions, vocabulary 101, all logits 0, beta = log 2. Position 0 is unscored, so token
    # 101 - 100 = 1 is halved; position 1 predicts token 5; position 2 is last and does not count. The model is uniform,
    # so every cross-entropy is log 101 whatever the target; to see which token is halved, read the gradient.
    z = torch.zeros(3, 101, dtype=torch.float64, requires_grad=True)
    side = logit_side(z, torch.tensor([0, 5, 0]), torch.tensor([0, 0, 0]))
    side = dataclasses.replace(side, labelled_N=torch.tensor([False, True, False]))
    ref = dataclasses.replace(side, logits_NV=torch.zeros(3, 101, dtype=torch.float64))
    loss = UNDIAL(beta=math.log(2), compat="openunlearning").forget_loss(LossInputs(forget=side, forget_ref=ref))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(101), rel=1e-14)
    assert z.grad is not None
    lowered = (1 / 101 - 0.5 / 100.5) / 2
    assert z.grad[0, 1].item() == pytest.approx(lowered, rel=1e-12)
    assert z.grad[1, 5].item() == pytest.approx(lowered, rel=1e-12)
    assert (z.grad > 0).sum().item() == 2 and z.grad[2].abs().max().item() == 0.0


def test_the_peers_form_says_what_it_lacks(logit_side) -> None:
    one = torch.tensor([0])
    side = logit_side(torch.zeros(1, 5, dtype=torch.float64), one, one)
    theirs = UNDIAL(compat="openunlearning")
    with pytest.raises(ValueError, match="which positions are scored, which was not provided"):
        theirs.forget_loss(LossInputs(forget=side, forget_ref=side))
    side = dataclasses.replace(side, labelled_N=torch.tensor([True]))
    with pytest.raises(ValueError, match="fewer than 100 tokens"):
        theirs.forget_loss(LossInputs(forget=side, forget_ref=side))


def test_needs_defaults_and_ranges() -> None:
    assert objective("UNDIAL").needs.forget_positions is ScoredPositions.ANSWER
    assert objective("UNDIAL").needs.retain is None
    assert objective("UNDIAL", {"compat": "openunlearning"}).needs.forget_positions is ScoredPositions.ALL
    with pytest.raises(ConfigError, match=r"beta: must be a number >= 0, got -1"):
        objective("UNDIAL", {"beta": -1})
