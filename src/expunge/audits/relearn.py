from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from expunge.audits.api import (
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    ControlledAudit,
    RelearnSpec,
    audit,
    keys_of,
    known_and_rest,
    sample_rows,
)
from expunge.audits.position import Recovery, area, recovery
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import SEVERITY, AuditFinding, compare_to_controls

SCORED = "audit_rest"
Condition = Literal["same_rows", "entity_rows", "unrelated"]
SAME: Condition = "same_rows"
ENTITY: Condition = "entity_rows"
OTHER: Condition = "unrelated"
END, RATE = "end of the curve", "mean height"  # the two numbers of a curve that are judged


@audit(
    "relearn",
    revision=3,
    alone=True,
    paper="arXiv:2410.08827 (disjoint facts); arXiv:2506.00688 (controls)",
    fidelity="reading",
)
@strict
@dataclass(frozen=True, kw_only=True)
class RelearnAudit(ControlledAudit):
    """Relearning: after a little fine-tuning, how fast do the other forgotten rows come back?

    Three conditions, each with at most `rows` rows: same_rows (a few forget rows); entity_rows (retain rows that share
    an entity with forget rows, if rows name theirs in meta.keys); unrelated (retain rows that share none). The forget
    rows outside the training rows are scored at `steps`, in the model and in both controls. A model that has truly
    forgotten learns as the retain model does.

    Two numbers of each row's curve are judged: its end, and its mean height over the steps. A row that comes back
    faster has a larger height. The finding shows the one with more remaining knowledge; a curve that ends at the retain
    model's level but rises sooner is a trace. Details: both; steps to regain `recover` of the loss against the target
    model before relearning; the retain model's steps to the same level; the curves.

    Value: the mean score of the rows outside the training rows: at the end of the curve, or its mean height. Without
    controls: at the end.

    Training has a constant learning rate, no weight decay, and full precision.

    Cost: for every model and condition, max(steps) training steps, and a pass over the forget rows at each of `steps`.

    Try: expunge run study=quickstart "audits=[{name: relearn, rows: 4}]"
    """

    ways: tuple[Condition, ...] = (SAME, ENTITY, OTHER)
    """Kinds of training rows to try."""
    rows: int = 8
    """Largest number of training rows of each condition."""
    steps: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    """Training steps after which the model is scored; the first must be 0."""
    learning_rate: float | None = None
    """Learning rate; null uses the study's `unlearn.learning_rate`."""
    batch_size: int = 4
    """Rows per training step."""
    seed: int = 0
    """Seed of the sample of rows and of their order."""
    score: Literal["probability", "extraction_strength"] = "probability"
    """Metric of the true answers."""
    recover: float = 0.5
    """Share of the loss to regain, above 0 and at most 1."""

    def __post_init__(self) -> None:
        if not self.ways or len(set(self.ways)) != len(self.ways):
            raise ValueError("ways must be a list of different names (allowed: same_rows, entity_rows, unrelated)")
        if len(self.steps) < 2 or self.steps[0] != 0 or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps must start with 0 and rise")
        for key in ("rows", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError("learning_rate must be a number > 0")
        if not 0 < self.recover <= 1:
            raise ValueError("recover must be above 0 and at most 1")
        super().__post_init__()

    @property
    def _metric(self) -> Metric:
        return Metric("rest", self.score, rows=SCORED, reads={"tokens": ("answer",)})

    def expand(self, inputs: AuditInputs) -> AuditPlan:
        """Plan a training run for each condition that has rows."""
        n = len(inputs.forget)
        if n < self.rows + 2:
            raise ConfigError(
                f"audits: relearn.rows: {self.rows} of {n} forget rows leave too few to score; use a smaller number"
            )
        again, rest, _ = self._split(inputs)
        ways: dict[str, ExampleSet] = {SAME: again}
        lacking: dict[str, str] = {}
        for way, candidates in self._of_retain(inputs).items():
            if isinstance(candidates, str):
                lacking[way] = candidates
            else:
                ways[way] = candidates
        probes = tuple(
            AuditProbe(
                way,
                RelearnSpec(ways[way].name, self.steps, self.learning_rate, self.batch_size, self.seed),
                (self._metric,),
            )
            for way in self.ways
            if way in ways
        )
        sets = {s.name: s for s in ways.values()} | {SCORED: rest}
        return AuditPlan(sets, probes, {way: why for way, why in lacking.items() if way in self.ways})

    def _split(self, inputs: AuditInputs) -> tuple[ExampleSet, ExampleSet, list[int]]:
        return known_and_rest(inputs.forget, self.rows, self.seed, f"audit_{SAME}", SCORED)

    def _of_retain(self, inputs: AuditInputs) -> Mapping[str, ExampleSet | str]:
        """Return retain rows about the forget rows' entities and about others, or why there are none."""
        if inputs.retain is None:
            return dict.fromkeys((ENTITY, OTHER), "this benchmark has no retain rows")
        keys = keys_of(inputs.forget.rows)
        near = [r.row_id for r in inputs.retain if keys & keys_of([r])]
        far = sorted({r.row_id for r in inputs.retain} - set(near))
        without = "the forget rows name no entities (meta.keys)" if not keys else "no retain row shares an entity"
        return {
            ENTITY: sample_rows(inputs.retain, self.rows, self.seed, f"audit_{ENTITY}", near) if near else without,
            OTHER: sample_rows(inputs.retain, self.rows, self.seed, f"audit_{OTHER}", far)
            if far
            else "every retain row shares an entity with the forget rows",
        }

    def read(self, inputs: AuditInputs, outputs: AuditOutputs) -> AuditFindings:
        """Return a finding for each condition, and the curves by row."""
        plan = self.expand(inputs)
        rest = self._split(inputs)[2]
        readings: list[AuditFinding] = []
        rows: dict[str, list[object]] = {k: [] for k in ("way", "step", "row_id", "model", "retain", "full")}
        for way in self.ways:
            if why := plan.missing.get(way):
                readings.append(AuditFinding(way, note=why))
                continue
            if outputs.lacking:
                readings.append(outputs.alone(way, f"{way}@{self.steps[-1]}", self._metric))
                continue
            at = [outputs.columns(f"{way}@{step}", self._metric) for step in self.steps]
            curves = tuple(np.stack([columns[side] for columns in at]) for side in range(3))
            readings.append(self._reading(way, (curves[0], curves[1], curves[2])))
            for i, step in enumerate(self.steps):
                cells = ([way] * len(rest), [step] * len(rest), rest, *(c[i].tolist() for c in curves))
                for key, column in zip(rows, cells, strict=True):
                    rows[key] += column
        return AuditFindings(tuple(readings), rows)

    def _reading(self, way: str, curves: tuple[Floats, Floats, Floats]) -> AuditFinding:
        there = np.isfinite(np.concatenate(curves)).all(axis=0)
        model, retain, full = (curve[:, there] for curve in curves)
        if model.shape[1] < 2:
            return AuditFinding(way, note=f"only {model.shape[1]} rows have a value at every step")
        back = recovery(model, retain, full, self.steps, self.recover)
        details = {
            f"{side}_at_{step}": float(curve[i].mean())
            for side, curve in (("model", model), ("retain", retain), ("full", full))
            for i, step in enumerate(self.steps)
        }
        if isinstance(back, Recovery):
            details |= {
                "recovery_steps": back.steps,
                "recovery_low": back.low,
                "recovery_high": back.high,
                "recovery_steps_retain": back.retain_steps,
            }
        note = self._remark(back)
        sides = {
            END: (model[-1], retain[-1], full[-1]),
            RATE: (area(model, self.steps), area(retain, self.steps), area(full, self.steps)),
        }
        both = {
            name: compare_to_controls(way, three, margin=self.margin, known=self.known, details=details)
            for name, three in sides.items()
        }
        by = max(both, key=lambda name: SEVERITY[both[name].verdict])
        words = "; ".join(f"{name}: {one.verdict}" for name, one in both.items())
        more = {
            f"{name.replace(' ', '_')}_{key}": getattr(one, key)
            for name, one in both.items()
            for key in ("value", "low", "high", "position")
        }
        remarks = (f"judged by the {by}", words, both[by].note, note)
        return dataclasses.replace(
            both[by], note="; ".join(part for part in remarks if part), details={**both[by].details, **more}
        )

    def _remark(self, back: Recovery | str) -> str:
        if isinstance(back, str):
            return back
        own, theirs = (
            f"{steps:.3g} steps" if math.isfinite(steps) else f"not within {self.steps[-1]} steps"
            for steps in (back.steps, back.retain_steps)
        )
        return f"{self.recover:.0%} of the loss is back: {own} (retain model: {theirs})"
