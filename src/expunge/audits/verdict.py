"""Where a model stands between its two controls, and what may be said of it. Pure functions of numbers per row.

Intervals are percentile bootstraps over rows (RESAMPLES draws, fixed seed): the same rows are drawn for the model and
both controls. They do not hold the spread over training seeds.
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
    """(model - retain) / (full - retain): 0 is the retain model, 1 the full one; NaN, with a reason, for none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    reason: str | None = None


def draws(n_rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Rows of each bootstrap draw, shape (RESAMPLES, n_rows)."""
    return np.random.default_rng(SEED).integers(0, n_rows, size=(RESAMPLES, n_rows))


def interval(values_D: Floats) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a number over the draws."""
    low, high = np.quantile(values_D, [0.025, 0.975])
    return float(low), float(high)


def position(model_R: Floats, retain_R: Floats, full_R: Floats) -> ControlPosition:
    """The position of the mean over rows, with its interval; each shape (R,), more is more knowledge.

    A row that one of the three lacks (NaN) leaves. There is no position where fewer than two rows are left, or where
    the controls' means do not differ (the interval of their difference holds 0) or lie the wrong way round.
    """
    there = ~(np.isnan(model_R) | np.isnan(retain_R) | np.isnan(full_R))
    model, retain, full = model_R[there], retain_R[there], full_R[there]
    if len(model) < 2:
        return ControlPosition(reason=f"only {len(model)} rows have a value in the model and both controls")
    drawn = draws(len(model))
    gaps = (full - retain)[drawn].mean(axis=1)
    low, high = interval(gaps)
    if low <= 0 <= high:
        return ControlPosition(
            reason="the controls do not differ: this cannot tell the full model from the retain model"
        )
    if high < 0:
        return ControlPosition(
            reason="the full model scores below the retain model: this does not measure knowledge here"
        )
    value = float((model - retain).mean() / (full - retain).mean())
    there = gaps != 0  # a draw of rows on which the controls are equal places nothing
    return ControlPosition(value, *interval((model - retain)[drawn].mean(axis=1)[there] / gaps[there]))


def differ(retain_R: Floats, full_R: Floats) -> bool:
    """Whether the full model's mean is above the retain model's: the interval of their difference is above 0."""
    gaps = (full_R - retain_R)[~np.isnan(full_R - retain_R)]
    return len(gaps) > 1 and interval(gaps[draws(len(gaps))].mean(axis=1))[0] > 0


def verdict(where: ControlPosition, *, margin: float, known: float) -> tuple[str, str]:
    """What may be said, and a remark. By the ends of the interval:

    forgotten    low <= margin and high < known: not told from the retain model, and no large part is left
    traces       low > margin: more is left than in the retain model
    still known  low >= known: at least the share `known` of what the full model knows is left
    undecided    low <= margin and high >= known: the rows are too few to say
    """
    if where.reason is not None:
        return MISSING, where.reason
    if where.low > margin:
        return (KNOWN if where.low >= known else TRACES), ""
    if where.high >= known:
        return OPEN, "the interval reaches from the retain model to what is still known: too few rows"
    return FORGOTTEN, "pushed below the retain model" if where.high < -margin else ""


def area(curve_SR: Floats, steps: Sequence[int]) -> Floats:
    """The mean height of each row's curve over the steps, by trapezoids; shape (S, R) -> (R,), in the score's units."""
    x = np.asarray(steps, dtype=float)
    made: Floats = np.trapezoid(curve_SR, x=x, axis=0) / (x[-1] - x[0])
    return made


def steps_to(means_S: Floats, steps: Sequence[int], level: float) -> float:
    """The steps until a curve reaches a level, straight lines between its points; infinite if it never does."""
    for i, mean in enumerate(means_S):
        if mean >= level:
            if i == 0:
                return float(steps[0])
            share = (level - means_S[i - 1]) / (mean - means_S[i - 1])
            return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))
    return math.inf


@dataclass(frozen=True)
class Recovery:
    """Steps to regain a share of what was lost, with the interval; of the retain model, to the same level."""

    steps: float
    low: float
    high: float
    retain_steps: float


