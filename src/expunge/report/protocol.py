"""The stories protocol as plain values: courses of deletion and recovery, and probes by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SCORE = "feature_score"


@dataclass(frozen=True)
class ProtocolCourse:
    """One model during deletion or recovery. points: {"step": 10, "feature_score": .5, "loss_NAME": 1.2, ...}, from 0.

    role: full (present in pretraining), retain (never learned) or unlearn (a deletion).
    """

    label: str
    role: Literal["full", "retain", "unlearn"]
    points: tuple[Mapping[str, float], ...]

    def at(self, step: int, name: str) -> float | None:
        """Return a number after a step, or None if it was not measured there."""
        return next((p[name] for p in self.points if p["step"] == step and name in p), None)


@dataclass(frozen=True)
class ProbeCurve:
    """AUC of the linear probes of one attribute by layer, of one model."""

    label: str
    role: Literal["full", "retain", "unlearn"]
    attribute: str
    layers: tuple[int, ...]
    auc: tuple[float, ...]


@dataclass(frozen=True)
class Protocol:
    """A feature deleted and recovered. task: the data set with the feature; losses: data sets with reported losses.

    shown_at: steps of recovery for the table. findings: comparison of the numbers with the paper's claims, line by
    line.
    """

    feature: str
    task: str
    losses: tuple[str, ...]
    deletions: tuple[ProtocolCourse, ...]
    recoveries: tuple[ProtocolCourse, ...]
    probes: tuple[ProbeCurve, ...]
    shown_at: tuple[int, ...]
    findings: tuple[str, ...] = ()
