from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require


@method(
    "KL",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2401.06121",
    reduction="token",
    retain_loss_type="KL",
    aliases=("kl",),
)
@strict
@dataclass(frozen=True, kw_only=True)
class KLMinimisation:
    """KL minimisation (TOFU, arXiv:2401.06121): ascend on forget, stay near the old model on retain.

    Loss: -gamma NLL_f + alpha KL(p_ref || p) on the retain rows, p_ref the model before unlearning. It is GradDiff with
    `retain_loss_type=KL` under the name that TOFU and ARC-SF users know. gamma = alpha = 1, as in both projects.

    Pitfalls: the forget term has no lower bound, while the KL starts at 0 with no gradient, so nothing holds the model
    in the first steps; stop early. The KL is averaged over the positions that predict an answer token, so
    `compat=openunlearning` is needed for the numbers of projects that count prompt and padding too.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=KL trainer.method_args.alpha=2
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """-NLL_f: the mean log-probability of the forget tokens."""
        return -require(view.forget, "forget").nll
