from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from expunge.audits.api import (
    AS_IT_IS,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Results,
    audit,
    rows_of,
    sample_rows,
)
from expunge.audits.distinguishability import Labels, class_log_odds, groups_of, lacks_unseen
from expunge.audits.erasure_detection import SIGNALS
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet
from expunge.metrics.aggregate import RESAMPLES, SEED
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import MARGIN, OVER, AuditFinding, compare_interval, percentile_interval

CLASSES = ("retain", "forget", "never_seen")
GAP = 1 / 3  # accuracy that an attacker gains if forget rows differ from unseen ones, with three classes of equal size


@audit(
    "three_class",
    revision=1,
    paper="the task of SVELA at EVALITA 2026 (retain, forget, never seen); classifier and verdict are our own",
)
@strict
@dataclass(frozen=True, kw_only=True)
class ThreeClassAudit:
    """Three classes: can an attacker tell retained rows, forgotten rows and rows never seen apart?

    As many rows of each class are read. Signals of a row: loss, min-k, min-k++, loss by zlib, extraction strength and
    exact memorisation. A logistic regression with three classes is fitted on four fifths of the rows and tested on the
    rest, five times; an author's rows stay together. The same is done to both controls, on the same rows and folds.

    Values: accuracy and macro_f1 over all rows, each row predicted by the fit without its fold, with intervals that
    resample rows within each class. Details: F1 of each class (f1_retain, ...), the share of each class predicted as
    each (retain_as_forget, ...), and entity_accuracy, where the log-probabilities of an author's rows are summed.

    The verdict depends on the difference from the retain model, as a share of 1/3. That is the accuracy that an
    attacker gains by separating forget rows from unseen rows. For the retain model itself both are unseen, so about 2/3
    is expected of a good unlearning, not 1/3. The verdict is "trace" at most: conspicuous rows are not always known.

    Cost: for every model, a pass over at most 3 x `rows` rows.

    Pitfalls: the intervals do not fit again. If the rows of the classes differ in more than training, the retain
    model's accuracy is above 2/3; the difference from it still counts.

    Try: expunge run study=quickstart data.world.holdout_authors=8 "audits=[three_class]"
    """

    rows: int = 200
    """Largest number of rows of each class."""
    strength: float = 0.1
    """Inverse of the L2 penalty of the logistic regression."""
    seed: int = 0
    """Seed of the sample of rows and of the folds."""
    margin: float = MARGIN
    """Largest distance from the retain model that counts as equal, as a share of 1/3."""

    def __post_init__(self) -> None:
        if self.rows < 2:
            raise ValueError("rows must be at least 2")
        if not 0 < self.strength < math.inf:
            raise ValueError("strength must be a number > 0")
        if not 0 <= self.margin < 1:
            raise ValueError("margin must be at least 0 and below 1")

    def _sets(self, inputs: AuditInputs) -> dict[str, ExampleSet] | str:
        """Return an equal number of rows of each class, or why there are none."""
        why = lacks_unseen(inputs)
        if why or inputs.holdout is None:
            return why or ""
        if inputs.retain is None:
            return "there are no retain rows"
        sets = dict(zip(CLASSES, (inputs.retain, inputs.forget, inputs.holdout), strict=True))
        n = min(self.rows, *(len(rows) for rows in sets.values()))
        return {name: sample_rows(rows, n, self.seed, f"audit_{name}") for name, rows in sets.items()}

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan one probe of the unchanged model; nothing without rows of each class."""
        sets = self._sets(inputs)
        if isinstance(sets, str):
            return AuditPlan({}, (), {"accuracy": sets, "macro_f1": sets})
        panel = tuple(
            Metric(f"{signal}.{name}", family, rows=rows.name, reads={"tokens": ("answer",)})
            for name, rows in sets.items()
            for signal, family in SIGNALS.items()
        )
        return AuditPlan({rows.name: rows for rows in sets.values()}, (AuditProbe(AS_IT_IS, None, panel),))

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return the findings on accuracy and macro-F1, and every row's prediction."""
        sets = self._sets(inputs)
        if isinstance(sets, str) or outputs.retain is None:
            note = sets if isinstance(sets, str) else "there is no retain model to compare it with"
            return AuditFindings(tuple(AuditFinding(name, note=note) for name in ("accuracy", "macro_f1")))
        n = min(len(rows) for rows in sets.values())
        labels = np.repeat(np.arange(len(CLASSES)), n)
        groups: list[Hashable] = [group for rows in sets.values() for group in groups_of(rows)]
        sides = [of for of in (outputs.model, outputs.retain, outputs.full) if of is not None]
        odds = [self._log_odds(of, n, labels, groups) for of in sides]
        if isinstance(odds[0], str) or isinstance(odds[1], str):
            note = next(one for one in odds if isinstance(one, str))
            return AuditFindings(tuple(AuditFinding(name, note=note) for name in ("accuracy", "macro_f1")))
        predictions = [one.argmax(axis=1) for one in odds if not isinstance(one, str)]
        scores = [class_scores(labels, one) for one in predictions]
        draws = [drawn_scores(labels, one) for one in predictions[:2]]
        details = _details(labels, predictions[0], odds[0], groups)
        findings = []
        for name in ("accuracy", "macro_f1"):
            own, theirs = percentile_interval(draws[0][name]), percentile_interval(draws[0][name] - draws[1][name])
            more = {f"{name}_low": own[0], f"{name}_high": own[1], **details}
            interval = f"95 % interval of the value [{own[0]:.3f}, {own[1]:.3f}]"
            means = [score[name] for score in scores] + [math.nan] * (3 - len(scores))
            one = compare_interval(
                name, means, theirs, gap=GAP, rows=len(labels), margin=self.margin, known=math.inf, details=more,
                note=interval,
            )  # fmt: skip
            if one.verdict == OVER:
                one = replace(one, note=f"the classes are harder to separate than in the retain model; {interval}")
            findings.append(replace(one, position=math.nan, position_low=math.nan, position_high=math.nan))
        table: dict[str, Sequence[object]] = {
            "class": [CLASSES[k] for k in labels],
            "row_id": [i for _ in CLASSES for i in range(n)],
            "predicted": [CLASSES[k] for k in predictions[0]],
            "predicted_retain_model": [CLASSES[k] for k in predictions[1]],
        }
        return AuditFindings(tuple(findings), table)

    def _log_odds(self, of: Results, n: int, labels: Labels, groups: Sequence[Hashable]) -> Floats | str:
        """Return the classes' log-probabilities of every row of one model, or why there are none."""
        columns = [
            np.concatenate([rows_of(of[AS_IT_IS][f"{s}.{name}"], Metric(s, ""), range(n)) for name in CLASSES])
            for s in SIGNALS
        ]
        usable = [column for column in columns if np.isfinite(column).all()]
        if not usable:
            return "no signal has a value for every row"
        return class_log_odds(np.stack(usable, axis=1), labels, groups, self.strength, self.seed)


