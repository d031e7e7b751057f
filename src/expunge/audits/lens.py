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
    Finding,
    Models,
    audit,
    check_judging,
)
from expunge.audits.layers import by_layer, columns, fact_reading, read_layers, rows_by_layer, told
from expunge.core.decode import strict
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.interpretability.lens import lens_scores
from expunge.metrics.api import MetricResult

NAME = "lens"


@dataclass(frozen=True)
class LensAnalysis(Analysis):
    """The probability of each row's answer as each layer tells it: exp of the mean log-probability of its tokens."""

    sets: tuple[str, ...]

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """A result for each layer."""
        read = fact_reading(sets[self.sets[0]], encoder)
        found = lens_scores(models("model"), read)
        logps = np.array([line.logp for line in found.lines]).reshape(len(read.row_ids), len(found.layers))
        return by_layer(NAME, np.exp(logps), found.layers, read.row_ids)


@audit("lens", revision=1, paper="the logit lens; held between two controls as in arXiv:2605.24614")
@strict
@dataclass(frozen=True, kw_only=True)
class LensAudit:
    """Lens: do layers before the last still tell the answer, though the model no longer says it?

    The logit lens puts each layer's state through the model's final norm and LM head, and reads off the probability
    (per token, geometric mean) of the true answer; of rows that name their fact (`meta.value`), of the fact's tokens
    alone. Nothing is trained.

    Value: the mean over the layers that count, which are those where the full model's answers are likelier than the
    retain model's. Details: every layer's mean. The table holds every layer and row.

    Cost: for every model, a pass over the forget rows with its LM head once per layer.

    Pitfalls: early layers may hold a fact in a form that the head cannot read (`probe` and `depth` do not need it), and
    a model may be read well at its last layer only, where this audit says what the model's own probability says.

    Try: expunge run study=quickstart "audits=[lens]"
    """

    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        check_judging(self.margin, self.known)

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """One look at the forget rows."""
        name = ground.forget.name
        return AuditPlan({name: ground.forget}, (AuditProbe(NAME, LensAnalysis((name,)), ()),))

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """The layers that count, in one reading, and the table."""
        if found.lacking:
            return told([Finding("answer", note=found.lacking)])
        sides = columns(found, NAME, NAME)
        return told(
            [read_layers("answer", sides, margin=self.margin, known=self.known)], [rows_by_layer("answer", sides)]
        )
