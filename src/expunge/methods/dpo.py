from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import F
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = Requirements(
    forget=Quantity.LOGPS, forget_ref=Quantity.LOGPS, alternate=Quantity.LOGPS, alternate_ref=Quantity.LOGPS
)


@method("DPO", revision=1, needs=PAIRS, paper="arXiv:2305.18290", reduction="row", aliases=("IdkDPO",), fidelity="code")
@strict
@dataclass(frozen=True, kw_only=True)
class DPO:
    """Direct preference optimisation for forgetting (arXiv:2305.18290; for TOFU in arXiv:2404.05868).

    The loss prefers the alternate answer (a refusal, or any other text) to the answer to forget. With
    r(y) = log p(y) - log p_ref(y), summed over the answer's tokens:
    Loss: -(2/beta) E[log sigmoid(beta (r(alternate) - r(forget)))]. The factor 2/beta, also NPO's, keeps the size of
    the gradient as beta shrinks; the DPO paper has the factor 1.

    Defaults: beta = 0.1, gamma = alpha = 1, OpenUnlearning's settings.

    Pitfalls: only the difference of the two rewards counts, so both answers may become less likely. Row i of the
    alternate side belongs to row i of the forget side. The loss reads reference log-probabilities of both sides, which
    are computed once for each example.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=DPO task_name=mine trainer.method_args.beta=0.1
    """

    beta: float = 0.1
    """Sharpness of the preference. A larger beta lets the gradient vanish at a smaller difference of rewards."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be a number > 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the DPO loss over the pairs of the batch; a scalar."""
        return dpo(reward(view, "alternate"), reward(view, "forget"), beta=self.beta)


def reward(view: LossInputs, side: str) -> Tensor:
    """Return log p - log p_ref of each whole answer of a side, shape (B,), in nats."""
    now, ref = require(getattr(view, side), side), require(getattr(view, f"{side}_ref"), f"{side}_ref")
    return now.row_sums(now.logps_N) - ref.row_sums(ref.logps_N)


def dpo(preferred_B: Tensor, rejected_B: Tensor, *, beta: float) -> Tensor:
    """Compute (2/beta) E[softplus(-beta (preferred - rejected))] of rewards in nats; a scalar."""
    return 2 / beta * F.softplus(beta * (rejected_B - preferred_B)).mean()
