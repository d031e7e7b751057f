"""A meta-evaluation as settings. This module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict


@strict
@dataclass(frozen=True, kw_only=True)
class MetaEvaluationConfig:
    """Models that a meta-evaluation compares, to test the metrics.

    The pools hold a target and a retain model for each variation and each seed of `seeds.train`. The first retain model
    is in no pool: metrics that need a retain model compare with it, and it is the control of relearning.

    Try: expunge run study=meta_tiny
    """

    variations: tuple[Mapping[str, Any], ...] = ()
    """Changes of `train`, such as {num_train_epochs: 10}; each adds a pair of models."""
    relearn: Mapping[str, Any] = field(default_factory=dict)
    """Changes of `unlearn` for the epoch of training on the forget rows."""
    bits: Literal[4, 8] = 4
    """Bits of the quantised weights."""
    formula: Literal["openunlearning", "two_sided"] = "openunlearning"
    """Formulas of R and Q: OpenUnlearning's (arXiv:2506.12618), or the two-sided ones of arXiv:2605.24614."""
    utility_floor: float = 0.8
    """Unlearned models below this share of the target model's utility are left out, because a broken model resists
    everything.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.utility_floor <= 1:
            raise ValueError("utility_floor must be 0 to 1")
