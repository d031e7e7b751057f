from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "GradDiff",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2203.12817",
    reduction="token",
    aliases=("difference",),
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class GradDiff:
    """Gradient difference (Liu et al. 2022, arXiv:2203.12817): ascend on forget, descend on retain.

    Loss: -gamma NLL_f + alpha R. R is the retain loss: NLL (default), or KL to the model before unlearning
    (`retain_loss_type=KL`, the "KL minimisation" of TOFU, arXiv:2401.06121).

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=GradDiff task_name=x \
trainer.method_args.retain_loss_type=KL
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute -NLL_f, the mean log-probability of the forget tokens; a scalar."""
        return -require(view.forget, "forget").nll
