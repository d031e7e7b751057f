from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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
from expunge.audits.layers import Sides, by_layer, collect_findings, columns, fact_reading, read_layers, rows_by_layer
from expunge.core.decode import strict
from expunge.core.errors import DataError, nearest
from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.source import read_file
from expunge.interpretability.activation_patching import TAU, DepthResult, depth_score, patched_logps
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import answer_logps, row_means
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import AuditFinding

NAME, OWN = "depth", "own"


@dataclass(frozen=True)
class DepthAnalysis(Analysis):
    """Mean log-probability of each row's answer in the target model, with one layer's states from the audited model.

    Layer 0 of `own` is that of the unchanged target model.
    """

    beside: ClassVar[tuple[str, ...]] = ("full",)
    sets: tuple[str, ...]

    def measure(self, models: Models, sets: Mapping[str, ExampleSet], encoder: Encoder) -> dict[str, MetricResult]:
        """Return a result for each layer, and the host's own."""
        facts = fact_reading(sets[self.sets[0]], encoder)
        states = hidden_states(models("model"), facts, at="predicts")
        host = models("full")
        patched_RL = row_means(patched_logps(host, states, facts), facts).T
        own_R1 = row_means(answer_logps(host, facts), facts)[:, None]
        return by_layer(NAME, patched_RL, states.layers, facts.row_ids) | by_layer(OWN, own_R1, [0], facts.row_ids)


@audit("depth", revision=2, paper="Unlearning Depth Score, Lee, Kim and Jo 2026 (arXiv:2605.24614)", fidelity="reading")
@strict
@dataclass(frozen=True, kw_only=True)
class DepthAudit(ControlledAudit):
    """Depth: do the unlearned model's hidden states still carry the answer?

    Activation patching replaces hidden states of the target model by the audited model's states after layer l, at the
    positions that predict the answer. Does the target model still predict the answer? In rows that name their fact
    (`meta.value`) only the fact's tokens are patched and scored. The controls' states are patched as well: the target
    model's own change nothing; the retain model's remove the knowledge that depends on the forget rows.

    Value: the patched target model's probability of the answer (per token, geometric mean), over the layers at which
    the retain model's states lower it. Details: `uds`, the Unlearning Depth Score (0: the states carry as much as the
    target model's; 1: no more than the retain model's) with its interval, the scored rows (`uds_rows`), and every
    layer's mean.

    The verdict depends on the probability, not on UDS. UDS clips every row's share at 0 and 1, so a second retain model
    would not have exactly 1.

    Cost: for every model, a pass over the forget rows, and one of the target model for each layer. It is half if one
    forward serves all layers.

    Equations 1 to 6 are those of the paper and of the authors' code, and so is tau. Their numbers also need their rows:
    `entities` reads their list of 367 entities of TOFU's forget10 as it is. They use plain text, "Question: ...
    Answer: ...", so set the template's tags for a chat model.

    Pitfall: patching assumes that the two models' states have the same meaning. They do if one was trained from the
    other.

    Try: expunge run study=quickstart "audits=[depth]"
    """

    entities: str | None = None
    """File with an entity for each row to read. null: `meta.value` of the row, else all of its answer.

    JSON, JSON lines or csv with the columns idx (or row: the number of the forget row) and entity (or value). Forget
    rows without an entity are left out.
    """
    tau: float = TAU
    """Smallest loss of a layer, in nats per token, that counts for UDS."""

    def __post_init__(self) -> None:
        if not 0 <= self.tau < math.inf:
            raise ValueError("tau must be a number >= 0")
        super().__post_init__()

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan one analysis of the forget rows."""
        rows = inputs.forget if self.entities is None else with_entities(inputs.forget, self.entities)
        return AuditPlan({rows.name: rows}, (AuditProbe(NAME, DepthAnalysis((rows.name,)), ()),))

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return the finding, with UDS in its details, and the table."""
        if outputs.lacking:
            return collect_findings([AuditFinding("patching", note=outputs.lacking)])
        logps = columns(outputs, NAME, NAME)
        own = columns(outputs, NAME, OWN)[0][0]
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
        return collect_findings([reading], [rows_by_layer("patching", sides)])

    def _uds(self, logps: Mapping[int, Sides], own_R: np.ndarray[tuple[int], np.dtype[np.float64]]) -> DepthResult:
        """Compute equations 2 to 6 from the loss of the target model's own log-probability through patching."""
        control, source = (np.stack([own_R - three[side] for three in logps.values()], axis=1) for side in (1, 0))
        return depth_score(control, source, row_ids=tuple(range(len(own_R))), layers=tuple(logps), tau=self.tau)


def with_entities(forget: ExampleSet, path: str) -> ExampleSet:
    """Return the forget rows that a file names, each with its entity as `meta.value`.

    Raises DataError with file and row: a missing column, a number of no forget row, a row named twice, an entity
    outside its answer.
    """
    named: dict[int, str] = {}
    for i, record in enumerate(read_file(Path(path).expanduser())):
        where = f"{path} row {i}"
        number, entity = (_column(record, keys, where) for keys in (("idx", "row"), ("entity", "value")))
        if not str(number).isdigit() or int(number) >= len(forget):
            raise DataError(f"{where}: {number!r} is the number of no forget row; allowed: 0 to {len(forget) - 1}")
        if int(number) in named:
            raise DataError(f"{where}: forget row {number} is named twice")
        if not isinstance(entity, str) or not entity.strip() or entity not in forget[int(number)].answer:
            raise DataError(f"{where}: the answer of forget row {number} does not contain the entity {entity!r}")
        named[int(number)] = entity
    if not named:
        raise DataError(f"{path}: no rows")
    rows = tuple(
        dataclasses.replace(forget[i], row_id=k, meta={**forget[i].meta, "value": named[i]})
        for k, i in enumerate(sorted(named))
    )
    return dataclasses.replace(forget, name="audit_entities", rows=rows)


def _column(record: Mapping[str, Any], keys: tuple[str, str], where: str) -> Any:
    """Return a record's first column of some names."""
    for key in keys:
        if key in record:
            return record[key]
    raise DataError(f"{where}: no column {keys[0]!r} or {keys[1]!r}{nearest(keys[0], record)}")


def _exp(three: Sides) -> Sides:
    return np.exp(three[0]), np.exp(three[1]), np.exp(three[2])