def confusion(labels_R: Labels, predicted_R: Labels, n_classes: int = len(CLASSES)) -> Floats:
    """Return the number of rows by class and prediction, shape (K, K)."""
    counts = np.bincount(labels_R * n_classes + predicted_R, minlength=n_classes**2)
    table: Floats = counts.reshape(n_classes, n_classes).astype(float)
    return table


def f1_scores(table_KK: Floats) -> Floats:
    """Return F1 = 2 TP / (2 TP + FP + FN) of each class, 0 for a class that is never predicted and has no row."""
    hits = np.diagonal(table_KK, axis1=-2, axis2=-1)
    total = table_KK.sum(axis=-1) + table_KK.sum(axis=-2)
    scores: Floats = np.divide(2 * hits, total, out=np.zeros_like(hits, dtype=float), where=total > 0)
    return scores


def class_scores(labels_R: Labels, predicted_R: Labels) -> dict[str, float]:
    """Return the accuracy, and the macro-F1: the plain mean of the F1 of each class."""
    table = confusion(labels_R, predicted_R)
    return {"accuracy": float((labels_R == predicted_R).mean()), "macro_f1": float(f1_scores(table).mean())}


def drawn_scores(labels_R: Labels, predicted_R: Labels) -> dict[str, Floats]:
    """Return both scores over bootstrap draws of rows within each class, equal for all models; (RESAMPLES,) each."""
    chance = np.random.default_rng(SEED)
    k = len(CLASSES)
    rows = np.concatenate(
        [chance.choice(np.flatnonzero(labels_R == c), (RESAMPLES, int((labels_R == c).sum()))) for c in range(k)],
        axis=1,
    )
    cells = labels_R[rows] * k + predicted_R[rows] + np.arange(RESAMPLES)[:, None] * k**2
    tables = np.bincount(cells.ravel(), minlength=RESAMPLES * k**2).reshape(RESAMPLES, k, k).astype(float)
    accuracy = np.trace(tables, axis1=1, axis2=2) / len(labels_R)
    return {"accuracy": accuracy, "macro_f1": f1_scores(tables).mean(axis=1)}


def _details(labels: Labels, predicted: Labels, odds: Floats, groups: Sequence[Hashable]) -> Mapping[str, float]:
    table = confusion(labels, predicted)
    shares = table / table.sum(axis=1, keepdims=True)
    out = {f"f1_{name}": float(v) for name, v in zip(CLASSES, f1_scores(table), strict=True)}
    out |= {f"{a}_as_{b}": float(shares[i, j]) for i, a in enumerate(CLASSES) for j, b in enumerate(CLASSES)}
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    if any(len(rows) > 1 for rows in members.values()):
        right = [odds[rows].sum(axis=0).argmax() == labels[rows[0]] for rows in members.values()]
        out["entity_accuracy"] = float(np.mean(right))
    return out
