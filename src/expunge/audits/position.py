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
from expunge.metrics.aggregate import CELLS, RESAMPLES, SEED
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
    size = max(1, CELLS // model_SR.size)  # draws at once: bounds the memory
    batches = (samples[i : i + size] for i in range(0, RESAMPLES, size))
    many = np.sort(np.concatenate([reach(model_SR[:, d].mean(axis=2), full_SR[0][d].mean(axis=1)) for d in batches]))
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
    return float(percentiles(erased_M, others_O).mean())


def auc_draws(pairs: Sequence[tuple[Floats, Floats]]) -> Floats:
    """Return the AUC of each pair over bootstrap draws of rows, shape (RESAMPLES, K).

    Each pair: scores of the erased rows (M,) and of the others (O,), without NaN and in the same order in all pairs.
    One draw takes the same rows in all pairs. The scores count by their ranks, so no table of M x O is made.
    """
    m, o = len(pairs[0][0]), len(pairs[0][1])
    ranks = [np.unique(np.concatenate(pair), return_inverse=True)[1] for pair in pairs]
    rng = np.random.default_rng(SEED)
    out = np.empty((RESAMPLES, len(pairs)))
    for i in range(RESAMPLES):
        erased, others = rng.integers(0, m, m), m + rng.integers(0, o, o)
        for k, rank in enumerate(ranks):
            size = int(rank.max()) + 1
            counts, others_n = (np.bincount(rank[rows], minlength=size) for rows in (erased, others))
            below_n = others_n.cumsum() - others_n / 2
            out[i, k] = float(counts @ below_n) / (m * o)
    return out


def auc_difference(model: tuple[Floats, Floats], retain: tuple[Floats, Floats]) -> tuple[float, float]:
    """Return the interval of the difference of the model's AUC from the retain model's, over the same draws.

    Each pair: scores of the erased rows (M,) and of the others (O,), in the same order in both models.
    """
    aucs = auc_draws([model, retain])
    return percentile_interval(aucs[:, 0] - aucs[:, 1])


def percentiles(scores_R: Floats, among_N: Floats) -> Floats:
    """Return the share of the others below each score, ties counting half; NaN for no score, or no others."""
    if not len(among_N):
        return np.full(len(scores_R), math.nan)
    ordered = np.sort(among_N)
    below_R, upto_R = (np.searchsorted(ordered, scores_R, side=side) for side in ("left", "right"))
    shares: Floats = (below_R + upto_R) / (2 * len(ordered))
    return np.where(np.isnan(scores_R), math.nan, shares)
