from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "SemEvalGA",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="a participant's pipeline in SemEval-2025 task 4",
    reduction="row",
    gamma=0.5,
    alpha=1.0,
    retain_loss_type="KL",
    aliases=("iterative",),
)
@strict
@dataclass(frozen=True, kw_only=True)
class SemEvalGA:
    """Ascent on answers, KL to the old model, and optionally the retain answers: three weighted terms.

    Loss: 0.5 F + 1.0 KL(p_ref || p) on the retain examples ("normal" loss) + nll_weight NLL_r. F is the negated
    negative log-likelihood: the mean over an answer's tokens, then over examples. So long answers weigh no more than
    short ones.

    Defaults: gamma = 0.5, alpha = 1 and nll_weight = 0, the weights of a SemEval-2025 task 4 participant. The
    participant's script averaged the KL over prompt and padding. It also aligned the answer's weights with inputs
    instead of predictions, so it never trained the first answer token. Neither is repeated here.

    Pitfalls: F has no lower bound, and the guard of the original never triggered. Monitor the retain loss, keep the
    best checkpoint, and bound the run by time or steps.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=SemEvalGA task_name=x \
trainer.method_args.nll_weight=0.5
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean over examples of each answer's mean log-probability; a scalar."""
        side = require(view.forget, "forget")
        return side.row_means(side.logps_N).mean()
