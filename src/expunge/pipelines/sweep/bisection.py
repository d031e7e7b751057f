"""The search for a setting such as the learning rate, by bisection. Plain arithmetic, without models.

A trial that ends under the utility floor is too strong, one that ends above it and has not forgotten is too weak.
Sweeps (`sweep.sampler=bisect`) and erasures use it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

STEP = 3.0  # factor of the rate while trials are only too weak or only too strong
FAR = 0.8  # share of the knowledge left from which the factor is FAR_STEP
FAR_STEP = 4.0
NARROW = 1.4  # ratio of two rates between which no other is tried

Strength = Literal["weak", "strong", "enough"]


class RateOutcome(Protocol):
    """The result of a trial: its rate, whether that is too weak, and the share of the knowledge that is left."""

    @property
    def rate(self) -> float:
        """The value of the setting."""

    @property
    def left(self) -> float:
        """The distance from the goal, as a share of that before the trial."""

    @property
    def strength(self) -> Strength:
        """Whether the rate is too small, too large, or has led to a model that has forgotten enough."""


@dataclass(frozen=True)
class RatePoint:
    """The result of a trial of a sweep."""

    rate: float
    left: float
    strength: Strength


def next_in_range(low: float, high: float, own: Sequence[RateOutcome]) -> float:
    """Return the next value between two bounds after these outcomes; the middle of the widest gap if none is better."""
    if not own:
        return rounded(math.sqrt(low * high))
    known = {outcome.rate for outcome in own}
    rate = next_rate(own)
    if rate is not None and (rate := min(max(rate, low), high)) not in known:
        return rate
    bounds = sorted({low, high, *known})
    below, above = max(itertools.pairwise(bounds), key=lambda pair: pair[1] / pair[0])
    return rounded(math.sqrt(below * above))


def next_rate(own: Sequence[RateOutcome]) -> float | None:
    """Return the next learning rate after these outcomes; None if no other rate is worth a trial."""
    weak = [outcome for outcome in own if outcome.strength == "weak"]
    enough = [outcome for outcome in own if outcome.strength == "enough"]
    strong = [outcome for outcome in own if outcome.strength == "strong"]
    if enough:  # a smaller rate may keep more utility
        most = min(outcome.rate for outcome in enough)
        least = max((outcome.rate for outcome in own if outcome.rate < most), default=most / STEP**2)
        return between(least, most)
    if not strong:
        best = max(weak, key=lambda outcome: outcome.rate)
        return rounded(best.rate * (FAR_STEP if best.left > FAR else STEP))
    if not weak:
        worst = min(strong, key=lambda outcome: outcome.rate)
        return rounded(worst.rate / STEP)
    return between(max(outcome.rate for outcome in weak), min(outcome.rate for outcome in strong))


def between(low: float, high: float) -> float | None:
    """Return the geometric mean of two rates; None if they are too near or in the wrong order."""
    return rounded(math.sqrt(low * high)) if high > NARROW * low else None


def rounded(rate: float) -> float:
    """Return a learning rate with three digits, as labels show it."""
    return float(f"{rate:.3g}")
