from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require


@method(
    "IdkNLL",
    revision=1,
    needs=Requirements(alternate=Quantity.LOGPS),
    paper="arXiv:2401.06121",
    reduction="token",
    gamma=0.5,
    alpha=0.5,
    aliases=("idk", "IDK"),
)
@strict
@dataclass(frozen=True, kw_only=True)
class IdkNLL:
    """Refusal training (TOFU, arXiv:2401.06121): learn to answer the forget questions with "I don't know".

    Loss: gamma NLL(refusal | forget question) + alpha NLL_r, each a token mean. gamma = alpha = 1/2 gives ARC-SF's
    `idk`, (CE(idk) + CE(retain)) / 2; under Adam only their ratio counts.

    Pitfalls: the old answer is never pushed down, so its probability falls little and it comes back by paraphrase or
    relearning; refusals spread to retain questions when alpha is small. DPO with refusals also lowers the old answer.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=IdkNLL
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """The token-mean negative log-likelihood of the alternate answers."""
        return require(view.alternate, "alternate").nll
