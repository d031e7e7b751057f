from __future__ import annotations

import math

import pytest
import torch

from expunge.methods import LossInputs, objective
from expunge.methods.npo import NPO, npo


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_loss_by_hand(side) -> None:
    # Row sums: log p = -1 - 2 = -3 and -4; reference -2.5 - 0.5 = -3 + log 3 - log 3 = -3 and -4 - 2 log 3.
    # beta = 1/2: beta (log p - log p_ref) = 0 and log 3; softplus = log 2 and log(1 + 3) = 2 log 2.
    # Loss = 2/beta * mean = 4 * (log 2 + 2 log 2) / 2 = 6 log 2.
    now = side([[-1.0, -2.0], [-4.0]])
    ref = side([[-2.5, -0.5], [-4.0 - 2 * math.log(3)]])
    actual = NPO(beta=0.5).forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert actual.item() == pytest.approx(6 * math.log(2), rel=1e-14)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 4.5])
def test_at_the_reference_it_is_two_over_beta_log_two(side, beta: float) -> None:
    now = side([[-1.0, -2.0], [-4.0], [-0.1, -0.2, -0.3]])
    assert NPO(beta=beta).forget_loss(LossInputs(forget=now, forget_ref=now)).item() == pytest.approx(
        2 / beta * math.log(2), rel=1e-14
    )


def test_the_gradient_in_closed_form_and_by_differences() -> None:
    # d/d log p of (2/beta) softplus(beta d) / B = 2 sigmoid(beta d) / B
    logp, ref, beta = tensor(-3.0, -40.0, -0.5).requires_grad_(), tensor(-3.0, -5.0, -20.0), 0.3
    npo(logp, ref, beta=beta).backward()
    assert logp.grad is not None
    expected = 2 * torch.sigmoid(beta * (logp.detach() - ref)) / 3
    torch.testing.assert_close(logp.grad, expected, rtol=1e-13, atol=0)
    assert torch.autograd.gradcheck(lambda x: npo(x, ref, beta=beta), (logp,))


def test_as_beta_vanishes_the_gradient_is_that_of_ascent_on_summed_log_probabilities() -> None:
    # 2 sigmoid(0) = 1, so the limit is d/d log p of mean(log p) = 1/B; the error is beta |d| / 2 to first order
    logp, ref = tensor(-3.0, -40.0, -0.5).requires_grad_(), tensor(-9.0, -5.0, -20.0)
    (ascent,) = torch.autograd.grad(logp.mean(), logp)
    errors = []
    for beta in (1e-2, 1e-4, 1e-6):
        (grad,) = torch.autograd.grad(npo(logp, ref, beta=beta), logp)
        errors.append((grad - ascent).abs().max().item())
    assert errors[2] < 1e-5
    assert errors[0] > 50 * errors[1] > 50 * 50 * errors[2]  # linear in beta


def test_it_stays_finite_and_bounded_below_where_sigmoids_saturate() -> None:
    far = tensor(-1e5).requires_grad_()
    loss = npo(far, tensor(0.0), beta=1.0)
    loss.backward()
    assert 0 <= loss.item() < 1e-300
    assert far.grad is not None and far.grad.item() == 0.0
    assert npo(tensor(0.0), tensor(-1e5), beta=1.0).item() == pytest.approx(2e5)  # and linear the other way


def test_the_order_of_rows_and_tokens_does_not_count(side) -> None:
    now, ref = [[-1.0, -2.0], [-4.0], [-0.1, -0.2]], [[-1.5, -1.0], [-2.0], [-0.7, -0.1]]
    one = NPO().forget_loss(LossInputs(forget=side(now), forget_ref=side(ref)))
    flip = [list(reversed(r)) for r in reversed(now)], [list(reversed(r)) for r in reversed(ref)]
    other = NPO().forget_loss(LossInputs(forget=side(flip[0]), forget_ref=side(flip[1])))
    assert one.item() == pytest.approx(other.item(), rel=1e-14)


def test_a_batch_is_the_mean_of_its_rows_alone(side) -> None:
    now, ref = [[-1.0, -2.0], [-4.0], [-0.1, -0.2]], [[-1.5, -1.0], [-2.0], [-0.7, -0.1]]
    whole = NPO().forget_loss(LossInputs(forget=side(now), forget_ref=side(ref))).item()
    alone = [
        NPO().forget_loss(LossInputs(forget=side([n]), forget_ref=side([r]))).item()
        for n, r in zip(now, ref, strict=True)
    ]
    assert whole == pytest.approx(sum(alone) / 3, rel=1e-14)


def test_it_asks_for_the_reference_of_the_forget_rows_only() -> None:
    needs = objective("NPO").needs
    assert needs.forget is not None and needs.forget_ref is not None
    assert needs.retain is not None and needs.retain_ref is None


def test_by_token_every_token_is_weighed_by_itself(side) -> None:
    # beta = 1/2, log p - log p_ref: 0, 2 log 3 | 0: softplus log 2, 2 log 2, log 2; 4 * mean over tokens = 16/3 log 2
    now = side([[-1.0, -1.0], [-3.0]])
    ref = side([[-1.0, -1.0 - 2 * math.log(3)], [-3.0]])
    actual = NPO(beta=0.5, level="token").forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert actual.item() == pytest.approx(16 / 3 * math.log(2), rel=1e-14)
    one = NPO(beta=0.5, level="sequence").forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert one.item() == pytest.approx(6 * math.log(2), rel=1e-14)


def test_by_token_and_by_sequence_agree_on_answers_of_one_token(side) -> None:
    view = LossInputs(forget=side([[-1.0], [-3.0]]), forget_ref=side([[-0.2], [-5.0]]))
    assert NPO(level="token").forget_loss(view).item() == NPO().forget_loss(view).item()
