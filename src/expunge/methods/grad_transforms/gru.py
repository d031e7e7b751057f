from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.methods.grad_transforms.api import GradientRequest, grad_transform
from expunge.methods.grad_transforms.vectors import add, dot, over, running_mean

if TYPE_CHECKING:
    from torch import Tensor


@grad_transform("gru", revision=2, needs=("forget", "retain"), paper="arXiv:2503.09117", fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class GRU:
    """Gradient rectified unlearning (Wang et al. 2025, arXiv:2503.09117).

    Idea: if unlearning and retaining conflict, remove from the forget gradient only the part that would raise the
    retain loss.
    Formula: c = min(0, <g_f, m_r>) / ||m_r||^2;  g = (g_f - c m_r) + g_r
        m_r  the retain gradient, as a running mean over steps: momentum * old + (1 - momentum) * g_r
    keep_retain=false removes the last g_r: the retain examples then only steer, and their loss is not minimised.

    Defaults: momentum has no published default: the authors search 0.8, 0.9, 0.95 and none, and none is the default
    here.

    Pitfalls: gradients of a step are noisy, so with momentum=0 (default) small steps show conflicts by chance. momentum
    costs one more copy of the gradient. gamma and alpha weigh g_f and g_r before the rule: alpha does not change the
    direction to remove.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=mine +trainer.args.grad_transform=gru
    """

    momentum: float = 0.0
    """Momentum of the running mean of the retain gradient; 0 uses only this micro-batch."""
    keep_retain: bool = True
    """Whether the retain gradient is added to the result."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must be at least 0 and less than 1")

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the forget gradient without its conflict, plus the retain gradient, per parameter."""
        forget, retain = gradient("forget"), gradient("retain")
        steer = running_mean(memory, "gru_retain", retain, self.momentum)
        conflict = dot(forget, steer).clamp(max=0)  # 0, so no change, if they agree: no value is read from the device
        forget = add(forget, steer, -over(conflict, dot(steer, steer)))
        return add(forget, retain) if self.keep_retain else forget
