from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import State, each, seeded, weight_edit

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("noise", revision=2, others="", paper="arXiv:2506.06278", fidelity="code")
@strict
@dataclass(frozen=True, kw_only=True)
class Noise:
    """Shrink and perturb, the noise step of UNDO (Lee et al. 2025, arXiv:2506.06278).

    Idea: unlearning often hides knowledge. Noise in the weights destroys part of the hidden knowledge. Distilling the
    unlearned model into the noised one then restores the behaviour without that knowledge.
    Formula: theta' = (1 - a) * theta + a * beta * n
        n  of a matrix, Xavier's uniform initialisation: entries from -b to b, b = sqrt(6 / (inputs + outputs)); 0 for
           vectors (biases, gains of norms), which only shrink. With distribution=width n is normal, as wide as the
           standard deviation of the tensor's own entries, for vectors too.
    vectors=false leaves vectors as they are. The noise depends only on the seed and the tensor's name.

    Shrinking equals the authors' code on the same tensors, and the noise has their bound and width. beta = 0.1 is the
    default of their function; their runs use a from 0.1 to 0.8 (0.25 on WMDP, with beta 0 or 0.1).

    Pitfalls: this is the middle of three steps; alone it harms everything alike.
    """

    a: float = 0.1
    """Share of noise, between 0 (weights unchanged) and 1 (noise only)."""
    beta: float = 0.1
    """Scale of the noise."""
    distribution: Literal["xavier", "width"] = "xavier"
    """xavier: the paper's initialisation of each matrix. width: normal, as wide as the tensor's own entries."""
    vectors: bool = True
    """Whether biases and norm gains change too."""
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
        return (1 - self.a) * theta + self.a * self.beta * self._noise(name, theta)

    def _noise(self, name: str, theta: Tensor) -> Tensor:
        generator = seeded(self.seed, name)
        if self.distribution == "width":
            z = torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta.device)
            return theta.std(correction=0) * z
        if theta.dim() < 2:
            return torch.zeros_like(theta)
        bound = math.sqrt(6 / (theta.shape[-1] + theta.shape[-2]))
        u = torch.rand(theta.shape, generator=generator, dtype=theta.dtype).to(theta.device)
        return bound * (2 * u - 1)
