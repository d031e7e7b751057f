from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, ScoredPositions, SideOutputs, method
from expunge.methods.reduction import Reduction
from expunge.methods.terms import log_probs, require, tokens, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "UNDIAL",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS, forget_ref=Quantity.LOGITS),
    paper="arXiv:2402.10052",
    reduction="token",
    alpha=0.0,
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class UNDIAL:
    """Self-distillation with adjusted logits (Dong et al. 2024, arXiv:2402.10052).

    Loss: mean over the forget answers' tokens of the cross-entropy of the model against softmax(z_ref - beta e_y).
    z_ref are the logits of the model before unlearning and e_y is the one-hot of the true token. So the target is the
    old model with an exp(beta) times smaller odds of the true token. The target is fixed, so training converges.
    beta = 0 distils the old model.

    Defaults: beta = 10, gamma = 1, alpha = 0, OpenUnlearning's settings (learning rate 1e-4). The paper needs no retain
    examples.

    `compat=openunlearning` averages over every position of the padded batch that has a next one, including prompt and
    padding. At positions without a scored token it penalises token V - 100.

    Pitfalls: the loss tends to the target's entropy, not to 0. It needs the whole distribution of both models.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=UNDIAL task_name=mine trainer.args.learning_rate=1e-4
    """

    beta: float = 10.0
    """Amount to subtract from the true token's logit in the target, in nats."""
    compat: Literal["paper", "openunlearning"] = "paper"
    """Positions to average over: answer tokens (paper), or the whole padded batch (openunlearning)."""

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ValueError("beta must be a number >= 0")

    @property
    def needs(self) -> Requirements:
        """Logits of the forget answers, of the model and of the reference."""
        where = ScoredPositions.ALL if self.compat == "openunlearning" else ScoredPositions.ANSWER
        return Requirements(forget=Quantity.LOGITS, forget_ref=Quantity.LOGITS, forget_positions=where)

    @property
    def reduction(self) -> Reduction:
        """The mean over tokens; over a padded batch it depends on the micro-batch."""
        return "token" if self.compat == "paper" else "micro_batch"

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the cross-entropy to the adjusted reference; a scalar in nats."""
        now, ref = require(view.forget, "forget"), require(view.forget_ref, "forget_ref")
        if self.compat == "paper":
            return distil(now, ref, tokens(now), beta=self.beta).mean()
        penalised, counted = padded_targets(now)
        return distil(now, ref, penalised, beta=self.beta)[counted].mean()


def distil(now: SideOutputs, ref: SideOutputs, token_N: Tensor, *, beta: float) -> Tensor:
    """Compute the cross-entropy against the reference with the logit of `token_N` lowered by beta; (N,), in nats."""

    def cross_entropy(now_NV: Tensor, ref_NV: Tensor, token_N: Tensor) -> Tensor:
        z_NV = wide(ref_NV)
        lowered = torch.full_like(token_N, -beta, dtype=z_NV.dtype)[:, None]
        target_NV = torch.softmax(z_NV.scatter_add(-1, token_N[:, None], lowered), dim=-1)
        return -(target_NV * log_probs(now_NV)).sum(-1)

    return now.per_token(cross_entropy, ref, token_N)


def padded_targets(side: SideOutputs) -> tuple[Tensor, Tensor]:
    """Return OpenUnlearning's targets over a padded batch: the token to penalise and the mask of counted positions.

    An unscored next token has the label -100, which selects the hundredth entry from the end of the vocabulary. The
    last position of a row predicts nothing and does not count.
    """
    if side.labelled_N is None:
        raise ValueError("compat=openunlearning reads which positions are scored, which was not provided")
    from_the_end = side.vocabulary - 100
    if from_the_end < 0:
        raise ValueError("compat=openunlearning is not defined for a vocabulary of fewer than 100 tokens")
    counted_N = torch.zeros_like(side.labelled_N)
    counted_N[:-1] = side.row_N[1:] == side.row_N[:-1]
    return torch.where(side.labelled_N, tokens(side), from_the_end), counted_N
