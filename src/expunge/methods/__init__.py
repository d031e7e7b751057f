"""One unlearning method per file. A new file in this folder is the whole registration."""

from __future__ import annotations

from expunge.methods.api import (
    LossInputs,
    LossOutput,
    MethodSpec,
    Quantity,
    Requirements,
    ScoredPositions,
    SideOutputs,
    find,
    method,
    registry,
)
from expunge.methods.objective import Objective, TermWeights, objective

__all__ = [
    "Requirements",
    "Objective",
    "ScoredPositions",
    "Quantity",
    "SideOutputs",
    "MethodSpec",
    "LossOutput",
    "LossInputs",
    "TermWeights",
    "find",
    "method",
    "objective",
    "registry",
]
