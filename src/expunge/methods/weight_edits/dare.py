from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expunge.core.decode import strict
from expunge.core.on_use import torch
from expunge.methods.weight_edits.api import State, seeded, weight_edit
from expunge.methods.weight_edits.merge import check_density, check_weights, elect, merge, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("dare", revision=1, others="model", paper="arXiv:2311.03099", fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class DARE:
    """DARE merging (Yu et al. 2023, arXiv:2311.03099): drop random entries of each difference, rescale the rest.

    Formula: d_i = mask_i * (theta_i - base) / density; each entry of mask_i is 1 with probability density, else 0
        combine=linear  theta' = base + sum_i w_i d_i
        combine=ties    elect signs and average the entries that agree, as in `ties`, without its trimming
    The rescaling preserves each entry's expected value. Masks depend only on the seed, the tensor's name and the
    model's position in the list.

    Pitfalls: with a low density and large differences, single weights move very far; try several seeds.
    """

    density: float = 0.8
    """Share of entries to keep, greater than 0 and at most 1."""
    weights: tuple[float, ...] | None = None
    """One weight per model; null uses 1 for each."""
    combine: Literal["linear", "ties"] = "linear"
    """How to combine the differences: a weighted sum, or TIES' sign election."""
    seed: int = 0
    """Seed of the random masks."""

    def __post_init__(self) -> None:
        check_density(self.density)
        check_weights(self.weights)

    def __call__(self, base: State, others: Sequence[State]) -> dict[str, Tensor]:
        """Return the merged weights. Raises ConfigError."""
        combine = weighted_sum if self.combine == "linear" else elect

        def rule(name: str, deltas: list[Tensor], weights: list[float]) -> Tensor:
            return combine([self._drop(name, i, d) for i, d in enumerate(deltas)], weights)

        return merge(base, others, self.weights, rule)

    def _drop(self, name: str, index: int, delta: Tensor) -> Tensor:
        mask = torch.rand(delta.shape, generator=seeded(self.seed, name, index)) < self.density
        return torch.where(mask.to(delta.device), delta / self.density, torch.zeros_like(delta))
