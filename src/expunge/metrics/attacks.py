"""Membership attacks: scores that are lower for rows of the training data. One score per row of one set.

Name a metric of each family once on the forget rows and once on rows that no model has seen; `attack_auc` compares the
two. The scores are in nats: a higher one means "not a member".
"""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from pydantic import Field

from expunge.core.records import AnswerTokens, Floats
from expunge.metrics.aggregate import mean_over_rows, one_answer, row_difference
from expunge.metrics.api import MetricInputs, MetricResult, family, missing

Share = Annotated[float, Field(gt=0.0, le=1.0)]
LEAST_VARIANCE = 1e-6  # of log-probabilities over the vocabulary of a certain model: as in Min-K%++'s own code


@family(
    "loss_score",
    revision=1,
    higher_is="less likely a member",
    range="[0, inf) nats per token",
    paper="Yeom et al. 2018 (arXiv:1709.01604), the loss attack",
    fidelity="code",
)
def loss_score(inputs: MetricInputs) -> MetricResult:
    """Compute the mean loss of the answer's tokens, which training lowers.

    Formula: s = -(1/n) sum_t log p(a_t | q, a_<t), over all n scored tokens, including the end token.

    Reads: tokens (answer). Per row: `score`. The value is the mean over rows.
    Good direction: as far from 0 on the forget rows as on rows the model never saw.
    Pitfall: a loss also measures how easy an answer is. The attack detects membership only if the two sets are alike.
    """
    answer = one_answer(inputs)
    return _scores(answer, answer.avg_loss())


@family(
    "zlib_score",
    revision=1,
    higher_is="less likely a member",
    range="[0, inf) nats per token and byte",
    paper="Carlini et al. 2021 (arXiv:2012.07805), section 5.2",
    fidelity="code",
)
def zlib_score(inputs: MetricInputs) -> MetricResult:
    """Compute the mean loss relative to the size of the compressed text, so easy answers do not count as members.

    Formula: s = loss_score / bytes of zlib(text), the text of the scored tokens without special ones.

    Reads: tokens (answer), whose records store the compressed size. Per row: `score`. The value is the mean over rows.
    Good direction: on the forget rows, as on rows the model never saw.
    Pitfall: the divisor is a size, not a rate, while the loss is a mean per token. So a long answer scores low for
    every model. Published code of the attack does the same.
    """
    answer = one_answer(inputs)
    return _scores(answer, answer.avg_loss() / answer.zlib)


@family(
    "min_k_score",
    revision=1,
    higher_is="less likely a member",
    range="[0, inf) nats per token",
    paper="Min-K% Prob, Shi et al. 2023 (arXiv:2310.16789)",
    fidelity="code",
)
def min_k_score(inputs: MetricInputs, *, k: Share = 0.4) -> MetricResult:
    """Compute the mean loss of the least likely tokens: even the hardest words of a member are not surprising.

    Formula: s = -mean of the m lowest log p(a_t), m = max(1, floor(k n)). The n scored tokens are without the last one
    (the end token), as in OpenUnlearning.

    Reads: tokens (answer). Per row: `score`. The value is the mean over rows.
    Arguments: `k`, the share of tokens, 0.4 as in MUSE and OpenUnlearning.
    Good direction: on the forget rows, as on rows the model never saw.
    Pitfall: a row of one token has no token left without its last one, and counts as missing.
    """
    answer = one_answer(inputs).without_last()
    return _scores(answer, _lowest(answer, answer.logp, k))


@family(
    "min_k_plus_plus_score",
    revision=1,
    higher_is="less likely a member",
    range="(-inf, inf), standard deviations",
    paper="Min-K%++, Zhang et al. 2024 (arXiv:2404.02936), equation 3",
    fidelity="code",
)
def min_k_plus_plus_score(inputs: MetricInputs, *, k: Share = 0.4) -> MetricResult:
    """Compute Min-K% of log-probabilities that are standardised over all tokens of the vocabulary.

    Formula: z_t = (log p(a_t) - mu_t) / sigma_t with mu_t = E_v[log p(v)] and sigma_t^2 = Var_v[log p(v)] over
    v ~ p(. | q, a_<t), sigma_t^2 at least 1e-6; s = -mean of the m lowest z_t, m as in the family `min_k_score`.

    Reads: tokens (answer), whose records store mean and variance. Per row: `score`. The value is the mean over rows.
    Arguments: `k`, the share of tokens, 0.4 as in OpenUnlearning.
    Good direction: on the forget rows, as on rows the model never saw.
    Pitfall: if the model is certain, sigma is near 0, and a certain error weighs a thousandfold.
    """
    answer = one_answer(inputs).without_last()
    z_N = (answer.logp - answer.mean) / np.sqrt(np.maximum(answer.var, LEAST_VARIANCE))
    return _scores(answer, _lowest(answer, z_N, k))


@family(
    "reference_score",
    revision=1,
    higher_is="less likely a member",
    range="(-inf, inf) nats per token",
    paper="Carlini et al. 2021 (arXiv:2012.07805), section 5.2",
    fidelity="code",
)
def reference_score(inputs: MetricInputs) -> MetricResult:
    """Compute the loss minus that of a model without the rows, so answers that are easy for both do not count.

    Formula: s = loss_score of this model - loss_score of the retain model, row by row.

    Reads: tokens (answer), and the retain model's result of a metric of the family `loss_score` on the same rows.
    Without a retain model, or with other rows, the result is missing with a reason. Per row: `score`. The value is
    their mean.
    Good direction: near 0 on both sets; the retain model against itself is 0 on every row.
    Pitfall: it is the strongest of these attacks, because it needs a model that a real attacker does not have.
    """
    answer = one_answer(inputs)
    name = inputs.metric.retain or "a metric of the family loss_score"
    if inputs.retain is None:
        return missing(f"needs a retain model's losses ({name}); none was given")
    theirs = inputs.retain.per_row
    if not theirs:
        why = f": {inputs.retain.reason}" if inputs.retain.reason else ""
        return missing(f"the retain model's {name} has no rows{why}")
    differ = row_difference("losses", answer.row_ids.tolist(), theirs)
    if differ:
        return missing(differ)
    reference_R = np.array([theirs[i].get("score", math.nan) for i in answer.row_ids.tolist()], dtype=float)
    with np.errstate(invalid="ignore"):  # infinite for both: a row without a value
        return _scores(answer, answer.avg_loss() - reference_R)


def _scores(answer: AnswerTokens, scores_R: Floats) -> MetricResult:
    return mean_over_rows(answer.row_ids, scores_R, {"score": scores_R.tolist()})


def _lowest(answer: AnswerTokens, values_N: Floats, share: float) -> Floats:
    """Return minus the mean of the lowest share of each row's values, shape (R,); NaN for a row that has none."""
    means = [_mean_of_lowest(row, share) for row in answer.by_row(values_N)]
    return np.array(means, dtype=float)


def _mean_of_lowest(values: Floats, share: float) -> float:
    if not len(values) or np.isnan(values).any():  # sorting puts NaN last, where the slice would drop it
        return math.nan
    return float(-np.sort(values)[: max(1, int(len(values) * share))].mean())
