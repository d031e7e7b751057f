from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "JensUn",
    revision=1,
    needs=Requirements(alternate=Quantity.LOGPS),
    paper="arXiv:2509.02820",
    reduction="token",
    retain_loss_type="JSD",
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class JensUn:
    """Jensen-Shannon unlearning (Singh et al. 2025, arXiv:2509.02820): move to a refusal, with a bounded loss.

    Loss: gamma JSD(p, refusal token) on the forget questions' refusals + alpha JSD(p, p_ref) on the retain examples.
    Both are averaged over tokens, in nats and at most log 2. Against a one-hot target the divergence depends only on p,
    the refusal token's probability: JSD = log 2 + (p log p - (1 + p) log(1 + p)) / 2.

    Defaults: gamma = alpha = 1, confirmed in the authors' settings for JensUn. Their script for the paper's LKF data
    runs them unchanged (learning rate 8e-6, 10 epochs). There the refusal is one fixed token for every forget answer.

    Pitfalls: at a tiny p the gradient in the logits has the size of p, so training starts slowly. A larger learning
    rate, or a few steps of IdkNLL first, helps. The retain term needs the whole distribution of both models.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=JensUn task_name=mine trainer.method_args.gamma=2
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean divergence from the alternate answers' tokens; a scalar."""
        return jsd_to_token(require(view.alternate, "alternate").logps_N).mean()


def jsd_to_token(logp: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence, in nats, of a distribution and the one-hot at a token of that log p."""
    p = logp.exp()
    return math.log(2) + (p * logp - (1 + p) * torch.log1p(p)) / 2
