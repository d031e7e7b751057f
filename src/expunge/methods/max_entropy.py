from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, require


@method(
    "ME",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS),
    paper="arXiv:2410.08109",
    reduction="token",
    gamma=0.1,
    aliases=("MaxEntropy", "ME+GD"),
)
@strict
@dataclass(frozen=True, kw_only=True)
class MaxEntropy:
    """Maximum entropy (Yuan et al. 2024, arXiv:2410.08109, ME+GD): towards the uniform distribution on forget answers.

    Loss: mean over the forget tokens of KL(p || uniform) = log V - H(p), in nats, between 0 and log V; beside it the
    retain NLL. gamma = 0.1, alpha = 1: confirmed in the authors' TOFU script (learning rate 1e-5, 5 epochs). Their code
    takes the divergence the other way round, KL(uniform || p), which the paper's formula does not.

    Pitfalls: a uniform distribution is not what a model that never saw the fact would say, so outputs turn to noise and
    forget-quality tests see it. It needs the whole distribution of the forget answers.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=ME trainer.method_args.gamma=0.2
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """KL(p || uniform), averaged over the forget tokens."""
        return require(view.forget, "forget").per_token(kl_to_uniform).mean()


def kl_to_uniform(logits_NV: Tensor) -> Tensor:
    """KL(p || uniform) = log V - H(p) at each position, in nats."""
    logp_NV = log_probs(logits_NV)
    return math.log(logp_NV.shape[-1]) + (logp_NV.exp() * logp_NV).sum(-1)
