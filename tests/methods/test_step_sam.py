from __future__ import annotations

import pytest
import torch
from toy_ask import Toy, fixed, vector

from expunge.methods.grad_transforms.sam import SAM


def bowls() -> Toy:
    """forget = |w|^2 / 2 at w = (3, 4); retain = |w - (1, 1)|^2 / 2."""
    return Toy([vector(3.0), vector(4.0)], lambda p: (p[0] ** 2 + p[1] ** 2).sum() / 2, retain)


def retain(p):
    return ((p[0] - 1) ** 2 + (p[1] - 1) ** 2).sum() / 2


def flat(gradient) -> list[float]:
    return torch.cat(gradient).tolist()


def test_forget_is_read_at_the_worst_point_and_retain_here() -> None:
    # g_f = (3, 4), norm 5 over both tensors; rho = 1/2 moves to (3.3, 4.4). g = (3.3, 4.4) + (2, 3)
    toy = bowls()
    actual = SAM(rho=0.5)(toy, toy.params, {})
    assert flat(actual) == pytest.approx([5.3, 7.4], rel=1e-14)
    assert toy.asked == ["forget", "retain", "forget"]


def test_at_total_both_are_read_at_the_worst_point() -> None:
    toy = bowls()
    assert flat(SAM(rho=0.5, at="total")(toy, toy.params, {})) == pytest.approx([3.3 + 2.3, 4.4 + 3.4], rel=1e-14)
    assert toy.asked == ["forget", "total"]


def test_without_a_retain_term_it_is_the_forget_gradient_there() -> None:
    toy = Toy([vector(3.0), vector(4.0)], lambda p: (p[0] ** 2 + p[1] ** 2).sum() / 2)
    assert flat(SAM(rho=0.5)(toy, toy.params, {})) == pytest.approx([3.3, 4.4], rel=1e-14)


@pytest.mark.parametrize("at", ["forget", "total"])
def test_the_parameters_come_back_bit_equal(at) -> None:
    toy = Toy([torch.tensor([0.1, 1e7, -3e-20])], lambda p: (p[0] ** 3).sum(), lambda p: p[0].sum())
    before = [p.detach().clone() for p in toy.params]
    SAM(rho=0.37, at=at)(toy, toy.params, {})
    assert all(torch.equal(p, b) for p, b in zip(toy.params, before, strict=True))


def test_a_zero_forget_gradient_moves_nothing() -> None:
    toy = fixed([vector(0.0, 0.0)], [vector(1.0, -2.0)])
    assert flat(SAM(rho=1.0)(toy, toy.params, {})) == [1.0, -2.0]


def test_a_vanishing_rho_is_the_plain_gradient() -> None:
    toy = bowls()
    assert flat(SAM(rho=1e-12)(toy, toy.params, {})) == pytest.approx([3 + 2, 4 + 3], rel=1e-11)
