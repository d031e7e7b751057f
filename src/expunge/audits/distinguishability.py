"""Distinguish two sets of rows: a classifier fitted across folds, and whether erased rows are conspicuous."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from expunge.audits.api import AuditInputs
from expunge.audits.position import auc, auc_difference
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet
from expunge.metrics.equivalence import NO_TRACE, NOT_MEASURABLE, OVER, TRACE, AuditFinding, compare_interval

Labels = npt.NDArray[np.int64]
FOLDS = 5
NO_UNSEEN = "there are no rows that no model has seen; give some: --holdout, a holdout split, or holdout= in Python"
UNLIKE = 0.75  # AUC of a model that saw neither set, from which the sets count as different


def lacks_unseen(inputs: AuditInputs) -> str | None:
    """Return why forget rows cannot be compared with unseen ones across folds, or None."""
    if inputs.holdout is None:
        return NO_UNSEEN
    if min(len(set(groups_of(rows))) for rows in (inputs.forget, inputs.holdout)) < 2:
        return "folds need two authors or more among the forget rows, and among the unseen ones"
    return None


def groups_of(rows: ExampleSet) -> list[Hashable]:
    """Return the group of each row, which folds do not split: its author, if rows name one (`meta.author`)."""
    return [(rows.name, row.meta.get("author", f"row {row.row_id}")) for row in rows]


def folds(labels_R: Labels, groups: Sequence[Hashable], seed: int) -> Iterator[tuple[Labels, Labels]]:
    """Yield rows to fit and rows to test, at most five times; groups are never split, and each fit has all labels."""
    number = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    of = np.array([number[g] for g in groups])
    n = min(FOLDS, *(len(set(of[labels_R == side].tolist())) for side in np.unique(labels_R)))
    cut = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    yield from cut.split(np.zeros(len(of)), labels_R, of)


def fitted(features_RD: Floats, labels_R: Labels, strength: float) -> Pipeline:
    """Fit a logistic regression on standardised features; ignore incomplete convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        return classifier.fit(features_RD, labels_R)


def out_of_fold(
    features_RD: Floats, labels_R: Labels, groups: Sequence[Hashable], strength: float, seed: int
) -> Floats:
    """Return the log-odds of each row from a classifier that was fitted without its fold, shape (R,)."""
    odds = np.full(len(labels_R), np.nan)
    for train, test in folds(labels_R, groups, seed):
        odds[test] = fitted(features_RD[train], labels_R[train], strength).decision_function(features_RD[test])
    return odds


def class_log_odds(
    features_RD: Floats, labels_R: Labels, groups: Sequence[Hashable], strength: float, seed: int
) -> Floats:
    """Return the log-probability of each class 0 to K - 1 for each row, fitted without its fold, shape (R, K)."""
    out = np.full((len(labels_R), int(labels_R.max()) + 1), np.nan)
    for train, test in folds(labels_R, groups, seed):
        out[test] = fitted(features_RD[train], labels_R[train], strength).predict_log_proba(features_RD[test])
    return out


def stands_out(
    name: str,
    model: tuple[Floats, Floats],
    retain: tuple[Floats, Floats],
    *,
    margin: float,
    details: Mapping[str, float] | None = None,
) -> AuditFinding:
    """Compare the AUC of erased rows (M,) against unseen ones (O,) under a score with the retain model's AUC.

    The verdict depends on the difference of the two AUCs, as a share of 0.5, the largest distance of an AUC from
    chance. It is "trace" at most, because conspicuous rows are not necessarily known rows. It is not measurable if the
    retain model already separates the two sets. Both models use the same bootstrap draws.
    """
    values = auc(*model), auc(*retain)
    low, high = auc_difference(model, retain)
    more = {**(details or {}), "difference": values[0] - values[1], "difference_low": low, "difference_high": high}
    rows = min(len(side) for side in model)
    finding = compare_interval(
        name, (*values, math.nan), (low, high), gap=0.5, rows=rows, margin=margin, known=math.inf, details=more
    )
    finding = replace(finding, position=math.nan, position_low=math.nan, position_high=math.nan)
    if values[1] > UNLIKE:
        why = f"forget and unseen rows differ for the retain model already (AUC {values[1]:.2f}): they are not alike"
        return replace(finding, verdict=NOT_MEASURABLE, note=why, rows_needed=math.nan)
    notes = {
        TRACE: "erased rows stand out from rows never seen",
        OVER: "erased rows stand out less than in the retain model",
        NO_TRACE: "erased rows look like rows never seen",
    }
    return replace(finding, note=notes.get(finding.verdict, finding.note))
