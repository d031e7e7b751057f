from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.methods.terms import wide
from expunge.methods.weight_edits.api import State, check_same, each, weight_edit

if TYPE_CHECKING:
    from torch import Tensor


@weight_edit("task_vector", revision=1, others="reinforced", paper="arXiv:2212.04089", fidelity="formula")
@strict
@dataclass(frozen=True, kw_only=True)
class TaskVector:
    """Negated task vector (Ilharco et al. 2022, arXiv:2212.04089).

    Idea: train the model further on the forget examples, then move the weights in the opposite direction.
    Formula: theta' = theta - alpha * (theta_reinforced - theta)
        theta             the model that must forget
        theta_reinforced  the same model after fine-tuning on the forget examples alone
    alpha=0 returns theta; alpha=1 goes as far back as the fine-tuning went forward.

    Pitfalls: the right alpha depends on the length of the reinforcing run; measure utility at several values.
    """

    alpha: float = 1.0
    """Length of the step away from the reinforced model; 0 changes nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise ValueError("alpha must be a number >= 0")

    def __call__(self, base: State, others: Sequence[State]) -> dict[str, Tensor]:
        """Return theta' from theta and [theta_reinforced]. Raises ConfigError."""
        if len(others) != 1:
            raise ConfigError(f"task_vector: reads exactly one other model, the reinforced one, got {len(others)}")
        check_same(base, others, what="reinforced model")
        return each(base, lambda name, theta: theta - self.alpha * (wide(others[0][name]) - theta))
