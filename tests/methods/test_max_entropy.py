from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.methods import LossInputs, objective
from expunge.methods.max_entropy import MaxEntropy


def forget_side(logit_side, z: torch.Tensor):
    zeros = torch.zeros(len(z), dtype=torch.long)
    return logit_side(z, zeros, zeros)


def test_the_loss_by_hand(logit_side) -> None:
    # p = (1/2, 1/4, 1/4): H = 3/2 log 2, so log 3 - 3/2 log 2; a uniform position gives 0; the mean is half of it
    z = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64).log()
    actual = MaxEntropy().forget_loss(LossInputs(forget=forget_side(logit_side, z)))
    assert actual.item() == pytest.approx((math.log(3) - 1.5 * math.log(2)) / 2, rel=1e-13)


def test_the_gradient_in_closed_form_and_by_differences(logit_side) -> None:
    # d/dz of sum p log p = p (log p + H), over N
    z = (2 * torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return MaxEntropy().forget_loss(LossInputs(forget=forget_side(logit_side, x)))

    loss(z).backward()
    p = z.detach().softmax(-1)
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    torch.testing.assert_close(z.grad, p * (p.log() + entropy) / 3, rtol=1e-11, atol=1e-15)
    assert torch.autograd.gradcheck(loss, (z,))


def test_it_lies_between_zero_and_the_logarithm_of_the_vocabulary(logit_side) -> None:
    flat, sure = torch.full((1, 8), 5.0, dtype=torch.float64), torch.zeros(1, 8, dtype=torch.float64)
    sure[0, 3] = 500.0
    assert MaxEntropy().forget_loss(LossInputs(forget=forget_side(logit_side, flat))).item() == pytest.approx(
        0.0, abs=1e-14
    )
    assert MaxEntropy().forget_loss(LossInputs(forget=forget_side(logit_side, sure))).item() == pytest.approx(
        math.log(8)
    )


def test_defaults() -> None:
    loss = objective("ME+GD")
    assert (loss.spec.name, loss.weights.gamma, loss.weights.alpha) == ("ME", 0.1, 1.0)
    assert loss.weights.retain_loss_type == "NLL"


def test_the_other_divergence_equals_the_authors_code_and_has_its_gradient(logit_side) -> None:
    case = cases("max_entropy")["loss"]
    z = tensor(case["inputs"]["logits"]).requires_grad_()
    loss = MaxEntropy(divergence="from_uniform").forget_loss(LossInputs(forget=forget_side(logit_side, z)))
    loss.backward()
    assert loss.item() == pytest.approx(case["outputs"], rel=1e-9)  # theirs adds 1e-12 to p
    torch.testing.assert_close(z.grad, (z.detach().softmax(-1) - 1 / z.shape[1]) / len(z))
