from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, Rollouts, method
from expunge.methods.policy import LossType, check_beta, policy_loss, policy_needs, rollouts_of
from expunge.methods.reduction import Reduction

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "PURGE",
    revision=1,
    needs=Requirements(rollout=Quantity.LOGPS),
    paper="arXiv:2601.20568, with GRPO (arXiv:2402.03300)",
    reduction="row",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class PURGE:
    """Policy unlearning (Zaradoukas et al. 2026, arXiv:2601.20568): sample answers, and prefer those without the fact.

    At each step the model itself answers each forget question n times. A rollout's reward is the weighted sum of
    `rewards`; by default 1 if the content of the true answer is absent, else 0. Its advantage is relative to the other
    rollouts of the question: A = (r - mean) / (std + 1e-4).
    Loss: -E over rollouts [mean_t ratio_t A - beta (e^d - d - 1)] (GRPO, arXiv:2402.03300, eq. 3 and 4). The ratio is 1
    at the current weights, and d = log p_ref - log p.

    Reward and loss equal the authors' code: `rewards=[no_forbidden]` with a target's terms in `forbidden`, and, by TRL
    0.18.1, beta=0.04, loss_type=bnpo and num_generations=4, without a retain term (alpha=0). The defaults are ours.
    They need no list of terms, and the retain term has the place of the KL term, which holds a second model in memory.

    Pitfalls: equal rewards of all n rollouts give no gradient, so a model that never, or always, gives the answer does
    not change. Generation makes a step several times as slow.

    Try: expunge unlearn benchmark=world model=llama-64k trainer=PURGE task_name=x trainer.method_args.num_generations=4
    """

    num_generations: int = 8
    """Rollouts of each question at each step, 2 or more (TRL's name)."""
    max_completion_length: int = 64
    """The maximum number of tokens of a rollout (TRL's name)."""
    rewards: tuple[str, ...] = ("no_answer",)
    """Names of the rewards: no_answer, no_forbidden, refusal, rouge, length, or one of a plugin."""
    reward_weights: tuple[float, ...] = ()
    """The weight of each reward, in the same order. Empty: 1 each. A negative weight is a penalty."""
    forbidden: tuple[str, ...] = ()
    """Terms of the reward no_forbidden: names, titles and other words that a text must not have."""
    beta: float = 0.0
    """Weight of the KL divergence from the model before unlearning (TRL's name). Above 0 a copy of it is held."""
    loss_type: LossType = "grpo"
    """grpo: the mean over texts of their token means. bnpo: the mean over all tokens of a micro-batch (TRL's names)."""

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ValueError("num_generations must be at least 2: an advantage compares rollouts of one question")
        if self.max_completion_length < 1:
            raise ValueError("max_completion_length must be at least 1")
        if not self.rewards or len(set(self.rewards)) < len(self.rewards):
            raise ValueError("rewards must name different rewards, at least one")
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise ValueError("reward_weights must have one number for each of rewards")
        if any(not term.strip() for term in self.forbidden):
            raise ValueError("forbidden must be a list of texts that are not empty")
        if bool(self.forbidden) != ("no_forbidden" in self.rewards):
            raise ValueError("forbidden must have terms if and only if rewards has no_forbidden, which reads them")
        check_beta(self.beta)

    @property
    def needs(self) -> Requirements:
        """Log-probabilities of the texts; with beta also those of the model before unlearning."""
        return policy_needs(self.beta)

    @property
    def reduction(self) -> Reduction:
        """The mean over texts, or over the tokens of each micro-batch."""
        return "micro_batch" if self.loss_type == "bnpo" else "row"

    @property
    def rollouts(self) -> Rollouts:
        """The texts that a step samples."""
        weights = self.reward_weights or (1.0,) * len(self.rewards)
        return Rollouts(
            n=self.num_generations,
            max_new_tokens=self.max_completion_length,
            rewards=dict(zip(self.rewards, weights, strict=True)),
            forbidden=self.forbidden,
        )

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Return the policy loss over the rollouts of the forget questions; a scalar."""
        texts, advantages_B = rollouts_of(view, self.num_generations)
        return policy_loss(texts, advantages_B, beta=self.beta, reference=view.rollout_ref, loss_type=self.loss_type)
