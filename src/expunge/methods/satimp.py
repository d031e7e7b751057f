from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.api import LossInputs, Quantity, Requirements, method
from expunge.methods.terms import require

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "SatImp",
    revision=1,
    needs=Requirements(forget=Quantity.LOGPS),
    paper="arXiv:2505.11953",
    reduction="token",
    gamma=1.0,
    alpha=0.1,
    fidelity="code",
)
@strict
@dataclass(frozen=True, kw_only=True)
class SatImp:
    """Saturation and importance (Yang et al. 2025, arXiv:2505.11953): a weight for every forget token.

    Loss: mean over the tokens of the batch of w log p, with w = p^beta1 (1 - p)^beta2 constant in the gradient. The
    first factor spares tokens that are forgotten already (saturation). The second spares tokens that the model predicts
    with confidence without the fact, such as function words (importance). beta1 = beta2 = 0 is gradient ascent;
    beta2 = 0 is WGA.

    Defaults: beta1 = 5, beta2 = 1, gamma = 1, alpha = 0.1, the paper's. OpenUnlearning's settings file swaps the last
    two (gamma = 0.1, alpha = 1), a hundredth of the ratio of forgetting to retaining. Set them to repeat its runs.

    Pitfalls: with the defaults w is at most 0.067 (at p = 5/6), so the forget term is small next to a retain loss.
    Raise gamma to balance it. The method needs no reference model.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=SatImp task_name=mine trainer.method_args.gamma=5
    """

    beta1: float = 5.0
    """Exponent of p, the saturation factor. Larger values skip unlikely tokens more."""
    beta2: float = 1.0
    """Exponent of 1 - p, the importance factor. Larger values skip confident tokens more."""

    def __post_init__(self) -> None:
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise ValueError(f"{key} must be a number >= 0")

    def forget_loss(self, view: LossInputs) -> Tensor:
        """Compute the weighted mean log-probability of the forget tokens; a scalar."""
        logps_N = require(view.forget, "forget").logps_N
        fixed_N = logps_N.detach()
        weight_N = (self.beta1 * fixed_N).exp() * (-torch.expm1(fixed_N)).clamp(min=0) ** self.beta2
        return (weight_N * logps_N).mean()
