from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, method
from expunge.methods.dpo import PAIRS, dpo, reward


@method("AltPO", revision=1, needs=PAIRS, paper="arXiv:2409.13474", reduction="row", alpha=2.0)
@strict
@dataclass(frozen=True, kw_only=True)
class AltPO:
    """Alternate preference optimisation (Mekala et al. 2024, arXiv:2409.13474): prefer plausible other answers.

    The loss is DPO's, -(2/beta) E[log sigmoid(beta (r(alternate) - r(forget)))]; what differs is the alternate answers:
    several per question, made up by the model itself (sampled at temperature 1 with a prompt that asks for another
    answer of the same kind), so that the unlearned model answers in the right form instead of refusing.

    beta = 0.1, alpha = 2 were the best of a tuning by others on TOFU forget10 with a 1B model (lr 5e-5, 10 epochs); the
    searched grid was lr 1e-5, 2e-5, 5e-5; beta 0.05, 0.1, 0.5; alpha 1, 2, 5.

    Pitfalls: alternates that repeat the true fact teach it; alternates far from the model's own style are learnt as
    style. With refusals as alternates it is DPO.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=AltPO trainer.method_args.alpha=5
    """

    ALTERNATES: ClassVar[str] = "generated"
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be a number > 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """DPO's loss with the alternates preferred."""
        return dpo(reward(view, "alternate"), reward(view, "forget"), beta=self.beta)
