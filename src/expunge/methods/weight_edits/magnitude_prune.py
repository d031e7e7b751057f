from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.weight_edits.api import State, weight_edit
from expunge.methods.weight_edits.merge import check_density, check_weights, merge, prune, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit(
    "magnitude_prune", revision=1, others="model", paper="pruning by magnitude, then a weighted sum", fidelity="code"
)
@strict
@dataclass(frozen=True, kw_only=True)
class MagnitudePrune:
    """Merging after pruning: keep the largest entries of each difference, then add them to the base.

    Formula: theta' = base + sum_i w_i prune(theta_i - base, density);  w_i = 1 if `weights` is null
        prune  keeps floor(density * n) of a tensor's n entries by magnitude, at least one, and does not rescale them

    Pitfalls: density is a share of each tensor, not of the whole model, so small tensors keep few entries.
    """

    density: float = 0.8
    """Share of entries to keep in each tensor, greater than 0 and at most 1."""
    weights: tuple[float, ...] | None = None
    """One weight per model; null uses 1 for each."""

    def __post_init__(self) -> None:
        check_density(self.density)
        check_weights(self.weights)

    def __call__(self, base: State, others: Sequence[State]) -> dict[str, Tensor]:
        """Return the merged weights. Raises ConfigError."""

        def rule(name: str, deltas: list[Tensor], weights: list[float]) -> Tensor:
            return weighted_sum([prune(d, self.density) for d in deltas], weights)

        return merge(base, others, self.weights, rule)
