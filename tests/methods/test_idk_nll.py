from __future__ import annotations

import pytest
import torch

from expunge.methods import LossInputs, objective


def test_the_loss_by_hand(side) -> None:
    # (CE(idk) + CE(retain)) / 2 = ((1 + 2 + 6) / 3 + (4 + 1) / 2) / 2 = (3 + 2.5) / 2
    view = LossInputs(alternate=side([[-1.0, -2.0], [-6.0]]), retain=side([[-4.0], [-1.0]]))
    terms = objective("IdkNLL")(view)
    assert terms.total.item() == pytest.approx(2.75, rel=1e-15)
    assert terms.parts["forget"].item() == pytest.approx(3.0, rel=1e-15)


def test_refusals_are_pulled_up_each_token_alike(side) -> None:
    logps = torch.tensor([-1.0, -2.0, -6.0], dtype=torch.float64, requires_grad=True)
    objective("idk", {"gamma": 3, "alpha": 0})(LossInputs(alternate=side([logps]))).total.backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [-1.0] * 3  # d/d logp of 3 * mean(-logp)


def test_it_never_reads_the_forget_answers() -> None:
    needs = objective("IdkNLL").needs
    assert needs.forget is None and needs.alternate is not None and needs.retain is not None
    assert objective("IdkNLL").forgets
