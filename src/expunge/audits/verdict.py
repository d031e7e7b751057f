"""Position of a model between its two controls, and the verdict. Pure functions of numbers per row.

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

FORGOTTEN, TRACES, KNOWN, OPEN, MISSING = "forgotten", "traces", "still known", "undecided", "missing"


@dataclass(frozen=True)
class ControlPosition:
    """(model - retain) / (full - retain): 0 is the retain model, 1 the target model; NaN with a reason if undefined."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str | None = None


def draws(n_rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the rows of each bootstrap draw, shape (RESAMPLES, n_rows)."""
    return np.random.default_rng(SEED).integers(0, n_rows, size=(RESAMPLES, n_rows))


def interval(values_D: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of a number over the draws."""
    low, high = np.quantile(values_D, [0.025, 0.975])
    return float(low), float(high)


def position(model_R: Floats, retain_R: Floats, full_R: Floats) -> ControlPosition:
    """Return the position of the mean over rows, with its interval; each shape (R,), larger is more knowledge.

    A row with a missing value (NaN) on one side is ignored. The position is undefined if fewer than two rows are left,
    or the controls' means do not differ (the interval of their difference contains 0) or have the wrong order.
    """
    there = ~(np.isnan(model_R) | np.isnan(retain_R) | np.isnan(full_R))
    model, retain, full = model_R[there], retain_R[there], full_R[there]
    if len(model) < 2:
        return ControlPosition(reason=f"only {len(model)} rows have a value in the model and both controls")
    samples = draws(len(model))
    gaps = (full - retain)[samples].mean(axis=1)
    low, high = interval(gaps)
    if low <= 0 <= high:
        return ControlPosition(
            reason="the controls do not differ: this cannot separate the target model from the retain model"
        )
    if high < 0:
        return ControlPosition(
            reason="the target model scores below the retain model: this does not measure knowledge here"
        )
    value = float((model - retain).mean() / (full - retain).mean())
    there = gaps != 0  # a draw on which the controls are equal has no position
    return ControlPosition(value, *interval((model - retain)[samples].mean(axis=1)[there] / gaps[there]))


def differ(retain_R: Floats, full_R: Floats) -> bool:
    """Return whether the target model's mean is above the retain model's: the interval of the difference is above 0."""
    gaps = (full_R - retain_R)[~np.isnan(full_R - retain_R)]
    return len(gaps) > 1 and interval(gaps[draws(len(gaps))].mean(axis=1))[0] > 0


def verdict(where: ControlPosition, *, margin: float, known: float) -> tuple[str, str]:
    """Return the verdict, and a remark, from the ends of the interval.

    forgotten    low <= margin and high < known: not distinguishable from the retain model, and no large part is left
    traces       low > margin: more is left than in the retain model
    still known  low >= known: at least the share `known` of the target model's knowledge is left
    undecided    low <= margin and high >= known: too few rows
    """
    if where.reason is not None:
        return MISSING, where.reason
    if where.low > margin:
        return (KNOWN if where.low >= known else TRACES), ""
    if where.high >= known:
        return OPEN, "the interval reaches from the retain model to the threshold `known`: too few rows"
    return FORGOTTEN, "suppressed below the retain model" if where.high < -margin else ""


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


def wins_position(model_MO: Floats, retain_MO: Floats, full_MO: Floats) -> tuple[ControlPosition, tuple[float, float]]:
    """Return the position of an AUC between the controls' (all as `wins`), and the interval of the model's own.

    The position is undefined if the interval of the controls' difference reaches 0 or below.
    """
    model, retain, full = _drawn_means([model_MO, retain_MO, full_MO]).T
    own, gaps = interval(model), full - retain
    if interval(gaps)[0] <= 0:
        return ControlPosition(
            reason="the controls do not differ: this cannot separate the target model from the retain model"
        ), own
    means = [float(w.mean()) for w in (model_MO, retain_MO, full_MO)]
    value = (means[0] - means[1]) / (means[2] - means[1])
    there = gaps != 0
    return ControlPosition(value, *interval((model - retain)[there] / gaps[there])), own


def auc_difference(
    model: tuple[Floats, Floats], retain: tuple[Floats, Floats]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return intervals of the model's AUC and of its difference from the retain model's, over the same draws.

    Each pair: scores of the erased rows (M,) and of the others (O,), in the same order in both models.
    """
    means = _drawn_means([wins(*model), wins(*retain)])
    return interval(means[:, 0]), interval(means[:, 0] - means[:, 1])


def percentiles(scores_R: Floats, among_N: Floats) -> Floats:
    """Return the share of the others below each score, ties counting half; NaN for no score, or no others."""
    if not len(among_N):
        return np.full(len(scores_R), math.nan)
    below = (among_N[None, :] < scores_R[:, None]).mean(axis=1)
    shares: Floats = below + 0.5 * (among_N[None, :] == scores_R[:, None]).mean(axis=1)
    return np.where(np.isnan(scores_R), math.nan, shares)
