"""Forget quality: is the unlearned model distinguishable from one that never saw the forget rows?"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from expunge.core.errors import ConfigError
from expunge.core.records import Floats
from expunge.metrics.aggregate import RESAMPLES, SEED, not_available, row_difference
from expunge.metrics.api import FIRST_ROWS, MetricInputs, MetricResult, family, missing

Value = Literal["p", "ln_p", "ln_p_greater"]


@family(
    "forget_quality",
    revision=2,
    higher_is="better forgetting",
    range="[0, 1] (a p-value; (-inf, 0] for its logs)",
    paper="TOFU (arXiv:2401.06121), section 2.2",
    fidelity="code",
)
def forget_quality(inputs: MetricInputs, *, value: Value = "p") -> MetricResult:
    """Compute the p-value of a two-sided Kolmogorov-Smirnov test of this model's and the retain model's truth ratios.

    Formula: D = max |F_model(x) - F_retain(x)| over the truth ratios of the forget rows (raw, not folded at 1); the
    value is P(D or larger | same distribution), as by scipy's `ks_2samp`.

    Reads: parent `truth_ratio`, and the same metric of the retain model, over the same rows. Without a retain model,
    or with other rows, the result is missing with a reason. Rows without a score on one side leave both sides. The logs
    that TOFU's authors publish have the first 300 rows of a split; then only these count (n_rows).
    Extra: ks_distance (D) with ks_ci_low and ks_ci_high (95 % bootstrap over rows, the same draws on both sides; a
    largest gap is biased upward, so the interval may lie above D), log10_p and ln_p (two-sided), ln_p_greater
    (one-sided: this model's ratios lie lower). The logs are exact (reflection principle, below) and finite even if the
    p-value underflows to 0. n_rows, n_missing.
    Arguments: `value`: p (default), ln_p (arcsf's forget_quality_2) or ln_p_greater (its forget_quality_1).
    Good direction: high; above 0.05 the test does not distinguish the two.
    Pitfalls: the p-value falls with the number of rows at the same D, so compare D across splits and p within one. It
    is high for any model with ratios like the retain model's, even a broken one. It means nothing unless both sides use
    the same truth-ratio arguments.

    Exact tail for n rows on each side, with k = n D:
        one-sided  C(2n, n+k) / C(2n, n)
        two-sided  2 * sum_{j>=1} (-1)^(j-1) C(2n, n+jk) / C(2n, n)
    """
    name = inputs.metric.parents.get("truth_ratio")
    if name is None:
        raise ConfigError(f"metric {inputs.metric.name}: family forget_quality needs the parent truth_ratio")
    mine = inputs.parents["truth_ratio"]
    if math.isnan(mine.value) and not mine.per_row:
        return not_available(name, mine)
    if inputs.retain is None:
        return missing(f"needs a retain model's truth ratios ({inputs.metric.retain or name}); none was given")
    if not inputs.retain.per_row:
        why = f": {inputs.retain.reason}" if inputs.retain.reason else ""
        return missing(f"the retain model's {inputs.metric.retain or name} has no rows{why}")
    theirs = inputs.retain
    if FIRST_ROWS in theirs.extra and theirs.per_row.keys() < mine.per_row.keys():
        mine = dataclasses.replace(mine, per_row={row: mine.per_row[row] for row in theirs.per_row})
    differ = row_difference("truth ratios", mine.per_row, theirs.per_row)
    if differ:
        return missing(differ)
    x_n, y_n = _paired_scores(mine, theirs)
    n = len(x_n)
    if n == 0:
        return missing("no row has a truth ratio in both models")

    gaps_2n = _distribution_gaps(x_n, y_n)
    distance, greater = float(np.abs(gaps_2n).max()), float(max(gaps_2n.max(), 0.0))
    ln_p, ln_p_greater = ln_p_two_sided(n, round(distance * n)), ln_p_one_sided(n, round(greater * n))
    low, high = ks_interval(x_n, y_n)
    return MetricResult(
        value={"p": math.exp(ln_p), "ln_p": ln_p, "ln_p_greater": ln_p_greater}[value],
        extra={
            "ks_distance": distance,
            "ks_ci_low": low,
            "ks_ci_high": high,
            "log10_p": ln_p / math.log(10.0),
            "ln_p": ln_p,
            "ln_p_greater": ln_p_greater,
            "n_rows": float(n),
            "n_missing": float(len(mine.per_row) - n),
        },
    )


def ks_distance(x_n: Floats, y_m: Floats) -> float:
    """Return max |F_x - F_y|, the largest gap between two empirical distribution functions."""
    return float(np.abs(_distribution_gaps(x_n, y_m)).max())


def _distribution_gaps(x_n: Floats, y_m: Floats) -> Floats:
    """Return F_x - F_y at each value of both samples, shape (n + m,)."""
    both = np.concatenate([x_n, y_m])
    shares = [np.searchsorted(np.sort(side), both, side="right") / len(side) for side in (x_n, y_m)]
    gaps: Floats = shares[0] - shares[1]
    return gaps


def ks_between(one: MetricResult, other: MetricResult) -> float:
    """Return the KS distance between two models' truth ratios over the rows of both; NaN if they share none."""
    if set(one.per_row) != set(other.per_row):
        return math.nan
    x_n, y_n = _paired_scores(one, other)
    return ks_distance(x_n, y_n) if len(x_n) else math.nan


def ks_interval(x_n: Floats, y_n: Floats) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the KS distance over RESAMPLES draws, the same rows on both sides."""
    # Ranks in place of ratios: the distance is the same, and it is fast to count them.
    rank = np.unique(np.concatenate([x_n, y_n]), return_inverse=True)[1]
    x_rank, y_rank, top = rank[: len(x_n)], rank[len(x_n) :], int(rank.max()) + 1
    rng = np.random.default_rng(SEED)
    distances = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        sample = rng.integers(0, len(x_n), size=len(x_n))
        gap = np.bincount(x_rank[sample], minlength=top) - np.bincount(y_rank[sample], minlength=top)
        distances[i] = np.abs(gap.cumsum()).max() / len(x_n)
    low, high = np.quantile(distances, [0.025, 0.975])
    return float(low), float(high)


def ln_p_one_sided(n: int, k: int) -> float:
    """Return ln P(n D+ >= k) for two samples of n from one continuous distribution, exact for 0 <= k <= n."""
    return float(_ln_terms(n, np.array([float(k)]))[0])


def ln_p_two_sided(n: int, k: int) -> float:
    """Return ln P(n D >= k) for two samples of n from one continuous distribution, exact for 0 <= k <= n."""
    if k == 0:
        return 0.0
    terms = _ln_terms(n, np.arange(1, n // k + 1, dtype=np.float64) * k)
    series = np.exp(terms - terms[0])
    series[1::2] *= -1.0
    return min(0.0, math.log(2.0) + float(terms[0]) + math.log(math.fsum(series)))


def _ln_terms(n: int, k: Floats) -> Floats:
    """Return ln(C(2n, n+k) / C(2n, n))."""
    return np.array([2 * math.lgamma(n + 1) - math.lgamma(n + j + 1) - math.lgamma(n - j + 1) for j in k.tolist()])


def _paired_scores(mine: MetricResult, retain: MetricResult) -> tuple[Floats, Floats]:
    """Return scores of the rows of both sides, in one order: ln R if both store it, else R (other projects' files)."""
    both = [*mine.per_row.values(), *retain.per_row.values()]
    statistic = "log_score" if all("log_score" in row for row in both) else "score"
    ids = sorted(mine.per_row)
    x_n, y_n = (np.array([r.per_row[i].get(statistic, math.nan) for i in ids], dtype=float) for r in (mine, retain))
    there = ~(np.isnan(x_n) | np.isnan(y_n))
    return x_n[there], y_n[there]
