from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from expunge.audits.api import (
    AS_IT_IS,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    Change,
    Finding,
    Nf4Spec,
    audit,
    check_judging,
    held_against,
)
from expunge.audits.verdict import position
from expunge.core.decode import strict
from expunge.methods.weight_edits import make_weight_edit
from expunge.metrics.api import Metric

Form = Literal["int8", "int4", "nf4"]


@audit("quantize", revision=1, paper="arXiv:2410.16454")
@strict
@dataclass(frozen=True, kw_only=True)
class QuantizeAudit:
    """Quantisation: small updates can vanish when weights are rounded, and what was forgotten comes back.

    Each form of the weights (int8: a scale for each row; int4: a scale for every 64 entries; both rounded to the
    nearest without any data; nf4: by bitsandbytes, where it is installed) is given to the model and both controls, and
    the forget rows are scored again.

    Value: the mean score of the true answers in that form. Details: the same before (before, before_position).
    score: probability or extraction_strength. margin, known: what the verdict allows.

    Cost: for every model and form, one set of weights on disk and a pass over the forget rows.

    Try: expunge run study=quickstart "audits=[{name: quantize, forms: [int8, int4]}]"
    """

    forms: tuple[Form, ...] = ("int8", "int4")
    score: Literal["probability", "extraction_strength"] = "probability"
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        if not self.forms or len(set(self.forms)) != len(self.forms):
            raise ValueError("forms must be a list of different ones")
        check_judging(self.margin, self.known)

    def _metric(self, ground: AuditInputs) -> Metric:
        return Metric("forget", self.score, rows=ground.forget.name, reads={"tokens": ("answer",)})

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """The model as it is and in each form."""
        changes: dict[str, Change] = {
            "int8": make_weight_edit("quantize", {"bits": 8}),
            "int4": make_weight_edit("quantize", {"bits": 4}),
            "nf4": Nf4Spec(),
        }
        panel = (self._metric(ground),)
        probes = [AuditProbe(AS_IT_IS, None, panel), *(AuditProbe(form, changes[form], panel) for form in self.forms)]
        return AuditPlan({ground.forget.name: ground.forget}, tuple(probes))

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """A reading for each form, and every row's score in each."""
        if found.lacking:
            return AuditFindings(tuple(Finding(form, note=found.lacking) for form in self.forms))
        metric = self._metric(ground)
        before = found.columns(AS_IT_IS, metric)
        start = position(*before)
        readings = []
        rows: dict[str, list[object]] = {k: [] for k in ("form", "row_id", "model", "retain", "full")}
        for form in (AS_IT_IS, *self.forms):
            sides = found.columns(form, metric)
            for key, column in zip(
                rows, ([form] * len(sides[0]), range(len(sides[0])), *(s.tolist() for s in sides)), strict=True
            ):
                rows[key] += column
            if form != AS_IT_IS:
                mean = found.model[AS_IT_IS][metric.name].value
                readings.append(
                    held_against(
                        form,
                        sides,
                        position(*sides),
                        margin=self.margin,
                        known=self.known,
                        note=f"{mean:.3g} before",
                        details={"before": mean, "before_position": start.value},
                    )
                )
        return AuditFindings(tuple(readings), rows)
