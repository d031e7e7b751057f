from __future__ import annotations

import pytest
import torch

from expunge.methods import LossInputs, objective
from expunge.methods.grad_ascent import GradAscent


def test_the_loss_by_hand(side) -> None:
    # tokens: -1, -2 | -6. NLL_f = (1 + 2 + 6) / 3 = 3, so the loss is -3 (the mean of row means would be -3.75)
    forget = side([[-1.0, -2.0], [-6.0]])
    assert GradAscent().forget_loss(LossInputs(forget=forget)).item() == pytest.approx(-3.0, rel=1e-15)
    terms = objective("GradAscent", {"gamma": 0.5})(LossInputs(forget=forget))
    assert terms.total.item() == pytest.approx(-1.5, rel=1e-15)
    assert {k: v.item() for k, v in terms.parts.items()} == {"forget": pytest.approx(-3.0)}


def test_each_token_is_pushed_down_alike(side) -> None:
    # d loss / d logp_i = 1/N
    logps = torch.tensor([-1.0, -2.0, -6.0, -0.1], dtype=torch.float64, requires_grad=True)
    GradAscent().forget_loss(LossInputs(forget=side([logps[:3], logps[3:]]))).backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [0.25] * 4


def test_it_asks_for_no_retain_rows() -> None:
    needs = objective("GradAscent").needs
    assert (needs.forget is not None, needs.retain, needs.retain_ref, needs.forget_ref) == (True, None, None, None)


def test_a_side_that_was_not_served_is_named() -> None:
    with pytest.raises(ValueError, match="'forget', which was not provided"):
        GradAscent().forget_loss(LossInputs())
