"""One unlearning method per file. A new file in this folder is the whole registration."""

from __future__ import annotations

import importlib
import pkgutil

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

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

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
