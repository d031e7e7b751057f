from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "GradAscent",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2210.01504",
    reduction="token",
    retain_loss_type=None,
    aliases=("ascent",),
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class GradAscent:
    """Gradient ascent (Jang et al. 2022, arXiv:2210.01504): increase the loss of the forget answers.

    Loss: -NLL_f, the negated token-mean negative log-likelihood of the forget answers. It has no lower bound and no
    retain term, so the model collapses in the end. Stop early, and compare utility with forgetting.

    Try: expunge run study=quickstart
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute -NLL_f, the mean log-probability of the forget tokens; a scalar."""
        return -require(view.forget, "forget").nll