def recovery(
    model_SR: Floats, retain_SR: Floats, full_SR: Floats, steps: Sequence[int], share: float
) -> Recovery | str:
    """Steps until the model is back at its start + share (full - its start), all at step 0; or why there is no such.

    Each shape (S, R), without NaN. Infinite where the level is not reached within the steps.
    """
    start, goal = model_SR[0].mean(), full_SR[0].mean()
    if goal <= start:
        return "nothing to recover: it starts at the full model's level"

    def reach(model_SD: Floats, full_D: Floats) -> list[float]:
        return [steps_to(m_S, steps, m_S[0] + share * (f - m_S[0])) for m_S, f in zip(model_SD.T, full_D, strict=True)]

    drawn = draws(model_SR.shape[1])
    many = np.sort(reach(model_SR[:, drawn].mean(axis=2), full_SR[0][drawn].mean(axis=1)))
    level = float(start + share * (goal - start))
    return Recovery(
        steps_to(model_SR.mean(axis=1), steps, level),
        float(many[int(0.025 * RESAMPLES)]),  # order statistics: between a number and infinity there is no mean
        float(many[int(0.975 * RESAMPLES)]),
        steps_to(retain_SR.mean(axis=1), steps, level),
    )


def two_sided(scores_N: Floats, centre: float) -> Floats:
    """How far each score is from the centre, on either side."""
    made: Floats = np.abs(scores_N - centre)
    return made


def auc(erased_M: Floats, others_O: Floats) -> float:
    """P(an erased row's score > another's), ties count half; both without NaN."""
    below = (erased_M[:, None] > others_O[None, :]).mean()
    return float(below + 0.5 * (erased_M[:, None] == others_O[None, :]).mean())


def wins(erased_M: Floats, others_O: Floats) -> Floats:
    """1 where an erased row's score is above another's, 0.5 where they tie, else 0; shape (M, O), whose mean is AUC."""
    made: Floats = np.sign(erased_M[:, None] - others_O[None, :]) / 2 + 0.5
    return made


def _drawn_means(won: Sequence[Floats]) -> Floats:
    """The mean of each matrix (M, O) over bootstrap draws of its rows and columns, the same for all; (RESAMPLES, K)."""
    m, o = won[0].shape
    rng = np.random.default_rng(SEED)
    out = np.empty((RESAMPLES, len(won)))
    for i in range(RESAMPLES):
        erased = np.bincount(rng.integers(0, m, m), minlength=m)
        others = np.bincount(rng.integers(0, o, o), minlength=o)
        out[i] = [float(erased @ w @ others) / (m * o) for w in won]
    return out


def wins_position(model_MO: Floats, retain_MO: Floats, full_MO: Floats) -> tuple[ControlPosition, tuple[float, float]]:
    """The position of an AUC between the controls' (each given as `wins`), and the interval of the model's own.

    There is none where the interval of the controls' difference reaches 0 or below.
    """
    model, retain, full = _drawn_means([model_MO, retain_MO, full_MO]).T
    own, gaps = interval(model), full - retain
    if interval(gaps)[0] <= 0:
        return ControlPosition(
            reason="the controls do not differ: this cannot tell the full model from the retain model"
        ), own
    means = [float(w.mean()) for w in (model_MO, retain_MO, full_MO)]
    value = (means[0] - means[1]) / (means[2] - means[1])
    there = gaps != 0
    return ControlPosition(value, *interval((model - retain)[there] / gaps[there])), own


def auc_difference(
    model: tuple[Floats, Floats], retain: tuple[Floats, Floats]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intervals of the model's AUC and of its difference from the retain model's, the same rows drawn for both.

    Each pair: scores of the erased rows (M,) and of the others (O,), in the same order in both models.
    """
    drawn = _drawn_means([wins(*model), wins(*retain)])
    return interval(drawn[:, 0]), interval(drawn[:, 0] - drawn[:, 1])


def percentiles(scores_R: Floats, among_N: Floats) -> Floats:
    """The share of the others that each score passes, ties counting half; NaN where there is no score, or no others."""
    if not len(among_N):
        return np.full(len(scores_R), math.nan)
    below = (among_N[None, :] < scores_R[:, None]).mean(axis=1)
    made: Floats = below + 0.5 * (among_N[None, :] == scores_R[:, None]).mean(axis=1)
    return np.where(np.isnan(scores_R), math.nan, made)
