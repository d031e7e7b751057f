from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.weight_edits.api import State, weight_edit
from expunge.methods.weight_edits.merge import check_weights, merge, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("linear", revision=1, others="model", paper="arXiv:2212.04089", fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear merging: add weighted differences to a base (task arithmetic, Ilharco et al. 2022, arXiv:2212.04089).

    Formula: theta' = base + sum_i w_i (theta_i - base);  w_i = 1 if `weights` is null
    Weights that sum to 1 yield a weighted mean of the models.

    Pitfalls: differences of opposite sign cancel; equal signs add up beyond each single difference.
    """

    weights: tuple[float, ...] | None = None
    """One weight per model; null uses 1 for each."""

    def __post_init__(self) -> None:
        check_weights(self.weights)

    def __call__(self, base: State, others: Sequence[State]) -> dict[str, Tensor]:
        """Return the merged weights. Raises ConfigError."""
        return merge(base, others, self.weights, lambda name, deltas, w: weighted_sum(deltas, w))
