"""Results of membership attacks: are the forget rows distinguishable from rows that no model has seen?"""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from expunge.core.errors import ConfigError
from expunge.core.records import Floats, Ints
from expunge.metrics.aggregate import CELLS, RESAMPLES, SEED, not_available
from expunge.metrics.api import MetricInputs, MetricResult, family, missing

Auc = Annotated[float, Field(ge=0.0, le=1.0)]
SIDES = ("members", "others")
LOW_FPR = 0.01


@family(
    "attack_auc",
    revision=1,
    higher_is="members and others are distinguishable; 0.5 is chance",
    range="[0, 1]",
    paper="Carlini et al. 2022 (arXiv:2112.03570), for attacks at a low false positive rate",
    fidelity="code",
)
def attack_auc(inputs: MetricInputs) -> MetricResult:
    """Compute how well an attack's score separates members (the forget rows) from others (rows no model has seen).

    Formula: AUC = P(score of a member < score of another), ties count half; the area under the ROC curve of the score
    with members labelled 0 and others 1, as in OpenUnlearning.

    Reads: parents `members` and `others`, two metrics of one attack's family. Rows without a score are ignored.
    Extra: ci_low, ci_high (95 % bootstrap over the rows of each side); tpr_at_1fpr (share of the members detected at a
    false positive rate of 1 %); mean_members, mean_others (mean scores); n_members, n_others, n_missing. With the
    retain model's result of the same metric: auc_retain, and auc_distance = |AUC - auc_retain|.
    Good direction: near the retain model's AUC from either side, so read auc_distance. Without a retain model, near 0.5
    only if the two sets are equally hard for a model that saw neither.
    Pitfall: an AUC far below 0.5 is no better than one far above: over-suppressed rows are conspicuous as well.
    """
    names = inputs.metric.parents
    if set(names) != set(SIDES):
        raise ConfigError(
            f"metric {inputs.metric.name}: family attack_auc needs the parents members and others, got {sorted(names)}"
        )
    sides: list[Floats] = []
    for role in SIDES:
        column = np.array([row.get("score", math.nan) for row in inputs.parents[role].per_row.values()], dtype=float)
        scores = column[~np.isnan(column)]
        if not len(scores):
            return not_available(names[role], inputs.parents[role])
        sides.append(scores)
    # Ranks in place of scores: the curve is the same, and an infinite score has one.
    rank_N = np.unique(np.concatenate(sides), return_inverse=True)[1].astype(np.int64)
    member_M, other_O = rank_N[: len(sides[0])], rank_N[len(sides[0]) :]
    value, tpr = _curve(member_M, other_O)
    low, high = auc_interval(member_M, other_O)
    extra = {
        "ci_low": low,
        "ci_high": high,
        "tpr_at_1fpr": tpr,
        **{f"mean_{role}": inputs.parents[role].value for role in SIDES},
        "n_members": float(len(member_M)),
        "n_others": float(len(other_O)),
        "n_missing": float(sum(len(inputs.parents[role].per_row) for role in SIDES) - len(rank_N)),
    }
    if inputs.retain is not None and not math.isnan(inputs.retain.value):
        extra |= {"auc_retain": inputs.retain.value, "auc_distance": abs(value - inputs.retain.value)}
    return MetricResult(value=value, extra=extra)


