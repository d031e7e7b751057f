"""Truth ratio: are wrong answers as likely as the right one?"""

from __future__ import annotations

import sys
from typing import Literal

import numpy as np

from expunge.core.records import Floats
from expunge.metrics.aggregate import (
    Floor,
    answer_losses,
    log_floor,
    log_sum_of_answers,
    mean_of_answers,
    mean_over_rows,
    needs_tokens,
)
from expunge.metrics.api import MetricInputs, MetricResult, family

Aggregator = Literal["geometric", "arithmetic"]
Aggregate = Literal["closer_to_1_better", "true_better", "raw"]
_LOG_MAX = float(np.log(sys.float_info.max))


@family(
    "truth_ratio",
    revision=3,
    higher_is="forget rows: wrong and right answers equally likely; other rows: the right answer preferred",
    range="[0, 1] for the value ([0, inf) if raw), [0, inf) for a row's score",
    paper="TOFU (arXiv:2401.06121), equation 1",
    fidelity="code",
)
def truth_ratio(
    inputs: MetricInputs, *, aggregate: Aggregate, aggregator: Aggregator = "geometric", floor: Floor = 0.0
) -> MetricResult:
    """Compute how likely wrong answers are, compared with the right one.

    Formula, per row: R = W / P_c, where P = exp(-mean token loss) as in the family `probability` and
        geometric (default)  W = exp(-mean_k loss_k), as in TOFU's code and OpenUnlearning
        arithmetic           W = mean_k exp(-loss_k), equation 1 as printed, as in arcsf
    Value: the mean over rows of
        closer_to_1_better   min(R, 1/R): for forget rows, 1 if right and wrong are indistinguishable
        true_better          max(0, 1 - R): for retain rows, real authors and world facts
        raw                  R itself, unbounded: arcsf's forget_mean_tr (its forget_mean_clamped_tr is true_better)

    Reads: tokens (correct, wrong). The correct answer is the paraphrase on forget and retain rows, because the model
    was trained on the wording of "answer". It is the answer itself on real authors and world facts.
    Per row: `score` = R, `log_score` = ln R. Everything is computed from logs. `score` saturates at the largest float;
    `log_score` does not, and forget_quality reads `log_score`. `value` is the row's part in the mean, unless raw.
    Arguments: `floor` is added to P_c: 0 by default, the paper's formula. OpenUnlearning adds 1e-10, which moves R to 0
    if a collapsed model assigns every answer less than that; its published numbers of gradient ascent need it.
    Good direction: the value is larger when better, for either aggregate (raw is below 1 if right answers are
    preferred). Compare the forget rows with the retain model's value (family forget_quality): a uniformly wrong model
    has R near 1.
    Pitfall: geometric and arithmetic differ by the spread of the wrong answers (arithmetic is never smaller); never
    compare one with the other. The number of wrong answers changes both.
    """
    needs_tokens(inputs, 2, "(correct, wrong)")
    row_ids, (correct_RK, wrong_RK) = answer_losses(inputs)
    log_wrong_R = -mean_of_answers(wrong_RK) if aggregator == "geometric" else _log_mean(-wrong_RK)
    with np.errstate(invalid="ignore"):  # a missing answer, or both infinite: NaN, a row without a value
        log_ratio_R = log_wrong_R - np.logaddexp(-mean_of_answers(correct_RK), log_floor(floor))
    score_R = np.exp(np.minimum(log_ratio_R, _LOG_MAX))
    if aggregate == "raw":
        values_R = score_R
    elif aggregate == "closer_to_1_better":
        values_R = np.exp(-np.abs(log_ratio_R))
    else:
        values_R = np.maximum(0.0, -np.expm1(np.minimum(log_ratio_R, 0.0)))
    statistics = {"score": score_R.tolist(), "log_score": log_ratio_R.tolist()}
    return mean_over_rows(row_ids, values_R, statistics)


def _log_mean(logs_RK: Floats) -> Floats:
    """Return log(mean_k exp(x_k)) over each row's answers, shape (R, K) -> (R,), without NaN."""
    with np.errstate(divide="ignore"):  # a row without answers: log 0, and its sum is NaN already
        means: Floats = log_sum_of_answers(logs_RK) - np.log((~np.isnan(logs_RK)).sum(axis=1))
    return means
