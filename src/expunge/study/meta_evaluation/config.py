"""A meta-evaluation as settings. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.core.decode import strict


@strict
@dataclass(frozen=True, kw_only=True)
class MetaEvaluationConfig:
    """Which models are held against each other.

    variations: changes of `train`, such as {num_train_epochs: 10}; the pools hold a full and a retain model for each,
    and for `train` as it is, for every one of `seeds.train`. The first retain model is no member of the pool: metrics
    that need a retain model compare with it, and it is the control of relearning. relearn: changes of `unlearn` for the
    epoch of training on the forget rows. bits: of the quantised weights. utility_floor: unlearned models below this
    share of the full model's utility are left out, as a broken model is robust to everything.

    Try: expunge run study=meta_tiny
    """

    variations: tuple[Mapping[str, Any], ...] = ()
    relearn: Mapping[str, Any] = field(default_factory=dict)
    bits: Literal[4, 8] = 4
    utility_floor: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.utility_floor <= 1:
            raise ValueError("utility_floor must be 0 to 1")
