"""Functions that losses over rollouts share: group-relative advantages and the policy loss (arXiv:2402.03300)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, SideOutputs
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor

LossType = Literal["grpo", "bnpo"]
STD_FLOOR = 1e-4  # TRL's constant: a group of equal rewards has advantage 0


def group_advantages(rewards_B: Tensor, n: int) -> Tensor:
    """Return the advantage of each rollout within its group: A = (r - mean) / (std + 1e-4), shape (B,).

    Outcome supervision of GRPO (section 4.1.2). The standard deviation has the divisor n - 1, as in TRL.

    Args:
        rewards_B: Rewards, the n rollouts of a prompt next to each other.
        n: Rollouts of a prompt, 2 or more.
    """
    groups = rewards_B.reshape(-1, n)
    centred = groups - groups.mean(dim=1, keepdim=True)
    return (centred / (groups.std(dim=1, keepdim=True) + STD_FLOOR)).reshape(-1)


def policy_loss(
    rollout: SideOutputs,
    advantages_B: Tensor,
    *,
    beta: float = 0.0,
    reference: SideOutputs | None = None,
    loss_type: LossType = "grpo",
) -> Tensor:
    """Compute the policy loss -mean_i mean_t ratio_t A_i over rollouts i and their tokens t; a scalar.

    GRPO (arXiv:2402.03300, eq. 3). The rollouts come from the weights of this step, so each ratio is 1 and clipping has
    no effect; the gradient is that of -mean_i mean_t A_i log p_t.

    Args:
        rollout: The texts.
        advantages_B: The advantage of each text.
        beta: The weight of the KL divergence from the reference, by the estimator of eq. 4: e^d - d - 1 at each token,
            with d = log p_ref - log p.
        reference: The reference on the same texts; required if beta is above 0.
        loss_type: "grpo" is the mean over texts of their token means, "bnpo" the mean over all tokens (TRL's names).
    """
    logps_N = rollout.logps_N
    ratio_N = torch.exp(logps_N - logps_N.detach())
    loss_N = -ratio_N * advantages_B.to(logps_N)[rollout.row_N]
    if beta:
        d_N = require(reference, "rollout_ref").logps_N.detach() - logps_N
        loss_N = loss_N + beta * (torch.exp(d_N) - d_N - 1)
    return loss_N.mean() if loss_type == "bnpo" else rollout.row_means(loss_N).mean()


def check_beta(beta: float) -> None:
    """Raise ValueError for a weight that is no finite number >= 0."""
    if not 0 <= beta < float("inf"):
        raise ValueError("beta must be a number >= 0")


def policy_needs(beta: float, sides: tuple[str, ...] = ("forget",)) -> Requirements:
    """Return the requirements of a policy loss over the texts of these sides; with beta also of their reference."""
    return Requirements(rollout=Quantity.LOGPS, rollout_ref=Quantity.LOGPS if beta else None, rollout_sides=sides)


def rollouts_of(view: LossInputs, n: int) -> tuple[SideOutputs, Tensor]:
    """Return the rollouts of a step and their advantages. Raises ValueError if there are none."""
    if view.rewards_B is None:
        raise ValueError("this loss reads the rewards of rollouts, which were not provided")
    return require(view.rollout, "rollout"), group_advantages(view.rewards_B, n)
