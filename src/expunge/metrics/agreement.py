"""Agreement with the model before unlearning: how far did the model move outside the forget set?"""

from __future__ import annotations

from typing import Literal

import numpy as np

from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family

Statistic = Literal["kl", "top1"]
COLUMNS = {"kl": "kl", "top1": "same_argmax"}


@family(
    "agreement",
    revision=2,
    higher_is="kl: further from the original model; top1: nearer to it",
    range="[0, inf) nats for kl, [0, 1] for top1",
    paper="none: the divergence that KL-regularised methods minimise",
)
def agreement(inputs: MetricInputs, *, statistic: Statistic = "kl") -> MetricResult:
    """Compute how much the model's predictions differ from those of the original model, at the tokens of an answer.

    Formula: kl = (1/n) sum_t KL(p_original(. | q, a_<t) || p_model(. | q, a_<t)) over the whole vocabulary;
    top1 = share of tokens at which both models have the same first choice. The value is the mean over rows.

    Reads: agreement records, for which both models score each answer once. The original is the
    target model in a study, the initial model in `expunge unlearn`, and `eval.original` in `expunge eval`.
    Per row: `kl`, `top1`; both missing if the logits of one model were not numbers.
    Arguments: `statistic`.
    Good direction: on retain rows kl near 0 and top1 near 1. On forget rows compare with the retain model's value.
    Pitfalls: on forget rows a large kl is not forgetting: any damage to the model raises it. Sampling and greedy
    answers can agree while kl is large, because tokens that the original prefers and the model avoids dominate kl.
    """
    numbers = inputs.numbers("agreement")
    raw = {name: numbers.columns[COLUMNS[name]] for name in COLUMNS}
    # If the divergence is not a number, neither were the logits, and their first choice is undefined.
    columns = {name: np.where(np.isnan(raw["kl"]), np.nan, column) for name, column in raw.items()}
    rows = {name: column.tolist() for name, column in columns.items()}
    return mean_over_rows(numbers.row_ids, columns[statistic], rows)
