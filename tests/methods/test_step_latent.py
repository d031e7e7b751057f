from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toy_ask import vector

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.methods.grad_transforms import Perturbation, Which
from expunge.methods.grad_transforms.latent import Latent, project


class Layered:
    """h = w * x for two rows of one position with two dimensions; forget = sum(c * (h + delta)) + |h + delta|^2 / 2."""

    def __init__(self, curved: float = 0.0) -> None:
        self.w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        self.x = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
        self.c = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]], dtype=torch.float64)  # the second row does not count
        self.curved = curved
        self.deltas: list[Tensor | None] = []

    def __call__(self, which: Which, *, nudge: Perturbation | None = None, inner: bool = False) -> list[Tensor]:
        if which == "retain":
            assert nudge is None
            return [torch.autograd.grad(self.w**2, self.w)[0]]
        assert nudge is not None and nudge.layer == "middle"
        if inner:
            self.deltas.append(nudge.delta)
        delta = torch.zeros_like(self.x) if nudge.delta is None else nudge.delta.detach().clone()
        h = self.w * self.x + delta.requires_grad_(inner)
        loss = (self.c * h).sum() + self.curved * (h[0] ** 2).sum() / 2
        return [torch.autograd.grad(loss, delta if inner else self.w)[0]]


def run(rule: Latent, toy: Layered) -> tuple[list[Tensor], list[Any]]:
    return rule(toy, [toy.w], {}), toy.deltas


def test_the_perturbation_climbs_along_each_positions_gradient() -> None:
    # c = (3, 4) has norm 5; two steps of 1/2 reach (0.6, 0.8), of norm 1 = eps. The other position stays at 0.
    _, deltas = run(Latent(layer="middle", eps=1.0, inner_steps=3, step_size=0.5), Layered())
    assert deltas[0] is None
    torch.testing.assert_close(deltas[1][0, 0], vector(0.3, 0.4))
    torch.testing.assert_close(deltas[2][0, 0], vector(0.6, 0.8))
    assert deltas[2][1].abs().max() == 0


def test_the_gradient_is_taken_under_the_perturbation_and_retain_without() -> None:
    # One step of size 1: d/d delta = c + h = (3 + 2, 4) = (5, 4), so delta = (5, 4) / sqrt(41).
    # d forget / d w = c.x + (h + delta).x over row 0 = 3 + 2 + 5 / sqrt(41); d retain / d w = 2 w = 4
    actual, _ = run(Latent(layer="middle", eps=1.0, inner_steps=1, step_size=1.0), Layered(curved=1.0))
    assert actual[0].item() == pytest.approx(3 + 2 + 5 / 41**0.5 + 4, rel=1e-14)


def test_the_ball_holds_the_perturbation() -> None:
    _, deltas = run(Latent(layer="middle", eps=0.25, inner_steps=4, step_size=100.0), Layered())
    for delta in deltas[1:]:
        assert delta[0, 0].norm().item() == pytest.approx(0.25, rel=1e-12)


def test_the_step_size_of_its_own_is_two_eps_over_the_steps() -> None:
    _, deltas = run(Latent(layer="middle", eps=8.0, inner_steps=4), Layered())
    assert deltas[1][0, 0].norm().item() == pytest.approx(4.0)


def test_projection_by_hand() -> None:
    result = project(torch.stack([vector(3.0, 4.0), vector(0.3, 0.4), vector(0.0, 0.0)]), 1.0)
    torch.testing.assert_close(result, torch.stack([vector(0.6, 0.8), vector(0.3, 0.4), vector(0.0, 0.0)]))


@pytest.mark.parametrize("keys", [{"eps": 0}, {"inner_steps": 0}, {"step_size": -1}])
def test_settings_are_checked(keys) -> None:
    with pytest.raises(ConfigError, match=rf"^grad_transform_args\.{next(iter(keys))}: must be "):
        decode(Latent, {"layer": "middle", **keys}, where="grad_transform_args")
