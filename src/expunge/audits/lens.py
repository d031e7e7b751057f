from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expunge.audits.api import (
    Analysis,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    ControlledAudit,
    Models,
    audit,
)
from expunge.audits.layers import by_layer, collect_findings, columns, fact_reading, read_layers, rows_by_layer
from expunge.core.decode import strict
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.interpretability.lens import lens_scores
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import AuditFinding

NAME = "lens"


@dataclass(frozen=True)
class LensAnalysis(Analysis):
    """The probability of each row's answer at each layer: exp of the mean log-probability of its tokens."""

    sets: tuple[str, ...]

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Return a result for each layer."""
        facts = fact_reading(sets[self.sets[0]], encoder)
        scores = lens_scores(models("model"), facts)
        logps = np.array([line.logp for line in scores.lines]).reshape(len(facts.row_ids), len(scores.layers))
        return by_layer(NAME, np.exp(logps), scores.layers, facts.row_ids)


@audit(
    "lens", revision=2, paper="the logit lens; compared with two controls as in arXiv:2605.24614", fidelity="reading"
)
@strict
@dataclass(frozen=True, kw_only=True)
class LensAudit(ControlledAudit):
    """Lens: do layers before the last still contain the answer that the model no longer outputs?

    The logit lens applies the model's final norm and LM head to each layer's state. It reads the true answer's
    probability (per token, geometric mean). In rows that name their fact (`meta.value`) it reads the fact's tokens
    only. Nothing is trained.

    Value: the mean over the layers that count: those at which the target model's answers are likelier than the retain
    model's. Details: every layer's mean. The table contains every layer and row.

    Cost: for every model, a pass over the forget rows with its LM head once per layer.

    Pitfalls: early layers may store a fact in a form that the head cannot read (`probe` and `depth` do not need it). In
    some models only the last layer is readable; then this audit repeats the model's own probability.

    Try: expunge run study=quickstart "audits=[lens]"
    """

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan one analysis of the forget rows."""
        name = inputs.forget.name
        return AuditPlan({name: inputs.forget}, (AuditProbe(NAME, LensAnalysis((name,)), ()),))

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return one finding over the layers that count, and the table."""
        if outputs.lacking:
            return collect_findings([AuditFinding("answer", note=outputs.lacking)])
        sides = columns(outputs, NAME, NAME)
        return collect_findings(
            [read_layers("answer", sides, margin=self.margin, known=self.known)], [rows_by_layer("answer", sides)]
        )
