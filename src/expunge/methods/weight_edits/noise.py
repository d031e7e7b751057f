from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import State, each, seeded, weight_edit

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("noise", revision=1, others="", paper="arXiv:2506.06278", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Shrink and perturb, the noise step of UNDO (Lee et al. 2025, arXiv:2506.06278).

    Idea: unlearning often hides knowledge. Noise in the weights destroys part of the hidden knowledge. Distilling the
    unlearned model into the noised one then restores the behaviour without that knowledge.
    Formula: theta' = (1 - a) * theta + a * beta * s * z;  z ~ N(0, 1)
        s  the standard deviation of the tensor's own entries, so the noise fits the scale of each tensor
    Vectors (biases, gains of norms) do not change unless vectors=true: they are not random draws in the first place,
    and shrinking a gain scales its whole layer. The noise depends only on the seed and the tensor's name.

    Pitfalls: this is the middle of three steps; alone it harms everything alike. The paper draws its noise from the
    initialiser's distribution instead of the tensor's own width.
    """

    a: float = 0.1
    """Share of noise, between 0 (weights unchanged) and 1 (noise only)."""
    beta: float = 1.0
    """Scale of the noise, relative to the standard deviation of each tensor."""
    vectors: bool = False
    """Whether biases and norm gains get noise too."""
    seed: int = 0
    """Seed of the noise."""

    def __post_init__(self) -> None:
        if not 0 <= self.a <= 1:
            raise ValueError("a must be at least 0 and at most 1")
        if not 0 <= self.beta < float("inf"):
            raise ValueError("beta must be a number >= 0")

    def __call__(self, base: State, others: Sequence[State] = ()) -> dict[str, Tensor]:
        """Return theta' from theta. Raises ConfigError if there is another model."""
        if others:
            raise ConfigError(f"noise: reads no other model, got {len(others)}")
        return each(base, self._one)

    def _one(self, name: str, theta: Tensor) -> Tensor:
        if theta.numel() == 0 or (theta.dim() < 2 and not self.vectors):
            return theta.clone()
        z = torch.randn(theta.shape, generator=seeded(self.seed, name), dtype=theta.dtype).to(theta.device)
        return (1 - self.a) * theta + self.a * self.beta * theta.std(correction=0) * z
