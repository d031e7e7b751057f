"""Membership attacks that compare a model's losses with those of retain models: RMIA and LiRA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import Field

from expunge.core.errors import ConfigError
from expunge.core.records import Floats, Ints
from expunge.metrics.aggregate import mean_over_rows, not_available, row_difference
from expunge.metrics.api import MetricInputs, MetricResult, family, missing

Blend = Annotated[float, Field(ge=0.0, le=1.0)]
Gamma = Annotated[float, Field(ge=1.0, allow_inf_nan=False)]
LEAST_SPREAD = 1e-6  # of shadow confidences, if all models agree
LEAST_LOSS = 1e-12  # of a certain answer, whose confidence would be infinite


@family(
    "rmia_score",
    revision=1,
    higher_is="less likely a member",
    range="[0, 1]",
    paper="RMIA, Zarifzadeh et al. 2024 (arXiv:2312.03262), equations 2 to 4 and appendix B.2.2",
    fidelity="formula",
)
def rmia_score(inputs: MetricInputs, *, a: Blend = 0.3, gamma: Gamma = 1.0) -> MetricResult:
    """Compare how likely a row is under this model and under reference models, relative to rows of the population.

    Formula: P(x) = exp(-mean token loss); the offline estimate of its mean over all models, half of which have seen x,
        Pr(x) = ((1 + a) P_out(x) + (1 - a)) / 2,   P_out(x) = mean over the retain models of P(x)
        ratio(x) = P(x | this model) / Pr(x)
        s = 1 - share of the population z with ratio(x) / ratio(z) >= gamma

    Reads: parents `losses` (a metric of the family `loss_score` on the rows in question) and `population` (one on rows
    no model has seen). It also reads them on the retain models (`shadows`), one or the mean of several. If both parents
    are one metric, a row is not compared with itself. Per row: `score`, `ratio`. The value is the mean over rows.
    Arguments: `a`, how far P moves when x is learned: 0 if it then reaches 1, 1 if it does not move (0.3 is the paper's
    for image classifiers); `gamma`, how many times likelier x must be, from 1.
    Good direction: on the forget rows as on rows no model has seen (family `attack_auc`), typically 0.5.
    Pitfalls: the population represents rows that the retain models have not seen. If it comes from trained rows, all
    scores shift. With few population rows the score is coarse: it has steps of one over their number.
    """
    _needs(inputs, {"losses", "population"})
    ratios: dict[str, tuple[Ints, Floats]] = {}
    for role in ("losses", "population"):
        losses = _losses(inputs, role)
        if isinstance(losses, MetricResult):
            return losses
        ids, mine_R, theirs_KR = losses
        out_R = np.exp(-theirs_KR).mean(axis=0)
        ratios[role] = ids, np.exp(-mine_R) / (((1.0 + a) * out_R + (1.0 - a)) / 2.0)
    ids, ratio_R = ratios["losses"]
    z_M = ratios["population"][1]
    z_sorted = np.sort(z_M[~np.isnan(z_M)])
    own = inputs.metric.parents["losses"] == inputs.metric.parents["population"]
    if len(z_sorted) < 1 + own:
        return missing(f"{inputs.metric.parents['population']} has no other rows to compare with")
    # ratio(x) / ratio(z) >= gamma where ratio(z) <= ratio(x) / gamma
    reached_R = np.searchsorted(z_sorted, ratio_R / gamma, side="right").astype(float)
    if own and gamma == 1.0:
        reached_R -= 1.0
    score_R = 1.0 - reached_R / (len(z_sorted) - own)
    score_R[np.isnan(ratio_R)] = math.nan
    return mean_over_rows(ids, score_R, {"score": score_R.tolist(), "ratio": ratio_R.tolist()})


@family(
    "lira_score",
    revision=1,
    higher_is="less likely a member",
    range="(-inf, inf), standard deviations",
    paper="LiRA, Carlini et al. 2022 (arXiv:2112.03570), section VI, the offline attack with one variance for all rows",
    fidelity="formula",
)
def lira_score(inputs: MetricInputs) -> MetricResult:
    """Compute how unusual this model's confidence in a row is among models that never saw the row.

    Formula: phi(x) = ln(P / (1 - P)) with P = exp(-mean token loss); over the retain models mu(x) = mean of phi(x), and
    sigma^2 the mean over rows of their sample variance of phi(x). s = -(phi(x | this model) - mu(x)) / sigma, so that
    the paper's Pr[N(mu, sigma^2) <= phi] is Phi(-s), and the order is the same.

    Reads: parent `losses` (a metric of the family `loss_score`), here and on at least two retain models of other
    training seeds (`shadows`; `seeds.train=[0,1,2]`). They are the shadow models, all without the forget rows. With
    fewer the result is missing with a reason. Per row: `score`. Extra: sigma, n_shadows.
    Good direction: on the forget rows as on rows no model has seen (family `attack_auc`).
    Pitfalls: with few shadow models mu(x) is inaccurate, in the same way for both sides. The seeds must differ only in
    training; a differently trained shadow model measures that difference.
    """
    _needs(inputs, {"losses"})
    losses = _losses(inputs, "losses")
    if isinstance(losses, MetricResult):
        return losses
    ids, mine_R, theirs_KR = losses
    n = len(theirs_KR)
    if n < 2:
        return missing(
            f"needs at least 2 retain models of other training seeds as shadow models, got {n} (seeds.train=[0,1,2])"
        )
    phi_R, phi_KR = _confidence(mine_R), _confidence(theirs_KR)
    spread = phi_KR.var(axis=0, ddof=1)
    spread = spread[np.isfinite(spread)]
    if not len(spread):
        return missing("no row has a loss in all shadow models")
    sigma = max(math.sqrt(float(spread.mean())), LEAST_SPREAD)
    with np.errstate(invalid="ignore"):  # infinite for both: a row without a value
        score_R = -(phi_R - phi_KR.mean(axis=0)) / sigma
    return mean_over_rows(ids, score_R, {"score": score_R.tolist()}, {"sigma": sigma, "n_shadows": float(n)})


def _confidence(loss: Floats) -> Floats:
    """Return ln(P / (1 - P)) of P = exp(-loss), computed from the loss, so that nothing is rounded to 0 or 1."""
    bounded = np.maximum(loss, LEAST_LOSS)
    phi: Floats = -bounded - np.log(-np.expm1(-bounded))
    return phi


def _needs(inputs: MetricInputs, roles: set[str]) -> None:
    if set(inputs.metric.parents) != roles:
        raise ConfigError(
            f"metric {inputs.metric.name}: family {inputs.metric.family} needs the parents {', '.join(sorted(roles))}, "
            f"got {sorted(inputs.metric.parents)}"
        )


def _losses(inputs: MetricInputs, role: str) -> tuple[Ints, Floats, Floats] | MetricResult:
    """Return row ids, this model's losses (R,) and those of the retain models (K, R), or a missing result."""
    name = inputs.metric.parents[role]
    mine = inputs.parents[role]
    if not mine.per_row:
        return not_available(name, mine)
    others: Sequence[MetricResult] = inputs.shadows.get(role, ())
    if not others:
        return missing(f"needs a retain model's losses ({name}); none was given")
    ids = list(mine.per_row)
    for other in others:
        if not other.per_row:
            return not_available(f"a retain model's {name}", other)
        differ = row_difference("losses", ids, other.per_row)
        if differ:
            return missing(differ)
    columns = [[float(r.per_row[i].get("score", math.nan)) for i in ids] for r in (mine, *others)]  # type: ignore[arg-type]
    return np.array(ids, dtype=np.int64), np.array(columns[0]), np.array(columns[1:])
