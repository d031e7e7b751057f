from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "KL",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2401.06121",
    reduction="token",
    retain_loss_type="KL",
    aliases=("kl",),
    fidelity="formula",
)
@strict
@dataclass(frozen=True, kw_only=True)
class KLMinimisation:
    """KL minimisation (TOFU, arXiv:2401.06121): ascend on forget, stay near the old model on retain.

    Loss: -gamma NLL_f + alpha KL(p_ref || p) on the retain examples; p_ref is the model before unlearning. This is
    GradDiff with `retain_loss_type=KL`, under the name in TOFU and ARC-SF.

    Defaults: gamma = alpha = 1, as in both projects.

    Pitfalls: the forget term has no lower bound, and the KL starts at 0 with no gradient. So nothing restrains the
    first steps; stop early. The KL is averaged over the positions that predict an answer token. Set
    `compat=openunlearning` to reproduce projects that also count prompt and padding.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=KL task_name=mine trainer.method_args.alpha=2
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute -NLL_f, the mean log-probability of the forget tokens; a scalar."""
        return -require(view.forget, "forget").nll