@family(
    "privleak",
    revision=2,
    higher_is="0 is best; below 0 the model still knows the forget rows, above 0 they were suppressed too far",
    range="(-100, inf) percent",
    paper="MUSE (arXiv:2407.06460), section 3.2",
    fidelity="code",
)
def privleak(inputs: MetricInputs, *, ref_value: Auc | None = None) -> MetricResult:
    """Compute how far an attack's AUC is from the retain model's, in percent of the latter.

    Formula: 100 ((1 - AUC) - (1 - AUC_ref)) / ((1 - AUC_ref) + 1e-10), with the AUC of the family `attack_auc`; MUSE
    and OpenUnlearning use Min-K%. MUSE labels members 1, so its AUC is 1 - AUC here.

    Reads: parent `auc`, and the same metric of the retain model. Without one the result is missing with a reason.
    Extra: auc_ref; ci_low and ci_high from those of this model's AUC, with the retain model's AUC as a constant.
    Arguments: `ref_value` replaces the retain model's AUC if there is none. OpenUnlearning uses 0.5 without a message.
    There is no default here: models that saw neither set rarely have 0.5.
    Good direction: near 0, from either side.
    Pitfall: the scale is asymmetric. The minimum is -100, and if AUC_ref is near 1 there is no maximum.
    """
    name = inputs.metric.parents.get("auc")
    if name is None:
        raise ConfigError(f"metric {inputs.metric.name}: family privleak needs the parent auc")
    auc = inputs.parents["auc"].value
    if math.isnan(auc):
        return not_available(name, inputs.parents["auc"])
    if inputs.retain is not None and not math.isnan(inputs.retain.value):
        reference = inputs.retain.value
    elif ref_value is not None:
        reference = ref_value
    else:
        parent = inputs.metric.retain or name
        if inputs.retain is not None:
            return not_available(f"the retain model's {parent}", inputs.retain)
        return missing(f"needs a retain model's AUC ({parent}); none was given")
    interval = inputs.parents["auc"].extra
    extra = {"auc_ref": reference}
    if "ci_low" in interval:  # the value falls as the AUC rises: the ends change places
        extra |= {"ci_low": _leak(interval["ci_high"], reference), "ci_high": _leak(interval["ci_low"], reference)}
    return MetricResult(value=_leak(auc, reference), extra=extra)


def _leak(auc: float, reference: float) -> float:
    return 100.0 * ((1.0 - auc) - (1.0 - reference)) / ((1.0 - reference) + 1e-10)


def _curve(member_M: Ints, other_O: Ints) -> tuple[float, float]:
    """Return the AUC, and the true positive rate at a false positive rate of at most 1 %."""
    n, m, o = int(max(member_M.max(), other_O.max())) + 1, len(member_M), len(other_O)
    members_n, others_n = (_counts(ranks[None], n)[0] for ranks in (member_M, other_O))
    tpr_n, fpr_n = members_n.cumsum() / m, others_n.cumsum() / o  # of the rule "rank at most r", for each r
    return float(_auc(members_n, others_n)), float(tpr_n[fpr_n <= LOW_FPR].max(initial=0.0))


def _auc(member_n: Ints, other_n: Ints) -> Any:
    """Return the share of pairs in which the member has the lower rank; ties count half.

    member_n, other_n: the number of rows with each rank, the last axis of a shape (n,) or (S, n).
    """
    below_n = member_n.cumsum(-1) - member_n / 2
    return (other_n * below_n).sum(-1) / (member_n.sum(-1) * other_n.sum(-1))


def auc_interval(member_M: Ints, other_O: Ints) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of the AUC over RESAMPLES draws of each side's rows with replacement.

    member_M, other_O: ranks of the scores among all distinct ones, from 0. Equal scores have equal ranks.
    """
    rng = np.random.default_rng(SEED)
    n, m, o = int(max(member_M.max(), other_O.max())) + 1, len(member_M), len(other_O)
    step = max(1, CELLS // (n + m + o))
    aucs = []
    for start in range(0, RESAMPLES, step):
        draws = [(rng.integers(0, m, m), rng.integers(0, o, o)) for _ in range(min(step, RESAMPLES - start))]
        members_Sn = _counts(member_M[np.stack([d[0] for d in draws])], n)
        others_Sn = _counts(other_O[np.stack([d[1] for d in draws])], n)
        aucs.append(_auc(members_Sn, others_Sn))
    low, high = np.quantile(np.concatenate(aucs), [0.025, 0.975])
    return float(low), float(high)


def _counts(rank_SR: Ints, n: int) -> Ints:
    """Count each of n ranks in each row, shape (S, n)."""
    s = len(rank_SR)
    counts: Ints = np.bincount((rank_SR + n * np.arange(s)[:, None]).ravel(), minlength=s * n).reshape(s, n)
    return counts
