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
    ControlledAudit,
    Results,
    audit,
    rows_of,
)
from expunge.audits.distinguishability import NO_UNSEEN, stands_out
from expunge.audits.position import auc, percentiles, two_sided
from expunge.audits.prompting import check_ways, rows_in, worst_panel
from expunge.core.decode import strict
from expunge.core.records import Floats
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import AuditFinding, compare_to_controls

LOSS, STRENGTH, MIN_K = "loss_score", "extraction_strength", "min_k_score"
UNSEEN = "loss_score_unseen"


@audit(
    "exposure",
    revision=2,
    paper="per-example scores as in U-LiRA (arXiv:2403.01218); none for the rest",
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class MembershipAudit(ControlledAudit):
    """Exposure: which rows does the model still know, and does the model reveal which rows were erased?

    known_rows: the share of forget rows whose answer is likelier than `percentile` of the forget answers in the retain
    model. By the same rule, the retain model itself has about 1 - percentile of such rows. The table has a line per row
    with every signal: probability; loss, with its z-score and percentile among the retain model's losses; the gap to
    the retain model's own loss of that row (nats per token); extraction strength; min-k; the probability under the
    worst of the prompt variants `ways`; the rank (1: the largest gap).

    erased_rows: the AUC of forget rows against rows that no model has seen (`holdout`). The score is the distance of
    their loss from the median loss of the unseen rows, on either side. Over-suppressed rows are as conspicuous as
    rows that are still known. The verdict depends on the difference from the retain model's AUC, as a share of 0.5.
    Details: auc_high_loss, the AUC of the loss alone (above 0.5: erased rows are less likely than unseen ones).

    Cost: for every model, a pass over the forget rows for each prompt variant, and one over the holdout rows.

    Try: expunge run study=quickstart data.world.holdout_authors=8 "audits=[exposure]"
    """

    percentile: float = 0.95
    """Share of the retain model's forget answers that a known row's answer exceeds, above 0.5 and below 1."""
    ways: tuple[str, ...] = ("direct", "upper", "quoted", "plain", "paraphrased")
    """Prompt variants of the forget questions (names as in the `prompting` audit)."""

    def __post_init__(self) -> None:
        if not 0.5 < self.percentile < 1:
            raise ValueError("percentile must be above 0.5 and below 1")
        check_ways(self.ways)
        super().__post_init__()

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan one probe of the unchanged model."""
        sets, _ = rows_in(inputs, self.ways, share=0.5, shots=3, seed=0)
        own = [Metric(n, n, rows=inputs.forget.name, reads={"tokens": ("answer",)}) for n in (LOSS, STRENGTH, MIN_K)]
        by_name = {s.name: s for s in sets.values()}
        if inputs.holdout is not None:
            own.append(Metric(UNSEEN, LOSS, rows=inputs.holdout.name, reads={"tokens": ("answer",)}))
            by_name[inputs.holdout.name] = inputs.holdout
        return AuditPlan(by_name, (AuditProbe(AS_IT_IS, None, (*worst_panel(sets, "prob"), *own)),))

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return the share of known rows, whether erased rows are conspicuous, and the table."""
        panel = {m.name: m for m in self.expand(inputs).probes[0].panel}
        ids = range(len(inputs.forget))
        return AuditFindings(
            (self._known_rows(outputs, ids), self._erased(outputs, inputs)),
            _table(outputs, panel, ids, self.percentile),
        )

    def _known_rows(self, outputs: AuditOutputs, ids: Sequence[int]) -> AuditFinding:
        if outputs.retain is None or outputs.full is None:
            return AuditFinding("known_rows", note=outputs.lacking or "")
        losses = [_column(of, LOSS, ids) for of in (outputs.model, outputs.retain, outputs.full)]
        flags = [_flags(-loss, -losses[1], self.percentile) for loss in losses]
        sides = (flags[0], flags[1], flags[2])
        n = int(np.nansum(flags[0]))
        details = {"n_known": float(n), "n_rows": float(len(ids))}
        note = f"{n} of {len(ids)} rows"
        return compare_to_controls(
            "known_rows", sides, margin=self.margin, known=self.known, note=note, details=details
        )

    def _erased(self, outputs: AuditOutputs, inputs: AuditInputs) -> AuditFinding:
        if inputs.holdout is None:
            return AuditFinding("erased_rows", note=NO_UNSEEN)
        if outputs.retain is None:
            return AuditFinding("erased_rows", note=outputs.lacking or "")
        # The same rows in both models, so that one bootstrap draw serves both.
        pairs = [
            (_column(of, LOSS, range(len(inputs.forget))), _column(of, UNSEEN, range(len(inputs.holdout))))
            for of in (outputs.model, outputs.retain)
        ]
        scored = [~np.isnan(pairs[0][side] + pairs[1][side]) for side in (0, 1)]
        if min(int(k.sum()) for k in scored) < 2:
            return AuditFinding("erased_rows", note="fewer than two rows of a side have a value in both models")
        plain = [(erased[scored[0]], others[scored[1]]) for erased, others in pairs]
        far = [
            (two_sided(erased, float(np.median(others))), two_sided(others, float(np.median(others))))
            for erased, others in plain
        ]
        sides = {"auc_high_loss": auc(*plain[0]), "auc_high_loss_retain": auc(*plain[1])}
        return stands_out("erased_rows", far[0], far[1], margin=self.margin, details=sides)


def _table(
    outputs: AuditOutputs, panel: Mapping[str, Metric], ids: Sequence[int], share: float
) -> dict[str, Sequence[object]]:
    """Return a table with every signal of each row; rank 1 has the largest gap to the retain model."""
    loss = _column(outputs.model, LOSS, ids)
    columns: dict[str, Sequence[object]] = {"row_id": list(ids), "probability": np.exp(-loss).tolist()}
    columns["loss"] = loss.tolist()
    if outputs.retain is not None:
        theirs = _column(outputs.retain, LOSS, ids)
        values = theirs[~np.isnan(theirs)]
        spread = float(values.std()) if len(values) > 1 else math.nan
        middle = float(values.mean()) if len(values) else math.nan
        columns["z"] = ((middle - loss) / spread if spread > 0 else np.full(len(ids), math.nan)).tolist()
        columns["percentile"] = percentiles(-loss, -values).tolist()
        columns["known"] = _flags(-loss, -theirs, share).tolist()
        gap = theirs - loss
        columns["gap"] = gap.tolist()
        order = np.argsort(np.where(np.isnan(gap), np.inf, -gap), kind="stable")
        rank = np.empty(len(ids), dtype=np.int64)
        rank[order] = np.arange(1, len(ids) + 1)
        columns["rank"] = rank.tolist()
    columns |= {name: _column(outputs.model, name, ids).tolist() for name in (STRENGTH, MIN_K)}
    if "worst_prob" in panel:
        columns["worst_prob"] = _column(outputs.model, "worst_prob", ids).tolist()
    return columns


def _column(of: Results, name: str, ids: Sequence[int]) -> Floats:
    """Return a score of each row of the unchanged model; all metrics here store theirs as `score`."""
    return rows_of(of[AS_IT_IS][name], Metric(name, ""), ids)


def _flags(scores_R: Floats, retain_R: Floats, share: float) -> Floats:
    """Return 1 for a score above this share of the retain model's, else 0; NaN for a missing score."""
    values = retain_R[~np.isnan(retain_R)]
    return np.where(np.isnan(scores_R), math.nan, (percentiles(scores_R, values) >= share).astype(float))
