"""Sides whose numbers are computed when they are read."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from expunge.methods import SideOutputs


def test_a_field_given_as_a_function_is_computed_once_and_when_read() -> None:
    calls: list[int] = []

    def logps() -> Tensor:
        calls.append(1)
        return torch.tensor([-1.0, -2.0])

    side = SideOutputs(logps, torch.tensor([0, 0]), 1)  # type: ignore[arg-type]
    assert not calls
    assert side.nll.item() == 1.5 and side.logps_N.tolist() == [-1.0, -2.0]
    assert calls == [1]


def test_a_first_read_without_gradients_does_not_lose_them() -> None:
    x = torch.tensor([-1.0], requires_grad=True)
    side = SideOutputs(lambda: 2 * x, torch.tensor([0]), 1)  # type: ignore[arg-type]
    with torch.no_grad():
        assert side.logps_N.item() == -2.0
    assert side.logps_N.requires_grad
    with torch.no_grad():
        fixed = SideOutputs(lambda: 2 * x, torch.tensor([0]), 1)  # type: ignore[arg-type]
    assert not fixed.logps_N.requires_grad


def test_a_side_stays_frozen_and_can_be_replaced() -> None:
    side = SideOutputs(torch.zeros(1), torch.tensor([0]), 1, logits_NV=torch.zeros(1, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        side.logits_NV = None  # type: ignore[misc]
    other = dataclasses.replace(side, logits_NV=torch.ones(1, 3))
    assert other.per_token(lambda z: z.sum(-1)).tolist() == [3.0]
    assert side.per_token(lambda z: z.sum(-1)).tolist() == [0.0]
    assert other.vocabulary == 3


def test_what_stands_beside_is_constant() -> None:
    z, ref, c = (torch.randn(2, 3, requires_grad=True) for _ in range(3))
    row_N = torch.tensor([0, 0])
    now, old = (SideOutputs(torch.zeros(2), row_N, 1, logits_NV=x) for x in (z, ref))
    now.per_token(lambda a, b, w: (a * b * w).sum(-1), old, c).sum().backward()
    torch.testing.assert_close(z.grad, (ref * c).detach())
    assert ref.grad is None and c.grad is None


def test_logits_that_were_not_served_are_missed() -> None:
    side = SideOutputs(torch.zeros(1), torch.tensor([0]), 1)
    with pytest.raises(ValueError, match="logits, which were not provided"):
        side.per_token(lambda z: z.sum(-1))
    with pytest.raises(ValueError, match="logits, which were not provided"):
        side.vocabulary  # noqa: B018
