from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.on_use import F
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.reduction import Reduction
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "NPO",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS, forget_ref=Quantity.LOGPS),
    paper="arXiv:2404.05868",
    reduction="row",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class NPO:
    """Negative preference optimisation (Zhang et al. 2024, arXiv:2404.05868, eq. 3).

    Loss: -(2/beta) E[log sigmoid(-beta log(p / p_ref))]. p is the probability of a whole forget answer (a sum of log p,
    not length-normalised); p_ref is that of the model before unlearning. The loss is bounded below by 0. As beta -> 0
    its gradient is that of gradient ascent on summed log-probabilities. The reference is computed once per example.

    `level=token` reads p and p_ref of each answer token and averages over the tokens of the batch. Then each token
    saturates separately, and long answers count by their length (a form used in SemEval-2025 task 4).

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=mine trainer.method_args.beta=0.1
    """

    beta: float = 0.1
    """Inverse temperature. A larger beta stops the ascent earlier; beta -> 0 is gradient ascent."""
    level: Literal["sequence", "token"] = "sequence"
    """Unit of the loss: a whole answer (the paper's form) or each answer token."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be a number > 0")

    @property
    def reduction(self) -> Reduction:
        """The mean over answers, or over tokens."""
        return "row" if self.level == "sequence" else "token"

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the NPO loss over the forget answers, or over their tokens; a scalar."""
        now, ref = require(view.forget, "forget"), require(view.forget_ref, "forget_ref")
        if self.level == "token":
            return npo(now.logps_N, ref.logps_N, beta=self.beta)
        return npo(now.row_sums(now.logps_N), ref.row_sums(ref.logps_N), beta=self.beta)


def npo(logp: Tensor, logp_ref: Tensor, *, beta: float) -> Tensor:
    """Compute (2/beta) E[softplus(beta (log p - log p_ref))] of inputs in nats, one per answer (sums) or per token."""
    return 2 / beta * F.softplus(beta * (logp - logp_ref)).mean()
