from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "ME",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS),
    paper="arXiv:2410.08109",
    reduction="token",
    gamma=0.1,
    aliases=("MaxEntropy", "ME+GD"),
    fidelity="formula",
)
@strict
@dataclass(frozen=True, kw_only=True)
class MaxEntropy:
    """Maximum entropy (Yuan et al. 2024, arXiv:2410.08109, ME+GD): move forget answers to the uniform distribution.

    Loss: mean over the forget tokens of KL(p || uniform) = log V - H(p), in nats, between 0 and log V; plus the
    retain NLL.

    Defaults: gamma = 0.1, alpha = 1, confirmed in the authors' TOFU script (learning rate 1e-5, 5 epochs). Their code
    computes KL(uniform || p); this loss follows the paper's formula.

    Pitfalls: a model that never saw the fact does not predict a uniform distribution. So outputs turn to noise, and
    forget-quality tests detect it. The loss needs the whole distribution of the forget answers.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=ME trainer.method_args.gamma=0.2
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute KL(p || uniform), averaged over the forget tokens; a scalar."""
        return require(view.forget, "forget").per_token(kl_to_uniform).mean()


def kl_to_uniform(logits_NV: Tensor) -> Tensor:
    """Return KL(p || uniform) = log V - H(p) at each position, shape (N,), in nats."""
    logp_NV = log_probs(logits_NV)
    return math.log(logp_NV.shape[-1]) + (logp_NV.exp() * logp_NV).sum(-1)
