from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.on_use import F, torch
from expunge.methods.api import LossInputs, Quantity, Requirements, SideOutputs, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor

Divergence = Literal["TV", "KL", "JS", "Pearson"]


@method(
    "FLAT",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS, alternate=Quantity.LOGPS),
    paper="arXiv:2410.11143",
    reduction="row",
    alpha=0.0,
    fidelity="formula",
)
@strict
@dataclass(frozen=True, kw_only=True)
class FLAT:
    """Forget-data-only loss adjustment (FLAT, Wang et al. 2024, arXiv:2410.11143).

    Maximise the f-divergence between template answers (the alternate side) and forget answers, through its variational
    lower bound E_alt[g(v)] - E_forget[f*(g(v))]. v is the mean over an answer's tokens of the model's probability.
    Loss: mean over pairs of f*(g(v_forget)) - g(v_alternate). g maps v into the domain of the conjugate f*; both are
    those of f-GAN (arXiv:1606.00709, table 2):

        TV       g = tanh(v) / 2                f* = t                (default)
        KL       g = v                          f* = exp(t - 1)
        JS       g = log 2 - log(1 + exp(-v))   f* = -log(2 - exp(t))
        Pearson  g = v                          f* = t^2 / 4 + t

    Defaults: alpha = 0, so no retain examples are read; alpha > 0 adds the shared retain loss. TV, g and f* are those
    of the authors' code (TOFU: learning rate 1e-5, 5 epochs, batches of 64). That code computes one v over the padded
    batch, with prompt and padding as 0; here each answer has its own v.

    Pitfalls: v is a mean of probabilities, not a likelihood: a few confident tokens dominate it, and its gradient
    vanishes at unlikely answers. The alternate answers decide the new reply.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=FLAT task_name=mine trainer.method_args.divergence=KL
    """

    divergence: Divergence = "TV"
    """The f-divergence to maximise: TV, KL, JS or Pearson (table above)."""

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the negative variational bound over the pairs of the batch; a scalar."""
        alternate, forget = require(view.alternate, "alternate"), require(view.forget, "forget")
        reached, conjugate = bound(mean_probability(alternate), mean_probability(forget), self.divergence)
        return conjugate.mean() - reached.mean()


def mean_probability(side: SideOutputs) -> Tensor:
    """Return the mean probability of each answer's tokens, shape (B,)."""
    return side.row_means(side.logps_N.exp())


def bound(v_alternate: Tensor, v_forget: Tensor, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """Return g(v_alternate) and f*(g(v_forget)) of a divergence; each has the shape of its input."""
    if divergence == "TV":
        return torch.tanh(v_alternate) / 2, torch.tanh(v_forget) / 2
    if divergence == "KL":
        return v_alternate, torch.exp(v_forget - 1)
    if divergence == "JS":
        # 2 - exp(g) = 2 exp(-v) / (1 + exp(-v)), so f*(g(v)) = softplus(v) - log 2
        return math.log(2) - F.softplus(-v_alternate), F.softplus(v_forget) - math.log(2)
    return v_alternate, v_forget.square() / 4 + v_forget
