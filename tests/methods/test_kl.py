from __future__ import annotations

import math

import pytest
import torch

from expunge.methods import LossInputs, Quantity, objective


def test_the_loss_by_hand(side, logit_side) -> None:
    # NLL_f = (1 + 3) / 2 = 2. p_ref = (1/2, 1/2), p = (1/4, 3/4): KL(p_ref || p) = 1/2 log(4/3)
    one = torch.tensor([0])
    now = logit_side(torch.tensor([[0.25, 0.75]], dtype=torch.float64).log(), one, one)
    ref = logit_side(torch.zeros(1, 2, dtype=torch.float64), one, one)
    terms = objective("KL")(LossInputs(forget=side([[-1.0, -3.0]]), retain=now, retain_ref=ref))
    assert terms.total.item() == pytest.approx(-2 + 0.5 * math.log(4 / 3), rel=1e-14)


def test_it_is_grad_diff_with_the_kl_retain_loss() -> None:
    result, other = objective("kl", {"alpha": 3}), objective("GradDiff", {"alpha": 3, "retain_loss_type": "KL"})
    assert result.needs == other.needs
    assert result.needs.retain is result.needs.retain_ref is Quantity.LOGITS
    assert result.weights == other.weights
