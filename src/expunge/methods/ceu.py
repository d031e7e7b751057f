from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import log_probs, ranks, require, tokens, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "CEU",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS),
    paper="arXiv:2503.01224",
    reduction="token",
    alpha=0.0,
    aliases=("CE-U", "CE_U"),
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class CEU:
    """Cross-entropy unlearning (CE-U, Yang 2025, arXiv:2503.01224): learn the model's own answer minus the true token.

    Loss: mean over tokens of -sum_v q(v) log p(v). q is the model's own distribution with the true token's logit at
    minus infinity, and is constant in the gradient. The gradient in the logits is p - q: bounded, and not vanishing
    at confident tokens.

    Defaults: the first `ignore_first_n_answer_tokens` of each answer are excluded, as in the paper's training. 1 is
    OpenUnlearning's default; the paper's own number is not confirmed. alpha = 0, because the paper uses no retain
    examples; alpha > 0 adds the shared retain loss.

    Pitfalls: answers of n tokens or fewer give no signal. The target moves with the model, so the loss does not tend
    to 0 and its value has no meaning. The loss needs the whole distribution of the forget answers.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=CEU task_name=mine trainer.method_args.alpha=1
    """

    ignore_first_n_answer_tokens: int = 1
    """Number of tokens at the start of each forget answer that the loss excludes."""

    def __post_init__(self) -> None:
        if self.ignore_first_n_answer_tokens < 0:
            raise ValueError("ignore_first_n_answer_tokens must be a whole number >= 0")

    def counted(self, n_tokens: int) -> int:
        """Return the number of an answer's tokens that the loss counts."""
        return max(0, n_tokens - self.ignore_first_n_answer_tokens)

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute CE-U over the included forget tokens; 0 if the loss excludes all of them."""
        side = require(view.forget, "forget")
        loss_N = side.per_token(without_the_token, tokens(side))
        included_N = (ranks(side) >= self.ignore_first_n_answer_tokens).to(loss_N.dtype)
        return (loss_N * included_N).sum() / included_N.sum().clamp(min=1)


def without_the_token(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    """Compute the cross-entropy, in nats, against the model's own distribution without the token; shape (N,).

    The target distribution is constant in the gradient.
    """
    without_NV = wide(logits_NV).detach().scatter(-1, token_N[:, None], float("-inf"))
    return -(torch.softmax(without_NV, dim=-1) * log_probs(logits_NV)).sum(-1)
