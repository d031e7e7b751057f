"""The gradient attack: what a model has learned pulls less at its weights."""

from __future__ import annotations

from typing import Literal

from expunge.metrics.aggregate import mean_over_rows
from expunge.metrics.api import MetricInputs, MetricResult, family

Norm = Literal["tensor_mean", "l1", "l2", "linf"]


@family(
    "gradnorm_score",
    revision=1,
    higher_is="less likely a member",
    range="[0, inf) nats per token and unit of weight",
    paper="Wang et al. 2024, Pandora's White-Box (arXiv:2402.17012)",
)
def gradnorm_score(inputs: MetricInputs, *, norm: Norm = "tensor_mean") -> MetricResult:
    """The size of the loss gradient of one row: near a minimum that the row helped to make, it is small.

    Formula, with g = d/dtheta of the row's mean token loss (one row by itself, without the token that ends the answer,
    as in OpenUnlearning; all weights, a tied tensor once):
        tensor_mean (default)  mean over parameter tensors of ||g_tensor||_2, as in OpenUnlearning
        l1, l2, linf           ||g||_p over all weights as one vector, as in the paper

    Reads: gradient records: a backward pass a row, the dearest of the attacks. Per row: `score`, the
    chosen norm. The value is the mean over rows.
    Arguments: `norm`.
    Good direction: on the forget rows as on rows the model never saw (family `attack_auc`).
    Pitfalls: norms grow with the model, so no two models' values compare, only their AUCs. A method that works on the
    gradient's size (flat minima, ascent) moves this score without moving what is known.
    """
    numbers = inputs.numbers("grads")
    column = numbers.columns[norm]
    return mean_over_rows(numbers.row_ids, column, {"score": column.tolist()})
