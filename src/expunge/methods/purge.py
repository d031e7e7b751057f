from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, Rollouts, method
from expunge.methods.policy import policy_loss, rollouts_of

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "PURGE",
    revision=1,
    needs=Requirements(rollout=Quantity.LOGPS),
    paper="arXiv:2601.20568, with GRPO (arXiv:2402.03300)",
    reduction="row",
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class PURGE:
    """Policy unlearning (Zaradoukas et al. 2026, arXiv:2601.20568): sample answers, and prefer those without the fact.

    At each step the model itself answers each forget question n times. A rollout's reward is the weighted sum of
    `rewards`; by default 1 if the content of the true answer is absent, else 0. Its advantage is relative to the other
    rollouts of the question: A = (r - mean) / (std + 1e-4).
    Loss: -E over rollouts [mean_t ratio_t A], with ratio 1 at the current weights (GRPO, arXiv:2402.03300, eq. 3).

    The authors list forbidden terms for a target, and their reward `binary` is 1 for a text without any of them; here
    the true answer has their place. They train by TRL's GRPOTrainer, whose policy loss this one equals. GRPO's KL term
    is left out: the retain term has its place. Equal rewards of all n rollouts give no gradient, so a model that never,
    or always, gives the answer does not change. Generation makes a step several times as slow.

    Try: expunge unlearn benchmark=world model=llama-64k trainer=PURGE task_name=x trainer.method_args.num_generations=4
    """

    num_generations: int = 8
    """Rollouts of each question at each step, 2 or more (TRL's name)."""
    max_completion_length: int = 64
    """The maximum number of tokens of a rollout (TRL's name)."""
    rewards: tuple[str, ...] = ("no_answer",)
    """Names of the rewards: no_answer, refusal, rouge, length, or one of a plugin."""
    reward_weights: tuple[float, ...] = ()
    """The weight of each reward, in the same order. Empty: 1 each. A negative weight is a penalty."""

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ValueError("num_generations must be at least 2: an advantage compares rollouts of one question")
        if self.max_completion_length < 1:
            raise ValueError("max_completion_length must be at least 1")
        if not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ValueError("rewards must name different rewards, at least one")
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise ValueError("reward_weights must have one number for each of rewards")

    @property
    def rollouts(self) -> Rollouts:
        """The texts that a step samples."""
        weights = self.reward_weights or (1.0,) * len(self.rewards)
        return Rollouts(
            n=self.num_generations,
            max_new_tokens=self.max_completion_length,
            rewards=dict(zip(self.rewards, weights, strict=True)),
        )

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return the policy loss over the rollouts of the forget questions; a scalar."""
        return policy_loss(*rollouts_of(view, self.num_generations))
