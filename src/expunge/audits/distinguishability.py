"""Telling two sets of rows apart: a classifier fitted across folds, and whether erased rows stand out."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from expunge.audits.api import AuditInputs, Finding
from expunge.audits.verdict import KNOWN, OPEN, TRACES, ControlPosition, auc, auc_difference, verdict
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet

Labels = npt.NDArray[np.int64]
FOLDS = 5
UNLIKE = 0.75  # the AUC of a model that saw neither set, from which they are no longer alike


def lacks_unseen(ground: AuditInputs) -> str | None:
    """Why forget rows cannot be held against unseen ones across folds, if so."""
    if ground.holdout is None:
        return "there are no rows that no model has seen; name a holdout split"
    if min(len(set(groups_of(rows))) for rows in (ground.forget, ground.holdout)) < 2:
        return "folds need two authors or more among the forget rows, and among the unseen ones"
    return None


def groups_of(rows: ExampleSet) -> list[Hashable]:
    """What rows must stay together in a fold: an author's, where rows name theirs (`meta.author`)."""
    return [(rows.name, row.meta.get("author", f"row {row.row_id}")) for row in rows]


def folds(labels_R: Labels, groups: Sequence[Hashable], seed: int) -> Iterator[tuple[Labels, Labels]]:
    """Rows to fit and to test, five times at most; a group is on one side, and both labels are in every fit."""
    number = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    of = np.array([number[g] for g in groups])
    n = min(FOLDS, *(len(set(of[labels_R == side].tolist())) for side in (0, 1)))
    cut = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    yield from cut.split(np.zeros(len(of)), labels_R, of)


def fitted(features_RD: Floats, labels_R: Labels, strength: float) -> Pipeline:
    """A logistic regression on standardised features; one that has not quite converged serves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        return made.fit(features_RD, labels_R)


def out_of_fold(
    features_RD: Floats, labels_R: Labels, groups: Sequence[Hashable], strength: float, seed: int
) -> Floats:
    """The log-odds of each row by a classifier that was fitted without its fold, shape (R,)."""
    odds = np.full(len(labels_R), np.nan)
    for train, test in folds(labels_R, groups, seed):
        odds[test] = fitted(features_RD[train], labels_R[train], strength).decision_function(features_RD[test])
    return odds


def stands_out(
    name: str,
    model: tuple[Floats, Floats],
    retain: tuple[Floats, Floats],
    *,
    margin: float,
    known: float,
    details: Mapping[str, float] | None = None,
) -> Finding:
    """The AUC of telling erased rows (M,) from unseen ones (O,) by a score, held against the retain model's.

    The verdict is read off the difference of the two AUCs, as a share of 0.5, which is the most that an AUC can be away
    from chance. It is open where the retain model tells the two sets apart already, and "traces" at most: that rows
    stand out does not say what is known of them. The same rows are drawn for both models.
    """
    values = auc(*model), auc(*retain)
    (low, high), gap = auc_difference(model, retain)
    apart = ControlPosition((values[0] - values[1]) / 0.5, gap[0] / 0.5, gap[1] / 0.5)
    said, _ = verdict(apart, margin=margin, known=known)
    note = "" if said == OPEN else "erased rows look like rows never seen"
    if values[1] > UNLIKE:
        said = OPEN
        note = f"forget and unseen rows differ for the retain model already (AUC {values[1]:.2f}): they are not alike"
    elif said in (KNOWN, TRACES):
        said, note = TRACES, "erased rows stand out from rows never seen"
    more = {"difference": values[0] - values[1], "difference_low": gap[0], "difference_high": gap[1]}
    return Finding(
        name, values[0], low, high, retain=values[1], verdict=said, note=note, details={**(details or {}), **more}
    )
