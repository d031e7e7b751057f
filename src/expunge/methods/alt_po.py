from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, method
from expunge.methods.dpo import PAIRS, dpo, reward

if TYPE_CHECKING:
    from torch import Tensor


@method("AltPO", revision=1, needs=PAIRS, paper="arXiv:2409.13474", reduction="row", alpha=2.0, fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class AltPO:
    """Alternate preference optimisation (Mekala et al. 2024, arXiv:2409.13474): prefer plausible other answers.

    Loss, the same as DPO's: -(2/beta) E[log sigmoid(beta (r(alternate) - r(forget)))]. The alternate answers differ:
    the model itself generates several for each question. It samples them at temperature 1, with a prompt that requests
    another answer of the same kind. So the unlearned model answers in the right form instead of refusing.

    Defaults: beta = 0.1, alpha = 2, the best of another project's tuning on TOFU forget10 with a 1B model (learning
    rate 5e-5, 10 epochs). The grid was learning rate 1e-5, 2e-5, 5e-5; beta 0.05, 0.1, 0.5; alpha 1, 2, 5.

    Pitfalls: alternates that repeat the true fact teach it. Alternates far from the model's own style change the
    style. With refusals as alternates the method is DPO.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=AltPO task_name=mine trainer.method_args.alpha=5
    """

    ALTERNATES: ClassVar[str] = "generated"
    beta: float = 0.1
    """Sharpness of the preference. A larger beta lets the gradient vanish at a smaller difference of rewards."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be a number > 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute DPO's loss with the alternate answers preferred; a scalar."""
        return dpo(reward(view, "alternate"), reward(view, "forget"), beta=self.beta)
