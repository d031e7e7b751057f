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
    ControlledAudit,
    Nf4Spec,
    audit,
)
from expunge.core.decode import strict
from expunge.methods.weight_edits import make_weight_edit
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import compare_to_controls

Form = Literal["int8", "int4", "nf4"]


@audit("quantize", revision=3, alone=True, paper="arXiv:2410.16454", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class QuantizeAudit(ControlledAudit):
    """Quantisation: rounding the weights can undo small updates, so forgotten answers come back.

    The model and both controls are converted to each form of the weights, and the forget rows are scored again. int8:
    one scale per row; int4: one scale per 64 entries; both rounded to the nearest level without data. nf4: by
    bitsandbytes, if it is installed.

    Value: the mean score of the true answers in that form. Details: the same before (before, before_position).

    Cost: for every model and form, one set of weights on disk and a pass over the forget rows.

    Try: expunge run study=quickstart "audits=[{name: quantize, forms: [int8, int4]}]"
    """

    forms: tuple[Form, ...] = ("int8", "int4")
    """Forms of the weights to try."""
    score: Literal["probability", "extraction_strength"] = "probability"
    """Metric of the true answers."""

    def __post_init__(self) -> None:
        if not self.forms or len(set(self.forms)) != len(self.forms):
            raise ValueError("forms must be a list of different names (allowed: int8, int4, nf4)")
        super().__post_init__()

    def _metric(self, inputs: AuditInputs) -> Metric:
        return Metric("forget", self.score, rows=inputs.forget.name, reads={"tokens": ("answer",)})

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan the unchanged model and each form."""
        changes: dict[str, Change] = {
            "int8": make_weight_edit("quantize", {"bits": 8}),
            "int4": make_weight_edit("quantize", {"bits": 4}),
            "nf4": Nf4Spec(),
        }
        panel = (self._metric(inputs),)
        probes = [AuditProbe(AS_IT_IS, None, panel), *(AuditProbe(form, changes[form], panel) for form in self.forms)]
        return AuditPlan({inputs.forget.name: inputs.forget}, tuple(probes))

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return a finding for each form, and every row's score in each."""
        metric = self._metric(inputs)
        if outputs.lacking:
            return AuditFindings(tuple(outputs.alone(form, form, metric) for form in self.forms))
        before = outputs.columns(AS_IT_IS, metric)
        start = compare_to_controls(AS_IT_IS, before, margin=self.margin, known=self.known)
        readings = []
        rows: dict[str, list[object]] = {k: [] for k in ("form", "row_id", "model", "retain", "full")}
        for form in (AS_IT_IS, *self.forms):
            sides = outputs.columns(form, metric)
            for key, column in zip(
                rows, ([form] * len(sides[0]), range(len(sides[0])), *(s.tolist() for s in sides)), strict=True
            ):
                rows[key] += column
            if form != AS_IT_IS:
                mean = outputs.model[AS_IT_IS][metric.name].value
                readings.append(
                    compare_to_controls(
                        form,
                        sides,
                        margin=self.margin,
                        known=self.known,
                        note=f"{mean:.3g} before",
                        details={"before": mean, "before_position": start.position},
                    )
                )
        return AuditFindings(tuple(readings), rows)
