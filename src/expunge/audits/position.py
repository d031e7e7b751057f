"""Numbers of audits from numbers per row: areas of curves, recovery, and AUCs with their intervals.

Intervals are percentile bootstraps over rows (RESAMPLES draws, fixed seed), with the same rows for the model and both
controls. They do not include the spread over training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expunge.core.records import Floats
from expunge.metrics.aggregate import RESAMPLES, SEED
from expunge.metrics.equivalence import draws, percentile_interval


def area(curve_SR: Floats, steps: Sequence[int]) -> Floats:
    """Return the mean height of each row's curve over the steps, by trapezoids; (S, R) -> (R,), in score units."""
    x = np.asarray(steps, dtype=float)
    heights: Floats = np.trapezoid(curve_SR, x=x, axis=0) / (x[-1] - x[0])
    return heights


def steps_to(means_S: Floats, steps: Sequence[int], level: float) -> float:
    """Return the steps until a curve reaches a level, with linear interpolation; infinite if it never does."""
    for i, mean in enumerate(means_S):
        if mean >= level:
            if i == 0:
                return float(steps[0])
            share = (level - means_S[i - 1]) / (mean - means_S[i - 1])
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return math.inf


@dataclass(frozen=True)
class Recovery:
    """Steps to regain a share of the loss, with the interval; and the retain model's steps to the same level."""

    steps: float
    low: float
    high: float
    retain_steps: float


def recovery(
    model_SR: Floats, retain_SR: Floats, full_SR: Floats, steps: Sequence[int], share: float
) -> Recovery | str:
    """Return the steps until the model is back at its start + share (full - its start), or why that is undefined.

    Start and full are values at step 0. Each shape is (S, R), without NaN. Infinite if the steps do not reach the
    level.
    """
    start, goal = model_SR[0].mean(), full_SR[0].mean()
    if goal <= start:
        return "nothing to recover: it starts at the target model's level"

    def reach(model_SD: Floats, full_D: Floats) -> list[float]:
        return [steps_to(m_S, steps, m_S[0] + share * (f - m_S[0])) for m_S, f in zip(model_SD.T, full_D, strict=True)]

    samples = draws(model_SR.shape[1])
    many = np.sort(reach(model_SR[:, samples].mean(axis=2), full_SR[0][samples].mean(axis=1)))
    level = float(start + share * (goal - start))
    return Recovery(
        steps_to(model_SR.mean(axis=1), steps, level),
        float(many[int(0.025 * RESAMPLES)]),  # order statistics: a mean of a number and infinity is undefined
        float(many[int(0.975 * RESAMPLES)]),
        steps_to(retain_SR.mean(axis=1), steps, level),
    )


def two_sided(scores_N: Floats, centre: float) -> Floats:
    """Return the distance of each score from the centre."""
    distances: Floats = np.abs(scores_N - centre)
    return distances


def auc(erased_M: Floats, others_O: Floats) -> float:
    """Return P(an erased row's score > another's), ties count half; both without NaN."""
    below = (erased_M[:, None] > others_O[None, :]).mean()
    return float(below + 0.5 * (erased_M[:, None] == others_O[None, :]).mean())


def wins(erased_M: Floats, others_O: Floats) -> Floats:
    """Return 1 if an erased row's score is above another's, 0.5 for a tie, else 0; shape (M, O), whose mean is AUC."""
    comparisons: Floats = np.sign(erased_M[:, None] - others_O[None, :]) / 2 + 0.5
    return comparisons


def _drawn_means(won: Sequence[Floats]) -> Floats:
    """Return the mean of each matrix (M, O) over bootstrap draws of rows and columns, equal for all; (RESAMPLES, K)."""
    m, o = won[0].shape
    rng = np.random.default_rng(SEED)
    out = np.empty((RESAMPLES, len(won)))
    for i in range(RESAMPLES):
        erased = np.bincount(rng.integers(0, m, m), minlength=m)
        others = np.bincount(rng.integers(0, o, o), minlength=o)
        out[i] = [float(erased @ w @ others) / (m * o) for w in won]
    return out


def wins_differences(
    model_MO: Floats, retain_MO: Floats, full_MO: Floats
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the intervals of model - retain and of full - retain, of AUCs (all as `wins`) over the same draws."""
    model, retain, full = _drawn_means([model_MO, retain_MO, full_MO]).T
    return percentile_interval(model - retain), percentile_interval(full - retain)


def auc_difference(model: tuple[Floats, Floats], retain: tuple[Floats, Floats]) -> tuple[float, float]:
    """Return the interval of the difference of the model's AUC from the retain model's, over the same draws.

    Each pair: scores of the erased rows (M,) and of the others (O,), in the same order in both models.
    """
    means = _drawn_means([wins(*model), wins(*retain)])
    return percentile_interval(means[:, 0] - means[:, 1])


def percentiles(scores_R: Floats, among_N: Floats) -> Floats:
    """Return the share of the others below each score, ties counting half; NaN for no score, or no others."""
    if not len(among_N):
        return np.full(len(scores_R), math.nan)
    below = (among_N[None, :] < scores_R[:, None]).mean(axis=1)
    shares: Floats = below + 0.5 * (among_N[None, :] == scores_R[:, None]).mean(axis=1)
    return np.where(np.isnan(scores_R), math.nan, shares)
