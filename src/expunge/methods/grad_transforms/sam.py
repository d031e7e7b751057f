from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from expunge.core.decode import strict
from expunge.methods.grad_transforms.api import GradientRequest, grad_transform
from expunge.methods.grad_transforms.vectors import add, moved, norm, over, scaled

if TYPE_CHECKING:
    from torch import Tensor


@grad_transform("sam", revision=2, needs=("forget",), paper="arXiv:2502.05374", fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class SAM:
    """Sharpness-aware unlearning (Fan et al. 2025, arXiv:2502.05374; SAM-NPO over the NPO loss).

    Idea: forgetting that holds in a whole ball around the weights is harder to undo by a few steps of relearning.
    Formula: delta = rho * g_f / ||g_f||, with g_f the gradient of gamma * forget and the norm over all parameters.
        at=forget (default)  g = g_f(w + delta) + g_r(w): as in the paper, the maximum is over the forget term only
        at=total             g = g_f(w + delta) + g_r(w + delta): one backward less, and the retain term is robust too
    Cost per step: three forwards and backwards (at=total: two, one of them over both sides).

    Defaults: rho = 0.01, confirmed in a copy of the authors' scripts for NPO on MUSE and on WMDP (a settings file has
    0.1).

    Pitfalls: rho has the unit of the weights, over all of them together, so a larger model needs a larger rho. If g_f
    is 0, delta is 0.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=mine +trainer.args.grad_transform=sam
    """

    rho: float = 0.01
    """Radius of the ball around the weights (Euclidean norm over all parameters)."""
    at: Literal["forget", "total"] = "forget"
    """Terms whose gradient is taken at the perturbed weights."""

    def __post_init__(self) -> None:
        if not 0 < self.rho < float("inf"):
            raise ValueError("rho must be a number > 0")

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the gradient at the worst nearby point, per parameter."""
        forget = gradient("forget")
        retain = gradient("retain") if self.at == "forget" else None
        size = norm(forget)
        with moved(params, scaled(forget, over(size.new_tensor(self.rho), size))):
            worst = gradient("total" if retain is None else "forget")
        return worst if retain is None else add(worst, retain)
