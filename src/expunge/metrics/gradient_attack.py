"""The gradient attack: the loss of a memorised example has a smaller gradient."""

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
    fidelity="code",
)
def gradnorm_score(inputs: MetricInputs, *, norm: Norm = "tensor_mean") -> MetricResult:
    """Compute the size of the loss gradient of one row, which is small near a minimum that the row helped to make.

    Formula, with g = d/dtheta of the row's mean token loss (one row alone, without the end token, as in
    OpenUnlearning; all weights, a tied tensor once):
        tensor_mean (default)  mean over parameter tensors of ||g_tensor||_2, as in OpenUnlearning
        l1, l2, linf           ||g||_p over all weights as one vector, as in the paper

    Reads: gradient records: one backward pass per row, the most expensive attack. Per row: `score`,
    the selected norm. The value is the mean over rows.
    Arguments: `norm`.
    Good direction: on the forget rows as on rows the model never saw (family `attack_auc`).
    Pitfalls: norms grow with the model, so compare AUCs of two models, not values. A method that changes the gradient's
    size (flat minima, ascent) moves this score without a change of knowledge.
    """
    numbers = inputs.numbers("grads")
    column = numbers.columns[norm]
    return mean_over_rows(numbers.row_ids, column, {"score": column.tolist()})
