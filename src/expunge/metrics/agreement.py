"""Agreement with the model before unlearning: how far has it moved, where it should not have?"""

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
    paper="none: the divergence that KL-regularised methods hold down, measured",
)
def agreement(inputs: MetricInputs, *, statistic: Statistic = "kl") -> MetricResult:
    """How much the model's predictions differ from those of the original model, at the tokens of an answer.

    Formula: kl = (1/n) sum_t KL(p_original(. | q, a_<t) || p_model(. | q, a_<t)) over the whole vocabulary;
    top1 = share of tokens at which both models' first choice is the same. The value is the mean over rows.

    Reads: agreement records, for which both models read each answer once. A study takes the full
    model as the original, `expunge unlearn` the model it started from, `expunge eval` the one named in `eval.original`.
    Per row: `kl`, `top1`; both missing where one of the models' logits were not numbers.
    Arguments: `statistic`.
    Good direction: on retain rows kl near 0 and top1 near 1. On forget rows compare with the retain model's value.
    Pitfalls: on forget rows a large kl is not forgetting: anything that breaks the model raises it. Sampling and greedy
    answers can agree while kl is large, for it is ruled by what the original thinks likely and the model does not.
    """
    numbers = inputs.numbers("agreement")
    found = {name: numbers.columns[COLUMNS[name]] for name in COLUMNS}
    # Where the divergence is not a number neither were the logits, and their first choice is no choice.
    columns = {name: np.where(np.isnan(found["kl"]), np.nan, column) for name, column in found.items()}
    rows = {name: column.tolist() for name, column in columns.items()}
    return mean_over_rows(numbers.row_ids, columns[statistic], rows)
