from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, SideOutputs, method
from expunge.methods.terms import marked, require, tokens, wide

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "TPO",
    revision=1,
    needs=Requirements(forget=Quantity.LOGITS, forget_ref=Quantity.LOGITS, marks="unwanted"),
    paper="arXiv:2506.03142",
    reduction="row",
    alpha=0.0,
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class TPO:
    """Targeted preference optimisation (Zhou et al. 2025, arXiv:2506.03142): forget the unwanted words of an answer.

    Loss: gamma E[-(2/beta) ln sigma(beta (mean_U l_ref - mean_U l)) + preservation sum_G -ln p] + alpha NLL_r.
    l is the logit of the true token, before the softmax; U are the tokens of the unwanted words of an answer, G its
    other tokens and its end. E is the mean over examples. So unwanted words lose their logits, as in NPO, and the model
    learns the rest of the answer further.

    The unwanted words are those of the column `unwanted`, a text or a list. Without that column they are the words of
    the answer that carry content and that the question does not contain; in the paper another model marks them.

    Defaults: beta = 0.32, preservation = 1 and no retain term are the authors' for TOFU's forget05 and Llama-2-7B
    (0.23 for forget10). The loss of an example equals their code on the same logits. Our reading: of several examples
    their sigmoid is over the mean of the batch, here over each. Their `tpo_grad_diff` is alpha = 1.

    Pitfalls: the sum over G grows with the length of an answer, so it outweighs the first term in long ones.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=TPO task_name=mine
    """

    beta: float = 0.32
    """Sharpness of the preference. A larger beta lets the gradient vanish at a smaller difference of logits."""
    preservation: float = 1.0
    """Weight of the negative log-likelihood of the other words of the forget answers."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError("beta must be a number > 0")
        if not 0 <= self.preservation < float("inf"):
            raise ValueError("preservation must be a number >= 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the mean over examples of the preference loss and of the preservation loss; a scalar."""
        side, ref = require(view.forget, "forget"), require(view.forget_ref, "forget_ref")
        u_N = marked(side).to(side.logps_N)
        drop_N = true_logits(ref, tokens(side)).to(u_N) - true_logits(side, tokens(side))
        drop_B = side.row_sums(u_N * drop_N) / side.row_sums(u_N).clamp(min=1)
        preference_B = -2 / self.beta * torch.nn.functional.logsigmoid(self.beta * drop_B)
        return (preference_B - self.preservation * side.row_sums((1 - u_N) * side.logps_N)).mean()


def true_logits(side: SideOutputs, token_N: Tensor) -> Tensor:
    """Return the logit of the true token at each position, shape (N,)."""
    return side.per_token(_true_logit, token_N)


def _true_logit(logits_NV: Tensor, token_N: Tensor) -> Tensor:
    return wide(logits_NV.gather(-1, token_N[:, None])[:, 0])
