from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class MaxEntropy:
    """Maximum entropy (Yuan et al. 2024, arXiv:2410.08109, ME+GD): move forget answers to the uniform distribution.

    Loss: mean over the forget tokens of KL(p || uniform) = log V - H(p), in nats, between 0 and log V; plus the
    retain NLL.

    Defaults: gamma = 0.1, alpha = 1, confirmed in the authors' TOFU script (learning rate 1e-5, 5 epochs). Their code
    computes KL(uniform || p); the default follows the paper's formula, and `divergence=from_uniform` equals their code.

    Pitfalls: a model that never saw the fact does not predict a uniform distribution. So outputs turn to noise, and
    forget-quality tests detect it. The loss needs the whole distribution of the forget answers.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=ME task_name=mine trainer.method_args.gamma=0.2
    """

    divergence: Literal["to_uniform", "from_uniform"] = "to_uniform"
    """to_uniform: KL(p || uniform), the paper's. from_uniform: KL(uniform || p), the authors' code, has no bound."""

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the divergence, averaged over the forget tokens; a scalar."""
        rule = kl_to_uniform if self.divergence == "to_uniform" else kl_from_uniform
        return require(view.forget, "forget").per_token(rule).mean()


def kl_to_uniform(logits_NV: Tensor) -> Tensor:
    """Return KL(p || uniform) = log V - H(p) at each position, shape (N,), in nats."""
    logp_NV = log_probs(logits_NV)
    return math.log(logp_NV.shape[-1]) + (logp_NV.exp() * logp_NV).sum(-1)


def kl_from_uniform(logits_NV: Tensor) -> Tensor:
    """Return KL(uniform || p) = -log V - mean_v log p_v at each position, shape (N,), in nats."""
    logp_NV = log_probs(logits_NV)
    return -math.log(logp_NV.shape[-1]) - logp_NV.mean(-1)
