from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, require, tokens, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "Unilogit",
    revision=2,
    needs=Requirements(forget=Quantity.LOGITS),
    paper="arXiv:2505.06027",
    fidelity="code",
    reduction="token",
)
@strict
@dataclass(frozen=True, kw_only=True)
class Unilogit:
    """Uniform-target self-distillation (Vasilev et al. 2025, arXiv:2505.06027): give the true token probability 1/V.

    Loss: mean over tokens of KL(p || q), the paper's reverse KL (its figure 1). p is the model's distribution; q is p
    with the true token's logit set so that its probability is 1/V: l_y = logsumexp of the other logits - ln(V - 1). q
    is constant in the gradient. `divergence=forward` is KL(q || p), whose gradient in the logits is p - q.

    Target and both directions equal another implementation on the same logits. It follows the authors' trainer, which
    we could not get, and also names the reverse direction as theirs.

    Pitfalls: a token that the model finds less likely than 1/V becomes more likely. The loss needs the whole
    distribution of the forget answers.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=Unilogit task_name=mine
    """

    divergence: Literal["forward", "reverse"] = "reverse"
    """reverse: KL(model || target); forward: KL(target || model)."""

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean divergence from the target over the forget tokens."""
        side = require(view.forget, "forget")
        return side.per_token(_forward if self.divergence == "forward" else _reverse, tokens(side)).mean()


def uniform_target(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """Return log q, (N, V): the distribution of the logits with probability 1/V at the token; without gradient."""
    logits_NV = wide(logits_NV).detach()
    others_N = logits_NV.scatter(-1, token_N[:, None], float("-inf")).logsumexp(-1)
    at_token_N1 = (others_N - math.log(logits_NV.shape[-1] - 1))[:, None]
    return torch.log_softmax(logits_NV.scatter(-1, token_N[:, None], at_token_N1), dim=-1)


def _forward(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    logq_NV = uniform_target(logits_NV, token_N)
    return (logq_NV.exp() * (logq_NV - log_probs(logits_NV))).sum(-1)


def _reverse(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    logp_NV, logq_NV = log_probs(logits_NV), uniform_target(logits_NV, token_N)
    return (logp_NV.exp() * (logp_NV - logq_NV)).sum(-1)
