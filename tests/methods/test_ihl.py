from __future__ import annotations

import pytest
import torch
from key_value_toy import cases, tensor

from expunge.methods import LossInputs, Quantity, objective
from expunge.methods.ihl import IHL


def probs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log() + 4.0


def test_the_loss_by_hand(logit_side) -> None:
    # true token 0 of (0.5, 0.3, 0.2): 1 + 0.5 - 0.3; true token 2 of the same: 1 + 0.2 - 0.5; mean 0.95
    z = probs([0.5, 0.3, 0.2], [0.5, 0.3, 0.2])
    side = logit_side(z, torch.tensor([0, 2]), torch.tensor([0, 1]))
    assert IHL().forget_loss(LossInputs(forget=side)).item() == pytest.approx(0.95, rel=1e-13)


def test_the_gradient_in_closed_form_and_by_differences(logit_side) -> None:
    # d p_a / d z = p_a (e_a - p): so d/dz = [p_y (e_y - p) - p_r (e_r - p)] / N, r the strongest rival
    z = probs([0.5, 0.3, 0.2], [0.1, 0.3, 0.6]).requires_grad_()
    token_N, row_N = torch.tensor([0, 2]), torch.tensor([0, 0])

    def loss(x: torch.Tensor) -> torch.Tensor:
        return IHL().forget_loss(LossInputs(forget=logit_side(x, token_N, row_N)))

    loss(z).backward()
    p, eye = z.detach().softmax(-1), torch.eye(3, dtype=torch.float64)
    rows = []
    for i, (y, r) in enumerate([(0, 1), (2, 1)]):
        rows.append((p[i, y] * (eye[y] - p[i]) - p[i, r] * (eye[r] - p[i])) / 2)
    torch.testing.assert_close(z.grad, torch.stack(rows), rtol=1e-12, atol=1e-15)
    assert torch.autograd.gradcheck(loss, (z,))


def test_it_lies_between_zero_and_two(logit_side) -> None:
    z = torch.tensor([[90.0, 0.0, 0.0], [0.0, 90.0, 0.0]], dtype=torch.float64)
    one = torch.tensor([0])
    assert IHL().forget_loss(LossInputs(forget=logit_side(z[:1], one, one))).item() == pytest.approx(
        2.0
    )  # sure and true
    assert IHL().forget_loss(LossInputs(forget=logit_side(z[1:], one, one))).item() == pytest.approx(
        0.0
    )  # sure and other


def test_it_reads_the_forget_distributions_and_no_reference() -> None:
    needs = objective("IHL").needs
    assert needs.forget is Quantity.LOGITS and needs.forget_ref is None and needs.retain is Quantity.LOGPS


def test_the_loss_equals_the_authors(logit_side) -> None:
    case = cases("ihl")["loss"]
    tokens = torch.tensor(case["inputs"]["tokens"])
    side = logit_side(tensor(case["inputs"]["logits"]), tokens, torch.zeros_like(tokens))
    assert IHL().forget_loss(LossInputs(forget=side)).item() == pytest.approx(case["outputs"], rel=1e-12)
