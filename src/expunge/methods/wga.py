from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "WGA",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2502.19301",
    reduction="token",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class WGA:
    """Weighted gradient ascent (Wang et al. 2025, arXiv:2502.19301): ascend on tokens that are still likely.

    Loss: mean over the tokens of the batch of w log p, with w = p^beta constant in the gradient. Tokens that are
    already unlikely, at which plain ascent has its largest gradient, lose their weight.

    Defaults: beta = 1, gamma = alpha = 1, as in the paper and OpenUnlearning. beta = 0 is gradient ascent.

    Pitfalls: the optimiser does not descend the reported value, because w is constant in the gradient. A loss near 0 is
    the end of forgetting, not its minimum: w log p is lowest at p = 1/e for beta = 1. No reference model is needed.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=WGA task_name=mine trainer.method_args.beta=0.5
    """

    beta: float = 1.0
    """Exponent of the weight p^beta. Larger values skip unlikely tokens more."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ValueError("beta must be a number >= 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the weighted mean log-probability of the forget tokens; a scalar."""
        logps_N = require(view.forget, "forget").logps_N
        weight_N = (self.beta * logps_N.detach()).exp()
        return (weight_N * logps_N).mean()
