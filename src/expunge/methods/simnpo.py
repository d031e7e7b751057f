from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import F
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "SimNPO",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2410.07163",
    reduction="row",
    gamma=0.125,
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class SimNPO:
    """Simple negative preference optimisation (Fan et al. 2024, arXiv:2410.07163): NPO without a reference.

    Loss: -(2/beta) E[log sigmoid(beta (l - delta))]. l = -log p / n is the mean negative log-likelihood of an answer of
    n tokens. An answer that is already unlikely (l above delta) gets little weight. The paper's margin is beta * delta.
    As beta -> 0 the gradient is that of ascent on the mean over examples of the mean log-probability.

    Defaults: beta = 4.5, delta = 0, gamma = 0.125, alpha = 1, OpenUnlearning's settings for TOFU.

    Pitfalls: with beta = 4.5 the gradient falls as exp(-4.5 l). So answers reach about one nat per token and not much
    more; relearning is then fast. beta, delta and gamma interact: tune them together.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=SimNPO task_name=mine trainer.method_args.delta=1
    """

    beta: float = 4.5
    """Inverse temperature of the sigmoid. A larger beta stops at a smaller loss."""
    delta: float = 0.0
    """Margin in nats per token: answers with a mean NLL above it get little weight."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be a number > 0")
        if not 0 <= self.delta < float("inf"):
            raise ValueError("delta must be a number >= 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the SimNPO loss over the forget answers of the batch; a scalar."""
        now = require(view.forget, "forget")
        return simnpo(now.row_means(now.logps_N), beta=self.beta, delta=self.delta)


def simnpo(logp_B: Tensor, *, beta: float, delta: float) -> Tensor:
    """Compute (2/beta) E[softplus(beta (log p / n + delta))]; inputs are means over each answer's tokens, in nats."""
    return 2 / beta * F.softplus(beta * (logp_B + delta)).mean()
