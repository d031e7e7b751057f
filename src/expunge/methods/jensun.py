from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require


@method(
    "JensUn",
    revision=1,
    needs=Requirements(alternate=Quantity.LOGPS),
    paper="arXiv:2509.02820",
    reduction="token",
    retain_loss_type="JSD",
)
@strict
@dataclass(frozen=True, kw_only=True)
class JensUn:
    """Jensen-Shannon unlearning (Singh et al. 2025, arXiv:2509.02820): towards a refusal, with a bounded loss.

    Loss: gamma JSD(p, refusal token) on the forget questions' refusals + alpha JSD(p, p_ref) on the retain rows, each
    averaged over tokens, in nats and at most log 2. Against a one-hot target the divergence depends on p, the refusal
    token's probability, alone: JSD = log 2 + (p log p - (1 + p) log(1 + p)) / 2.

    gamma = alpha = 1: the settings of the authors' released code. Whether the paper's runs weigh
    the terms otherwise could not be checked. There the refusal is a fixed short text, laid over every forget answer.

    Pitfalls: where p is tiny the gradient in the logits is p-sized and training starts slowly: a larger learning
    rate, or a few steps of IdkNLL first, help. The retain term needs the whole distribution of both models.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=JensUn trainer.method_args.gamma=2
    """

    def forget_loss(self, view: LossInputs) -> Tensor:
        """The mean divergence from the alternate answers' tokens."""
        return jsd_to_token(require(view.alternate, "alternate").logps_N).mean()


def jsd_to_token(logp: Tensor) -> Tensor:
    """Jensen-Shannon divergence between a distribution and the one-hot at a token of log-probability logp, in nats."""
    p = logp.exp()
    return math.log(2) + (p * logp - (1 + p) * torch.log1p(p)) / 2
