"""One weight edit per file: a function from weights to weights, without training.

A new file in this folder registers itself.
"""

from __future__ import annotations

from expunge.methods.weight_edits.api import (
    HiddenStatistics,
    Moments,
    State,
    TargetSearch,
    WeightEdit,
    WeightEditSpec,
    find_edit,
    make_weight_edit,
    weight_edit,
    weight_edit_registry,
)

__all__ = [
    "WeightEdit",
    "WeightEditSpec",
    "State",
    "HiddenStatistics",
    "Moments",
    "TargetSearch",
    "weight_edit",
    "weight_edit_registry",
    "find_edit",
    "make_weight_edit",
]
