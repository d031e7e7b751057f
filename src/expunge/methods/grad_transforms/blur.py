from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.methods.grad_transforms.api import GradientRequest, grad_transform
from expunge.methods.grad_transforms.vectors import add, dot, over

if TYPE_CHECKING:
    from torch import Tensor


@grad_transform("blur", revision=2, needs=("forget", "retain"), paper="arXiv:2506.08164", fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class BLUR:
    """Bi-level unlearning by projection (BLUR, Reisizadeh et al. 2025, arXiv:2506.08164).

    Idea: forgetting comes first (the lower level). Among the solutions that forget equally well, retain best (the upper
    level). To first order: retain only in directions that do not change the forget loss.
    Formula: g = g_f + g_r - (<g_r, g_f> / ||g_f||^2) g_f
    So <g, g_f> = ||g_f||^2 for every retain gradient. Inner products are over all parameters together. BLUR has no
    settings. Confirmed in the authors' code, which adds g_f with weight 1; here the loss's gamma and alpha weigh g_f
    and g_r.

    Pitfalls: if the two agree, the part of g_r along g_f is also removed. The retain term never restrains an unbounded
    forget loss (GradAscent, GradDiff), so the loss diverges faster than without BLUR. Use a bounded one, such as NPO.
    With gradient accumulation the gradients of the whole step are projected once. The authors' code projects with the
    gradients of its last micro-batch.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=mine +trainer.args.grad_transform=blur
    """

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the forget gradient plus the part of the retain gradient orthogonal to it, per parameter."""
        forget, retain = gradient("forget"), gradient("retain")
        return add(forget, add(retain, forget, -over(dot(retain, forget), dot(forget, forget))))
