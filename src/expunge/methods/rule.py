from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, Rollouts, method
from expunge.methods.policy import check_beta, policy_loss, policy_needs, rollouts_of

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "RULE",
    revision=1,
    needs=Requirements(rollout=Quantity.LOGPS, rollout_sides=("forget", "retain")),
    paper="arXiv:2506.07171, with GRPO (arXiv:2402.03300)",
    reduction="row",
    alpha=0.0,
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class RULE:
    """Reinforcement unlearning (Zhang et al. 2025, arXiv:2506.07171): learn the boundary of refusal from rewards.

    At each step the model answers each forget question and each retain question of the step n times. The reward
    `refusal_boundary` is 1 for a refusal of a forget question; 1 for an answer to a retain question with a ROUGE-L
    recall above 0.5; else 0. Advantages are relative to the other texts of the question: A = (r - mean) / (std + 1e-4).
    Loss: -E over texts [mean_t ratio_t A - beta (e^d - d - 1)] + alpha NLL_r (GRPO, eq. 3 and 4). The ratio is 1 at the
    current weights, and d = log p_ref - log p.

    The reward is that of a public copy of the authors' code, with our own patterns of a refusal. Theirs match 37 of the
    package's 56 refusals, ours all. Their scripts use further forms: half of a retain reward is for no refusal, the
    other half for a recall above 0.3; half of a forget reward is for naming the target. beta is 0.01 there, and 0 here,
    because it holds a second model in memory. Our reading: the patterns, one reward of these two forms, and retain
    examples in the place of boundary questions. In the paper a second model writes these near the forget questions.
    Give such questions as retain rows.

    Pitfalls: a model that never refuses gets no reward on forget questions, and learns nothing there. The paper first
    fine-tunes on refusals: run IdkNLL, and RULE with its model. Generation makes a step several times as slow.

    Try: expunge unlearn benchmark=world model=llama-64k trainer=RULE task_name=x trainer.method_args.num_generations=4
    """

    num_generations: int = 8
    """Texts of each question at each step, 2 or more (TRL's name)."""
    max_completion_length: int = 64
    """The maximum number of tokens of a text (TRL's name)."""
    reward: str = "refusal_boundary"
    """The name of the reward: refusal_boundary, or one of a plugin, which reads `Rollout.side`."""
    beta: float = 0.0
    """Weight of the KL divergence from the model before unlearning (TRL's name). Above 0 a copy of it is held."""

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ValueError("num_generations must be at least 2: an advantage compares texts of one question")
        if self.max_completion_length < 1:
            raise ValueError("max_completion_length must be at least 1")
        check_beta(self.beta)

    @property
    def needs(self) -> Requirements:
        """Log-probabilities of the texts of both sides; with beta also those of the model before unlearning."""
        return policy_needs(self.beta, ("forget", "retain"))

    @property
    def rollouts(self) -> Rollouts:
        """The texts that a step samples."""
        return Rollouts(n=self.num_generations, max_new_tokens=self.max_completion_length, rewards={self.reward: 1.0})

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return the policy loss over the texts of both sides; a scalar."""
        texts, advantages_B = rollouts_of(view, self.num_generations)
        return policy_loss(texts, advantages_B, beta=self.beta, reference=view.rollout_ref)
