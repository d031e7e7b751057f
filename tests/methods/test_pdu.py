from __future__ import annotations

from typing import Any

import pytest
import torch

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, ScoredPositions, objective
from expunge.methods.pdu import PDU


def forget_side(logit_side, z: torch.Tensor):
    zeros = torch.zeros(len(z), dtype=torch.long)
    return logit_side(z, zeros, zeros)


def test_the_forget_loss_by_hand(logit_side) -> None:
    # logits (0, 3): max - mean = 1.5, squared 2.25; (1, 1): 0; mean 1.125. A shift changes nothing.
    z = torch.tensor([[0.0, 3.0], [1.0, 1.0]], dtype=torch.float64) + 5.0
    assert PDU().forget_loss(LossInputs(forget=forget_side(logit_side, z))).item() == pytest.approx(1.125, rel=1e-14)


def test_the_gradient_in_closed_form_and_by_differences(logit_side) -> None:
    # m = max - mean: d m^2 / d z_v = 2 m (1[v is the max] - 1/V), over N
    z = torch.tensor([[0.0, 3.0, 1.0], [2.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return PDU().forget_loss(LossInputs(forget=forget_side(logit_side, x)))

    loss(z).backward()
    margin = z.detach().amax(-1, keepdim=True) - z.detach().mean(-1, keepdim=True)
    top = torch.nn.functional.one_hot(z.detach().argmax(-1), 3)
    torch.testing.assert_close(z.grad, 2 * margin * (top - 1 / 3) / 2)
    assert torch.autograd.gradcheck(loss, (z,))


def test_flat_logits_are_the_minimum(logit_side) -> None:
    z = torch.full((2, 5), 3.0, dtype=torch.float64, requires_grad=True)
    loss = PDU().forget_loss(LossInputs(forget=forget_side(logit_side, z)))
    loss.backward()
    assert loss.item() == 0.0 and z.grad is not None and z.grad.abs().max().item() == 0.0


def duals(side, logit_side, retain: list[tuple[int, float]], **args: Any) -> list[float]:
    """The weight of the retain term at each of the steps (epoch, retain loss), read off the total."""
    loss_of_method = objective("PDU", {"retain_loss_eps": 1.0} | args)
    forget = forget_side(logit_side, torch.tensor([[0.0, 2.0]], dtype=torch.float64))  # loss 1
    memory: dict[str, Any] = {}
    read = []
    for epoch, loss in retain:
        memory["epoch"] = epoch
        total = loss_of_method(LossInputs(forget=forget, retain=side([[-loss]]), memory=memory)).total
        read.append((total.item() - 1.0) / (loss - 1.0))
    return read


def test_the_dual_variable_follows_the_violation_step_by_step(side, logit_side) -> None:
    # eps = 1, eta = 2, lambda: 1; + 2 * 0.5 = 2; + 2 * (-0.75) = 0.5; + 2 * (-0.75) -> 0; + 2 * 1 = 2
    steps = [(0, 1.5), (0, 0.25), (0, 0.25), (0, 2.0), (0, 1.5)]
    actual = duals(side, logit_side, steps, dual_step_size=2, dual_warmup_epochs=0)
    assert actual == pytest.approx([1.0, 2.0, 0.5, 0.0, 2.0])


def test_it_waits_for_the_warm_up(side, logit_side) -> None:
    steps = [(0, 2.0), (1, 2.0), (2, 2.0), (2, 2.0)]
    assert duals(side, logit_side, steps, dual_warmup_epochs=2) == pytest.approx([1.0, 1.0, 1.0, 2.0])


def test_by_epoch_it_moves_once_by_the_epochs_mean(side, logit_side) -> None:
    # epoch 0 (warm-up): no move. Epoch 1: mean of 2 and 4 is 3, so + (3 - 1) at its end. Epoch 2: 1.5, so + 0.5
    steps = [(0, 9.0), (1, 2.0), (1, 4.0), (2, 1.5), (3, 2.0)]
    actual = duals(side, logit_side, steps, dual_update_upon="epoch", dual_warmup_epochs=1)
    assert actual == pytest.approx([1.0, 1.0, 1.0, 3.0, 3.5])


def test_without_primal_dual_the_weight_is_alpha(side, logit_side) -> None:
    steps = [(0, 2.0), (0, 3.0)]
    assert duals(side, logit_side, steps, primal_dual=False, alpha=7) == pytest.approx([7.0, 7.0])


def test_a_look_without_gradients_is_no_step(side, logit_side) -> None:
    loss = objective("PDU", {"dual_warmup_epochs": 0})
    memory: dict[str, Any] = {"epoch": 0}
    forget = forget_side(logit_side, torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    with torch.no_grad():
        loss(LossInputs(forget=forget, retain=side([[-9.0]]), memory=memory))
    assert memory["dual"].item() == 1.0


def test_the_dual_variable_carries_no_gradient(side, logit_side) -> None:
    loss = objective("PDU", {"dual_warmup_epochs": 0})
    memory: dict[str, Any] = {"epoch": 0}
    forget = forget_side(logit_side, torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    logps = torch.tensor([-9.0], dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        loss(LossInputs(forget=forget, retain=side([logps]), memory=memory)).total.backward()
    assert not memory["dual"].requires_grad
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(-(1.0 + 9.7))  # lambda of both steps: 1, then 1 + (9 - 0.3)


def test_an_epoch_that_was_not_kept_is_an_error_of_the_caller(side, logit_side) -> None:
    forget = forget_side(logit_side, torch.zeros(1, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="'epoch'"):
        objective("PDU")(LossInputs(forget=forget, retain=side([[-1.0]])))


def test_a_dual_variable_that_starts_at_0_still_finds_its_bound(side, logit_side) -> None:
    # lambda 0 + 1 * (1 - 0.3) = 0.7 after the first step
    goal = objective("PDU", {"alpha": 0, "dual_warmup_epochs": 0})
    assert goal.needs.retain is Quantity.LOGPS
    forget, memory = forget_side(logit_side, torch.zeros(1, 2, dtype=torch.float64)), {"epoch": 0}
    totals = [goal(LossInputs(forget=forget, retain=side([[-1.0]]), memory=memory)).total.item() for _ in range(2)]
    assert totals == pytest.approx([0.0, 0.7 * 0.7], rel=1e-14)


def test_needs_and_ranges() -> None:
    assert objective("PDU").needs.forget_positions is ScoredPositions.ANSWER
    assert objective("PDU", {"compat": "openunlearning"}).needs.forget_positions is ScoredPositions.OWN
    for args in ({"retain_loss_eps": -1}, {"dual_step_size": 0}, {"dual_warmup_epochs": -1}):
        with pytest.raises(ConfigError, match="must be a number >"):
            objective("PDU", args)
    with pytest.raises(ConfigError, match=r"dual_update_upon: should be 'step' or 'epoch', got 'batch'"):
        objective("PDU", {"dual_update_upon": "batch"})
