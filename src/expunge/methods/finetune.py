from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method

if TYPE_CHECKING:
    from torch import Tensor


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

    It trains the target model (on everything) and the retain model (on the retain examples only, from the base model).
    The retain model is the reference that unlearning is compared with.

    Try: expunge train experiment=finetune/tofu/default task_name=full
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Raise NotImplementedError: fine-tuning has no forget term, and the training loop never requests one."""
        raise NotImplementedError("finetune has no forget term")
