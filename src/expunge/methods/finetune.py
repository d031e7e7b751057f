from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method


@method(
    "finetune",
    revision=1,
    needs=Requirements(retain=Quantity.LOGPS),
    paper="maximum likelihood",
    reduction="token",
    aliases=("full", "retain", "retrain"),
)
@strict
@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Supervised fine-tuning: the token-mean negative log-likelihood of the answers.

    It trains the full and the retain models, and, on the retain rows from the base model, it is the oracle that
    unlearning is measured against.

    Try: expunge train experiment=finetune/tofu/default task_name=full
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Fine-tuning has no forget term; the loop never asks for one."""
        raise NotImplementedError("finetune has no forget term")
