from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.methods.weight_edits.api import State, weight_edit
from expunge.methods.weight_edits.merge import check_density, check_weights, elect, merge, prune

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("ties", revision=1, others="model", paper="arXiv:2306.01708", fidelity="code")
@strict
@dataclass(frozen=True, kw_only=True)
class TIES:
    """TIES merging (Yadav et al. 2023, arXiv:2306.01708): trim, elect a sign, average the entries that agree.

    Formula: d_i = prune(theta_i - base, density);  s = sign(sum_i d_i)
        theta' = base + mean over {i: sign(d_i) = s} of w_i d_i, entry by entry;  w_i = 1 if `weights` is null
        prune  keeps floor(density * n) of a tensor's n entries by magnitude, at least one
    Merging a model that forgot too much with one that forgot too little yields one in between. The second place of
    SemEval 2025, task 4, merged two runs (weights 1 and 1, density 0.8).

    Pitfalls: the vote is not weighted. The mean is divided by the number of models that agree, not by their weights, so
    weights scale and do not average. The paper's scaling of the result is a common factor of all weights.
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
        return merge(
            base, others, self.weights, lambda name, deltas, w: elect([prune(d, self.density) for d in deltas], w)
        )
