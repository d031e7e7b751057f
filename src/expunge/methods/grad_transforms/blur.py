from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from expunge.core.decode import strict
from expunge.methods.grad_transforms.api import GradientRequest, grad_transform
from expunge.methods.grad_transforms.vectors import add, dot, over


@grad_transform("blur", revision=1, needs=("forget", "retain"), paper="arXiv:2506.08164")
@strict
@dataclass(frozen=True, kw_only=True)
class BLUR:
    """Bi-level unlearning by projection (BLUR, Reisizadeh et al. 2025, arXiv:2506.08164).

    Idea: forgetting comes first (the lower level); among what forgets equally well, retain best (the upper level). To
    first order: retain only in directions that leave the forget loss as it is.
    Formula: g = g_f + g_r - (<g_r, g_f> / ||g_f||^2) g_f
    so <g, g_f> = ||g_f||^2 whatever the retain gradient is. Inner products are over all parameters together. It has no
    settings of its own. Confirmed in the authors' code, which adds g_f with weight 1; here the loss's gamma and alpha
    weigh g_f and g_r.

    Pitfalls: where the two agree, the part of g_r along g_f is taken out as well. A forget loss without a lower bound
    (GradAscent, GradDiff) is never held back by the retain term here, so it diverges faster than without the step:
    use a bounded one, such as NPO. With gradient accumulation each micro-batch is projected; the authors project once
    per step, with the gradients of its last micro-batch.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO +trainer.args.grad_transform=blur
    """

    def __call__(self, ask: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """The forget gradient, plus the part of the retain gradient that is orthogonal to it, per parameter."""
        forget, retain = ask("forget"), ask("retain")
        return add(forget, add(retain, forget, -over(dot(retain, forget), dot(forget, forget))))
