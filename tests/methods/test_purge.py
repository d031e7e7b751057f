"""The policy loss of rollouts: advantages, loss and gradient by hand, and against TRL's trainer."""

from __future__ import annotations

import math

import pytest
import torch
from key_value_toy import cases

from expunge.core.errors import ConfigError
from expunge.methods import LossInputs, Quantity, Requirements, objective
from expunge.methods.api import method
from expunge.methods.policy import group_advantages, policy_loss
from expunge.methods.purge import PURGE
from expunge.training.rewards import Rollout, find_reward


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_advantages_by_hand() -> None:
    # groups (1, 0) and (4, 2): means 1/2 and 3, deviations 1/2 and 1; std with divisor 1: 1/sqrt(2) and sqrt(2)
    expected = [0.5 / (math.sqrt(0.5) + 1e-4), 1 / (math.sqrt(2) + 1e-4)]
    actual = group_advantages(tensor(1.0, 0.0, 4.0, 2.0), 2).tolist()
    assert actual == pytest.approx([expected[0], -expected[0], expected[1], -expected[1]], rel=1e-14)


def test_advantages_ignore_a_constant_and_equal_rewards_have_none() -> None:
    rewards = tensor(1.0, 0.0, 0.5, 0.25, 0.0, 1.0)
    torch.testing.assert_close(group_advantages(rewards + 7, 3), group_advantages(rewards, 3), rtol=1e-12, atol=1e-12)
    assert group_advantages(tensor(0.3, 0.3, 0.3), 3).abs().max() < 1e-12


def test_the_loss_and_its_gradient_by_hand(side) -> None:
    # two rollouts of 2 and 1 tokens with advantages A and -A: the ratios are 1, so the loss is -(A - A) / 2 = 0, and
    # d/d log p_it = -A_i / (2 |o_i|): -A/4 for both tokens of the first, +A/2 for the token of the second
    logps = [tensor(-1.0, -2.0).requires_grad_(), tensor(-3.0).requires_grad_()]
    view = LossInputs(rollout=side(logps), rewards_B=tensor(1.0, 0.0))
    loss = PURGE(num_generations=2).forget_loss(view)
    loss.backward()
    A = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert loss.item() == pytest.approx(0.0, abs=1e-15)
    assert logps[0].grad.tolist() == pytest.approx([-A / 4, -A / 4], rel=1e-14)
    assert logps[1].grad.tolist() == pytest.approx([A / 2], rel=1e-14)


@pytest.mark.parametrize("case", ["loss", "kl"])
def test_loss_and_gradient_equal_those_of_trl(side, case: str) -> None:
    """kl: with the settings of PURGE's authors."""
    measured = cases("grpo")[case]
    inputs, outputs = measured["inputs"], measured["outputs"]
    lengths = [int(sum(mask)) for mask in inputs["mask"]]
    rows = [tensor(*logps[:n]).requires_grad_() for logps, n in zip(inputs["logps"], lengths, strict=True)]
    settings = {}
    if case == "kl":
        before = [tensor(*logps[:n]) for logps, n in zip(inputs["reference"], lengths, strict=True)]
        settings = {"beta": inputs["beta"], "reference": side(before), "loss_type": inputs["loss_type"]}
    loss = policy_loss(side(rows), tensor(*inputs["advantages"]), **settings)
    loss.backward()
    assert loss.item() == pytest.approx(outputs["loss"], rel=1e-12)
    for row, gradient, n in zip(rows, outputs["gradient"], lengths, strict=True):
        assert row.grad is not None
        assert row.grad.tolist() == pytest.approx(gradient[:n], rel=1e-12)


def test_settings_become_rollouts() -> None:
    loss = objective("PURGE", {"rewards": ["no_answer", "rouge"], "reward_weights": [1.0, -0.5], "num_generations": 4})
    plan = loss.method.rollouts
    assert (plan.n, plan.max_new_tokens, plan.temperature) == (4, 64, 1.0)
    assert plan.rewards == {"no_answer": 1.0, "rouge": -0.5}
    assert loss.forgets and loss.means["forget"].side == "forget" and loss.means["forget"].reduction == "row"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"num_generations": 1}, "num_generations: must be at least 2"),
        ({"max_completion_length": 0}, "max_completion_length: must be at least 1"),
        ({"rewards": []}, "rewards: must name different rewards"),
        ({"reward_weights": [1.0, 2.0]}, "reward_weights: must have one number for each"),
        ({"beta": -1}, "beta: must be a number >= 0"),
        ({"forbidden": ["Oslo"]}, "forbidden: must have terms if and only if rewards has no_forbidden"),
        ({"rewards": ["no_forbidden"], "forbidden": [" "]}, "forbidden: must be a list of texts that are not empty"),
    ],
)
def test_wrong_settings(args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^trainer.method_args.{message}"):
        objective("PURGE", args)


def test_a_method_on_rollouts_declares_them() -> None:
    with pytest.raises(ConfigError, match="method Bare: rollouts need a property `rollouts`"):
        method("Bare", revision=1, needs=Requirements(rollout=Quantity.LOGPS), paper="none", reduction="row")(
            type("Bare", (), {"__dataclass_fields__": {}})
        )


def test_the_kl_term_and_its_gradient_by_hand(side) -> None:
    # one text of two tokens with advantage 0 in a group of equal rewards: the loss is beta mean(e^d - d - 1) with
    # d = log p_ref - log p = (1, 0), so beta (e - 2) / 2 for each text; d/d log p = beta (1 - e^d) / 4
    logps = [tensor(-2.0, -1.0).requires_grad_(), tensor(-2.0, -1.0).requires_grad_()]
    view = LossInputs(rollout=side(logps), rollout_ref=side([tensor(-1.0, -1.0)] * 2), rewards_B=tensor(1.0, 1.0))
    loss = PURGE(num_generations=2, beta=0.5).forget_loss(view)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (math.e - 2) / 2, rel=1e-14)
    assert logps[0].grad.tolist() == pytest.approx([0.5 * (1 - math.e) / 4, 0.0], rel=1e-14)


def test_the_reward_equals_the_authors() -> None:
    measured = cases("purge")["reward"]
    terms = tuple(measured["inputs"]["forbidden"])
    texts = [Rollout("?", "x", text, 1, True, forbidden=terms) for text in measured["inputs"]["texts"]]
    assert find_reward("no_forbidden").compute(texts) == measured["outputs"]
    assert {0.0, 1.0} == set(measured["outputs"])


def test_the_kl_term_needs_a_reference() -> None:
    assert objective("PURGE").needs.rollout_ref is None
    for name in ("PURGE", "RULE"):
        assert objective(name, {"beta": 0.04}).needs.rollout_ref is Quantity.LOGPS
    assert objective("PURGE", {"loss_type": "bnpo"}).means["forget"].reduction == "micro_batch"
