from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.audits.api import (
    AS_IT_IS,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Finding,
    Results,
    audit,
    check_judging,
    held_against,
    rows_of,
)
from expunge.audits.distinguishability import stands_out
from expunge.audits.prompting import check_ways, rows_in, worst_panel
from expunge.audits.verdict import auc, percentiles, position, two_sided
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.metrics.api import Metric

LOSS, STRENGTH, MIN_K = "loss_score", "extraction_strength", "min_k_score"
UNSEEN = "loss_score_unseen"


@audit("exposure", revision=1, paper="per-example reading as in U-LiRA (arXiv:2403.01218); none for the rest")
@strict
@dataclass(frozen=True, kw_only=True)
class MembershipAudit:
    """Exposure: which rows are still known, and can one see from the model alone which rows were erased?

    known_rows: the share of forget rows whose answer is likelier than `percentile` of the forget answers in the retain
    model (which has about 1 - percentile of such rows by itself, and is measured by the same rule). The table beside it
    holds a line per row with every signal: probability, loss, its z-score and percentile among the retain model's
    losses, the gap to the retain model's own loss of that row (nats per token), extraction strength, min-k, the
    probability under the worst of `ways` to ask, and the rank (1: the largest gap).

    erased_rows: the AUC of telling forget rows from rows that no model has seen (`holdout`), by how far their loss lies
    from the median loss of the unseen rows, on either side. Rows that were pushed down too far stand out as much as
    rows that are still known. The verdict is read off the difference from the retain model's AUC, as a share of 0.5.
    Details: auc_high_loss, that of the loss alone (above 0.5: erased rows are less likely than unseen ones).

    Cost: for every model, a pass over the forget rows for each way, and one over the holdout rows.

    Try: expunge run study=quickstart data.world.holdout_authors=8 "audits=[exposure]"
    """

    percentile: float = 0.95
    ways: tuple[str, ...] = ("direct", "upper", "quoted", "plain", "paraphrased")
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        if not 0.5 < self.percentile < 1:
            raise ValueError("percentile must be above 0.5 and below 1")
        check_ways(self.ways)
        check_judging(self.margin, self.known)

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """One probe: the model as it is."""
        sets, _ = rows_in(ground, self.ways, share=0.5, shots=3, seed=0)
        own = [Metric(n, n, rows=ground.forget.name, reads={"tokens": ("answer",)}) for n in (LOSS, STRENGTH, MIN_K)]
        made = {s.name: s for s in sets.values()}
        if ground.holdout is not None:
            own.append(Metric(UNSEEN, LOSS, rows=ground.holdout.name, reads={"tokens": ("answer",)}))
            made[ground.holdout.name] = ground.holdout
        return AuditPlan(made, (AuditProbe(AS_IT_IS, None, (*worst_panel(sets, "prob"), *own)),))

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """The share of rows still known, whether erased rows stand out, and the table."""
        panel = {m.name: m for m in self.expand(ground).probes[0].panel}
        ids = range(len(ground.forget))
        return AuditFindings(
            (self._known_rows(found, ids), self._erased(found, ground)), _table(found, panel, ids, self.percentile)
        )

    def _known_rows(self, found: AuditOutputs, ids: Sequence[int]) -> Finding:
        if found.retain is None or found.full is None:
            return Finding("known_rows", note=found.lacking or "")
        losses = [_column(of, LOSS, ids) for of in (found.model, found.retain, found.full)]
        flags = [_flags(-loss, -losses[1], self.percentile) for loss in losses]
        sides = (flags[0], flags[1], flags[2])
        n = int(np.nansum(flags[0]))
        details = {"n_known": float(n), "n_rows": float(len(ids))}
        note = f"{n} of {len(ids)} rows"
        return held_against(
            "known_rows", sides, position(*sides), margin=self.margin, known=self.known, note=note, details=details
        )

    def _erased(self, found: AuditOutputs, ground: AuditInputs) -> Finding:
        if ground.holdout is None:
            return Finding("erased_rows", note="there are no rows that no model has seen; name a holdout split")
        if found.retain is None:
            return Finding("erased_rows", note=found.lacking or "")
        # The same rows in both models, so that one draw of rows serves both.
        pairs = [
            (_column(of, LOSS, range(len(ground.forget))), _column(of, UNSEEN, range(len(ground.holdout))))
            for of in (found.model, found.retain)
        ]
        kept = [~np.isnan(pairs[0][side] + pairs[1][side]) for side in (0, 1)]
        if min(int(k.sum()) for k in kept) < 2:
            return Finding("erased_rows", note="fewer than two rows of a side have a value in both models")
        plain = [(erased[kept[0]], others[kept[1]]) for erased, others in pairs]
        far = [
            (two_sided(erased, float(np.median(others))), two_sided(others, float(np.median(others))))
            for erased, others in plain
        ]
        sides = {"auc_high_loss": auc(*plain[0]), "auc_high_loss_retain": auc(*plain[1])}
        return stands_out("erased_rows", far[0], far[1], margin=self.margin, known=self.known, details=sides)


def _table(
    found: AuditOutputs, panel: Mapping[str, Metric], ids: Sequence[int], share: float
) -> dict[str, Sequence[object]]:
    """A line per row with every signal, the row with the largest gap to the retain model first in rank."""
    loss = _column(found.model, LOSS, ids)
    columns: dict[str, Sequence[object]] = {"row_id": list(ids), "probability": np.exp(-loss).tolist()}
    columns["loss"] = loss.tolist()
    if found.retain is not None:
        theirs = _column(found.retain, LOSS, ids)
        seen = theirs[~np.isnan(theirs)]
        spread = float(seen.std()) if len(seen) > 1 else math.nan
        middle = float(seen.mean()) if len(seen) else math.nan
        columns["z"] = ((middle - loss) / spread if spread > 0 else np.full(len(ids), math.nan)).tolist()
        columns["percentile"] = percentiles(-loss, -seen).tolist()
        columns["known"] = _flags(-loss, -theirs, share).tolist()
        gap = theirs - loss
        columns["gap"] = gap.tolist()
        order = np.argsort(np.where(np.isnan(gap), np.inf, -gap), kind="stable")
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(1, len(ids) + 1)
        columns["rank"] = rank.tolist()
    columns |= {name: _column(found.model, name, ids).tolist() for name in (STRENGTH, MIN_K)}
    if "worst_prob" in panel:
        columns["worst_prob"] = _column(found.model, "worst_prob", ids).tolist()
    return columns


def _column(of: Results, name: str, ids: Sequence[int]) -> Floats:
    """A score of each row of the model as it is; all metrics here keep theirs as `score`."""
    return rows_of(of[AS_IT_IS][name], Metric(name, ""), ids)


def _flags(scores_R: Floats, retain_R: Floats, share: float) -> Floats:
    """1 where a score passes the given share of the retain model's, else 0; NaN where there is none."""
    seen = retain_R[~np.isnan(retain_R)]
    return np.where(np.isnan(scores_R), math.nan, (percentiles(scores_R, seen) >= share).astype(float))
