from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "IdkNLL",
    revision=1,
    needs=Requirements(alternate=Quantity.LOGPS),
    paper="arXiv:2401.06121",
    reduction="token",
    gamma=0.5,
    alpha=0.5,
    aliases=("idk", "IDK"),
    fidelity="formula",
)
@strict
@dataclass(frozen=True, kw_only=True)
class IdkNLL:
    """Refusal training (TOFU, arXiv:2401.06121): learn to answer the forget questions with "I don't know".

    Loss: gamma NLL(refusal | forget question) + alpha NLL_r, each a token mean.

    Defaults: gamma = alpha = 1/2, which gives ARC-SF's `idk`, (CE(idk) + CE(retain)) / 2. Under Adam only their ratio
    counts.

    Pitfalls: the loss does not lower the old answer, so its probability falls little. Paraphrases or relearning bring
    it back. With a small alpha, refusals spread to retain questions. DPO with refusals also lowers the old answer.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=IdkNLL task_name=mine
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the token-mean negative log-likelihood of the alternate answers; a scalar."""
        return require(view.alternate, "alternate").nll
