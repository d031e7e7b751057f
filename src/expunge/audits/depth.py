from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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
from expunge.audits.layers import Sides, by_layer, columns, fact_reading, read_layers, rows_by_layer, told
from expunge.core.decode import strict
from expunge.data.examples import ExampleSet
from expunge.data.template import Encoder
from expunge.interpretability.activation_patching import TAU, DepthResult, depth_score, patched_logps
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import answer_logps, row_means
from expunge.metrics.api import MetricResult

NAME, OWN = "depth", "own"


@dataclass(frozen=True)
class DepthAnalysis(Analysis):
    """The mean log-probability of each row's answer in the full model, with one layer's states put in from the model.

    Beside it, as layer 0 of `own`, that of the full model as it is.
    """

    beside: ClassVar[tuple[str, ...]] = ("full",)
    sets: tuple[str, ...]

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """A result for each layer, and the host's own."""
        read = fact_reading(sets[self.sets[0]], encoder)
        states = hidden_states(models("model"), read, at="predicts")
        host = models("full")
        patched_RL = row_means(patched_logps(host, states, read), read).T
        own_R1 = row_means(answer_logps(host, read), read)[:, None]
        return by_layer(NAME, patched_RL, states.layers, read.row_ids) | by_layer(OWN, own_R1, [0], read.row_ids)


@audit("depth", revision=1, paper="Unlearning Depth Score, Lee, Kim and Jo 2026 (arXiv:2605.24614)")
@strict
@dataclass(frozen=True, kw_only=True)
class DepthAudit:
    """Depth: can the full model still read the answer off the unlearned model's inner states?

    Activation patching: the states that the model has after layer l, at the positions that predict the answer, are put
    into the full model; does it still give the answer? Of rows that name their fact (`meta.value`) only the fact's
    tokens are patched and scored. Each control's states are put in as well: the full model's own change nothing, the
    retain model's cost what is not known without the forget rows.

    Value: the patched full model's probability of the answer (per token, geometric mean), over the layers that count:
    those where the retain model's states take something away. Details: `uds`, the Unlearning Depth Score (0: the states
    tell as much as the full model's; 1: no more than the retain model's) with its interval, rows scored (`uds_rows`),
    and every layer's mean. tau: what a layer must lose to count for UDS, in nats per token.

    The verdict is read off the probability, not off UDS: UDS cuts every row's share at 0 and 1, so that a second retain
    model would not have exactly 1.

    Cost: for every model, a pass over the forget rows and one of the full model for each layer.

    Pitfall: patching presumes that the two models' states mean the same. They do where one was made from the other.

    Try: expunge run study=quickstart "audits=[depth]"
    """

    tau: float = TAU
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise ValueError("tau must be a number >= 0")
        check_judging(self.margin, self.known)

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """One look at the forget rows."""
        name = ground.forget.name
        return AuditPlan({name: ground.forget}, (AuditProbe(NAME, DepthAnalysis((name,)), ()),))

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """The reading, with UDS beside it, and the table."""
        if found.lacking:
            return told([Finding("patching", note=found.lacking)])
        logps = columns(found, NAME, NAME)
        own = columns(found, NAME, OWN)[0][0]
        sides = {layer: _exp(three) for layer, three in logps.items()}
        uds = self._uds(logps, own)
        score = {
            "uds": uds.value,
            "uds_low": uds.ci_low,
            "uds_high": uds.ci_high,
            "uds_rows": float(uds.n_scored),
        }
        note = uds.reason or f"UDS {uds.value:.2f} [{uds.ci_low:.2f}, {uds.ci_high:.2f}]"
        reading = read_layers("patching", sides, margin=self.margin, known=self.known, note=note)
        reading = dataclasses.replace(reading, details={**score, **reading.details})
        return told([reading], [rows_by_layer("patching", sides)])

    def _uds(self, logps: Mapping[int, Sides], own_R: np.ndarray[tuple[int], np.dtype[np.float64]]) -> DepthResult:
        """Equations 2 to 6, from what patching takes off the full model's own log-probability."""
        control, source = (np.stack([own_R - three[side] for three in logps.values()], axis=1) for side in (1, 0))
        return depth_score(control, source, row_ids=tuple(range(len(own_R))), layers=tuple(logps), tau=self.tau)


def _exp(three: Sides) -> Sides:
    return np.exp(three[0]), np.exp(three[1]), np.exp(three[2])
