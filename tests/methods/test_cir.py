from __future__ import annotations

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, SideOutputs, objective
from expunge.methods.cir import CIR


def two_modules(first: list[list[float]], second: list[list[float]]) -> SideOutputs:
    h_ND = torch.cat([tensor(first), tensor(second)], dim=-1).requires_grad_()
    n, widths = len(first), (len(first[0]), len(second[0]))
    return SideOutputs(h_ND.new_zeros(0), torch.zeros(n, dtype=torch.long), 1, hidden_ND=h_ND, widths=widths)


def test_the_loss_equals_the_authors() -> None:
    case = cases("cir")["loss"]
    now, ref = two_modules(*case["inputs"]["now"]), two_modules(*case["inputs"]["reference"])
    loss = CIR().forget_loss(LossInputs(forget=now, forget_ref=ref))
    assert loss.item() == pytest.approx(case["outputs"], rel=1e-12)


def test_the_loss_and_its_gradient_by_hand() -> None:
    # first: products (3, 4).(2, 0) = 6 and (-1, 0).(0, 2) = 0, mean 3; mean length 2, squared 4: 3 / 4.
    # second: products 5 and -1 -> 0, mean 5/2; lengths 1 and 1: 5 / 2. Mean: 13 / 8
    now, ref = two_modules([[3, 4], [-1, 0]], [[5], [-1]]), two_modules([[2, 0], [0, 2]], [[1], [1]])
    loss = CIR().forget_loss(LossInputs(forget=now, forget_ref=ref))
    loss.backward()
    assert loss.item() == pytest.approx(13 / 8, rel=1e-15)
    # d/dh = h_ref / (2 tokens * 4 * 2 modules) where the product is positive
    assert now.hidden_ND.grad[0].tolist() == [2 / 16, 0, 1 / 4]
    assert now.hidden_ND.grad[1].tolist() == [0, 0, 0]


def test_the_loss_does_not_depend_on_the_scale_of_the_model() -> None:
    sides = [two_modules([[3, 4], [1, 1]], [[5], [1]]), two_modules([[2, 1], [0, 2]], [[1], [3]])]
    big = [two_modules([[30, 40], [10, 10]], [[50], [10]]), two_modules([[20, 10], [0, 20]], [[10], [30]])]
    losses = [CIR().forget_loss(LossInputs(forget=a, forget_ref=b)).item() for a, b in (sides, big)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-14)


def test_it_reads_its_layers_on_both_sides() -> None:
    needs = objective("CIR", {"layers": ["a.0.mlp"]}).needs
    assert needs.layer == ("a.0.mlp",)
    assert {needs.forget, needs.forget_ref, needs.retain, needs.retain_ref} == {Quantity.HIDDEN}
    with pytest.raises(ConfigError, match=r"^trainer.method_args.layers: must name"):
        objective("CIR", {"layers": []})
