from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from expunge.core.decode import strict
from expunge.core.names import ModuleName
from expunge.core.on_use import torch
from expunge.methods.grad_transforms.api import GradientRequest, Perturbation, grad_transform
from expunge.methods.grad_transforms.vectors import add, over

if TYPE_CHECKING:
    from torch import Tensor


@grad_transform(
    "latent",
    revision=1,
    needs=("forget",),
    paper="arXiv:2403.05030, arXiv:2407.15549",
    scope="micro_batch",
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class Latent:
    """Latent adversarial training over any loss.

    Papers: Casper et al. 2024, arXiv:2403.05030; Sheshadri et al. 2024, arXiv:2407.15549.
    Idea: an adversary that may change the hidden states of the forget examples tries to restore the knowledge (to
    raise the forget loss). Train against its worst perturbation.
    Formula: delta_0 = 0;  delta_{i+1} = P(delta_i + s * d/||d||), d the gradient of the forget term by delta_i;
        g = g_f(w; h + delta_k) + g_r(w)
        h    the output of `layer` at every position of the forget examples (prompt included)
        P    projection of each position's vector to norm <= eps; d/||d|| is also taken position by position
        k    inner_steps;  s = step_size, or 2 * eps / inner_steps if step_size is null
    The retain examples are never perturbed.

    Pitfalls: eps has the unit of the hidden states, whose norm grows with depth. A position that does not affect the
    forget loss keeps delta = 0. Cost: inner_steps + 2 forwards and backwards per micro-batch.

    Try: expunge unlearn experiment=unlearn/tofu/default trainer=NPO task_name=x +trainer.args.grad_transform=latent \
+trainer.args.grad_transform_args.layer=model.layers.8
    """

    layer: ModuleName
    """Name of the module to perturb, such as `model.layers.8`."""
    eps: float = 1.0
    """Largest norm of the perturbation at each position, in the unit of the hidden states."""
    inner_steps: int = 4
    """Number of ascent steps of the adversary."""
    step_size: float | None = None
    """Length of an ascent step; null: 2 * eps / inner_steps."""

    def __post_init__(self) -> None:
        if not 0 < self.eps < float("inf"):
            raise ValueError("eps must be a number > 0")
        if self.inner_steps < 1:
            raise ValueError("inner_steps must be at least 1")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError("step_size must be a number > 0, or null")

    def __call__(self, gradient: GradientRequest, params: Sequence[Tensor], memory: dict[str, Any]) -> list[Tensor]:
        """Return the gradient under the adversary's perturbation, per parameter."""
        step_size = 2 * self.eps / self.inner_steps if self.step_size is None else self.step_size
        delta: Tensor | None = None
        for _ in range(self.inner_steps):
            (uphill,) = gradient("forget", nudge=Perturbation(self.layer, delta), inner=True)
            far = step_size * over(uphill, _lengths(uphill))
            delta = project(far if delta is None else delta + far, self.eps)
        return add(gradient("forget", nudge=Perturbation(self.layer, delta)), gradient("retain"))


def project(delta: Tensor, eps: float) -> Tensor:
    """Shorten each vector (last dimension) to norm eps if it is longer."""
    shorter: Tensor = delta * torch.clamp(over(torch.full_like(delta, eps), _lengths(delta)), max=1.0)
    return shorter


def _lengths(x: Tensor) -> Tensor:
    """Return the norm of each vector of the last dimension, repeated along it so that the shapes agree."""
    lengths: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).expand_as(x)
    return lengths
