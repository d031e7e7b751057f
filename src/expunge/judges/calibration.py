"""Calibration of a judge: its verdicts against labels on texts outside its training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from expunge.core.errors import DataError

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Texts with a score in [low, high[ (the last bin includes 1): their number, mean score, and share of yes."""

    low: float
    high: float
    n: int
    mean_score: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Verdicts compared with labels; yes is a score of `threshold` or more.

    false_positive_rate: yes among texts labelled no; false_negative_rate: no among texts labelled yes. NaN if no text
    has that label. brier: mean squared error of the score; calibration_error: mean over texts of
    |mean score - share of yes| of their bin. ci: Wilson's 95 % interval of the accuracy.
    """

    n: int
    n_missing: int
    n_positive: int
    threshold: float
    accuracy: float
    ci_low: float
    ci_high: float
    false_positive_rate: float
    false_negative_rate: float
    auc: float
    brier: float
    calibration_error: float
    reliability: tuple[CalibrationBin, ...]


def calibrate(scores: Sequence[float], labels: Sequence[bool], *, threshold: float = 0.5) -> Calibration:
    """Compare scores with labels. Missing scores count as neither right nor wrong; `n_missing` counts them.

    Raises DataError if the two differ in length, or no labelled text has a score.
    """
    if len(scores) != len(labels):
        raise DataError(f"labels: {len(labels)} for {len(scores)} texts")
    p, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    there = ~np.isnan(p)
    p, y = p[there], y[there]
    if not len(p):
        raise DataError("calibrate: no labelled text has a score")
    yes = p >= threshold
    right = yes == y
    ci = binomtest(int(right.sum()), len(right)).proportion_ci(0.95, method="wilson")
    bins = _bins(p, y)
    return Calibration(
        n=len(p),
        n_missing=int((~there).sum()),
        n_positive=int(y.sum()),
        threshold=threshold,
        accuracy=float(right.mean()),
        ci_low=float(ci.low),
        ci_high=float(ci.high),
        false_positive_rate=_mean(yes[~y]),
        false_negative_rate=_mean(~yes[y]),
        auc=float(roc_auc_score(y, p)) if 0 < y.sum() < len(y) else math.nan,
        brier=float(np.square(p - y).mean()),
        calibration_error=sum(b.n * abs(b.mean_score - b.observed) for b in bins if b.n) / len(p),
        reliability=bins,
    )


def _bins(p: np.ndarray, y: np.ndarray) -> tuple[CalibrationBin, ...]:
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    return tuple(
        CalibrationBin(k / BINS, (k + 1) / BINS, int((at == k).sum()), _mean(p[at == k]), _mean(y[at == k]))
        for k in range(BINS)
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
