from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.methods import LossInputs, objective
from expunge.methods.unilogit import Unilogit, uniform_target


def test_the_loss_in_both_directions_by_hand(logit_side) -> None:
    # p = (1/2, 1/4, 1/4), true token 0: the others keep their ratio, so q = (1/3, 1/3, 1/3).
    # KL(q || p) = (ln(2/3) + 2 ln(4/3)) / 3; KL(p || q) = ln(3/2) / 2 + ln(3/4) / 2
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log() + 3.0
    view = LossInputs(forget=logit_side(logits, torch.tensor([0]), torch.tensor([0])))
    expected = (math.log(2 / 3) + 2 * math.log(4 / 3)) / 3
    assert Unilogit(divergence="forward").forget_loss(view).item() == pytest.approx(expected, rel=1e-13)
    reverse = (math.log(3 / 2) + math.log(3 / 4)) / 2
    assert Unilogit().forget_loss(view).item() == pytest.approx(reverse, rel=1e-13)


@pytest.mark.parametrize("divergence", ["reverse", "forward"])
def test_the_loss_and_its_gradient_equal_another_implementation(logit_side, divergence: str) -> None:
    measured = cases("unilogit")[divergence]
    logits, tokens = tensor(measured["inputs"]["logits"]).requires_grad_(), torch.tensor(measured["inputs"]["tokens"])
    view = LossInputs(forget=logit_side(logits, tokens, torch.zeros(len(tokens), dtype=torch.long)))
    loss = Unilogit(divergence=divergence).forget_loss(view)
    loss.backward()
    assert loss.item() == pytest.approx(measured["outputs"]["loss"], rel=1e-12)
    torch.testing.assert_close(logits.grad, tensor(measured["outputs"]["gradient"]), rtol=1e-11, atol=1e-14)


def test_the_target_has_one_of_v_and_the_gradient_is_p_minus_q(logit_side) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (2 * torch.randn(3, 5, dtype=torch.float64, generator=generator)).requires_grad_()
    token_N = torch.tensor([3, 0, 4])
    q = uniform_target(logits, token_N).exp()
    assert q.gather(1, token_N[:, None]).flatten().tolist() == pytest.approx([0.2] * 3, rel=1e-14)
    rule = objective("Unilogit", {"divergence": "forward"}).method
    rule.forget_loss(LossInputs(forget=logit_side(logits, token_N, torch.zeros(3, dtype=torch.long)))).backward()
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(-1) - q) / 3, rtol=1e-12, atol=1e-15)
