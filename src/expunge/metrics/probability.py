"""Probability of answers, alone and among options."""

from __future__ import annotations

from typing import Literal

import numpy as np

from expunge.core.records import Floats
from expunge.metrics.aggregate import (
    Floor,
    answer_lists,
    answer_losses,
    log_floor,
    log_sum_of_answers,
    mean_of_answers,
    mean_over_rows,
    needs_tokens,
)
from expunge.metrics.api import MetricInputs, MetricResult, family

Over = Literal["mean", "max"]


@family(
    "probability",
    revision=3,
    higher_is="more knowledge of the answer",
    range="[0, 1]",
    paper="TOFU (arXiv:2401.06121), section 2.2",
    fidelity="code",
)
def probability(inputs: MetricInputs, *, over: Over = "mean") -> MetricResult:
    """Compute the length-normalised probability of an answer.

    Formula: P = exp(-(1/n) sum_t -log p(a_t | q, a_<t)) over the n scored tokens of the answer, EOS included. The
    value is the mean over rows; if a row has several answers (the name "perturbed"), over its answers first.

    Arguments: `over` selects the largest of a row's answers in place of their mean. Over refusals
    (the name "refusal") that measures how readily the model refuses in its preferred words.
    Reads: one token name. Per row: `prob` and `avg_loss` (nats per token), lists if the name stands for several.
    Good direction: low on forget rows (as low as the retain model's, no lower), high on all others.
    Pitfalls: it is the geometric mean of the token probabilities. So answers of different lengths compare, but it is
    not the probability of the whole answer. A low value can mean a broken model: read it with model_utility.
    """
    needs_tokens(inputs, 1, "(answers)")
    row_ids, (loss_RK,) = answer_losses(inputs)
    prob_RK = np.exp(-loss_RK)
    single = inputs.tokens is not None and inputs.metric.tokens[0] in inputs.tokens.by_variant
    statistics = {"prob": answer_lists(prob_RK, single=single), "avg_loss": answer_lists(loss_RK, single=single)}
    values_R = mean_of_answers(prob_RK) if over == "mean" else _largest(prob_RK)
    return mean_over_rows(row_ids, values_R, statistics)


@family(
    "answer_loss",
    revision=2,
    higher_is="less knowledge of the answer",
    range="[0, inf) nats per token",
    paper="none: the training loss, on any answers",
)
def answer_loss(inputs: MetricInputs) -> MetricResult:
    """Compute the mean token loss of one or more answers to each row.

    Formula: L = -(1/n) sum_t log p(a_t | q, a_<t) over the n scored tokens, EOS included; the mean over a row's
    answers, then over rows. It is arcsf's mean_loss_gt over "answer" and its mean_loss_perturbed over "perturbed".

    Reads: one token name. Per row: `avg_loss`, a list if the name stands for several.
    Good direction: on forget rows, as high as the retain model's; on all others, low.
    Pitfall: one row with a huge loss dominates the mean. In the family `probability` such a row counts little.
    """
    needs_tokens(inputs, 1, "(answers)")
    row_ids, (loss_RK,) = answer_losses(inputs)
    single = inputs.tokens is not None and inputs.metric.tokens[0] in inputs.tokens.by_variant
    return mean_over_rows(row_ids, mean_of_answers(loss_RK), {"avg_loss": answer_lists(loss_RK, single=single)})


def _largest(values_RK: Floats) -> Floats:
    """Return the largest of each row's answers, shape (R, K) -> (R,), without NaN; NaN for a row that has none."""
    top: Floats = np.where(np.isnan(values_RK), -np.inf, values_RK).max(axis=1)
    return np.where(np.isneginf(top), np.nan, top)


@family(
    "probability_w_options",
    revision=2,
    higher_is="more knowledge of the answer",
    range="[0, 1]",
    paper="TOFU (arXiv:2401.06121), section 2.2",
    fidelity="code",
)
def probability_w_options(inputs: MetricInputs, *, floor: Floor = 0.0) -> MetricResult:
    """Compute the share of the right answer among the right and the wrong options.

    Formula: P_c / (P_c + sum_k P_k + floor), P as in the family `probability`; the value is the mean over rows.
    Computed from log-probabilities, so it is exact even if every P underflows.

    Reads: tokens (correct, wrong), such as `("answer", "perturbed")`. Per row: `prob`.
    Arguments: `floor` is 0, the paper's formula. OpenUnlearning uses 1e-10. That changes only rows whose options are
    all about as unlikely (a collapsed model). There it moves the share to 0 and the formula does not.
    Good direction: high on real authors and world facts; guessing yields 1 / (number of options).
    Pitfall: a wrong option without a scored token leaves the sum, which raises the row.
    """
    needs_tokens(inputs, 2, "(correct, wrong)")
    row_ids, (correct_RK, wrong_RK) = answer_losses(inputs)
    correct_R = -mean_of_answers(correct_RK)
    with np.errstate(invalid="ignore"):  # a missing option, or all options infinite: NaN, a row without a value
        total_R = np.logaddexp(np.logaddexp(correct_R, log_sum_of_answers(-wrong_RK)), log_floor(floor))
        share_R = np.exp(correct_R - total_R)
    return mean_over_rows(row_ids, share_R, {"prob": share_R.tolist()})
