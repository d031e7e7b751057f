from __future__ import annotations

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
    Finding,
    RelearnSpec,
    audit,
    check_judging,
    chosen,
    held_against,
    keys_of,
    some,
)
from expunge.audits.verdict import Recovery, area, position, recovery
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.core.records import Floats
from expunge.data.examples import ExampleSet
from expunge.metrics.api import Metric

SCORED = "audit_rest"
Condition = Literal["same_rows", "entity_rows", "unrelated"]
SAME: Condition = "same_rows"
ENTITY: Condition = "entity_rows"
OTHER: Condition = "unrelated"


@audit("relearn", revision=1, paper="arXiv:2410.08827 (disjoint facts); arXiv:2506.00688 (controls)")
@strict
@dataclass(frozen=True, kw_only=True)
class RelearnAudit:
    """Relearning: fine-tune a little, and see how fast the rest of what was forgotten comes back.

    Three ways, each of `rows` rows at most: same_rows (a few forget rows), entity_rows (retain rows that share an
    entity with forget rows, where rows name theirs in meta.keys), unrelated (retain rows that share none). The forget
    rows that are not trained on are scored at `steps`, in the model and in both controls. A model that has truly
    forgotten learns as the retain model does.

    Value: how much higher the model's curve lies than the retain model's, on average over the steps (mean over rows).
    Position: that of the same means, 1 being the full model relearned. Details: steps to regain `recover` of what was
    lost against the full model before relearning, those the retain model takes to the same level, and the curves.

    score: probability or extraction_strength of the true answer. learning_rate: the study's `unlearn.learning_rate`
    where null; the rate is constant, without weight decay, in full precision. margin, known: what the verdict allows.

    Cost: for every model and way, max(steps) steps of training, and a pass over the forget rows at each of the steps.

    Try: expunge run study=quickstart "audits=[{name: relearn, rows: 4}]"
    """

    ways: tuple[Condition, ...] = (SAME, ENTITY, OTHER)
    rows: int = 8
    steps: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    learning_rate: float | None = None
    batch_size: int = 4
    seed: int = 0
    score: Literal["probability", "extraction_strength"] = "probability"
    recover: float = 0.5
    margin: float = 0.05
    known: float = 0.5

    def __post_init__(self) -> None:
        if not self.ways or len(set(self.ways)) != len(self.ways):
            raise ValueError("ways must be a list of different ones")
        if len(self.steps) < 2 or self.steps[0] != 0 or list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps must start with 0 and rise")
        for key in ("rows", "batch_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError("learning_rate must be a number > 0")
        if not 0 < self.recover <= 1:
            raise ValueError("recover must be above 0 and at most 1")
        check_judging(self.margin, self.known)

    @property
    def _metric(self) -> Metric:
        return Metric("rest", self.score, rows=SCORED, reads={"tokens": ("answer",)})

    def expand(self, ground: AuditInputs) -> AuditPlan:
        """A training run for each way that there are rows for."""
        n = len(ground.forget)
        if n < self.rows + 2:
            raise ConfigError(
                f"audits: relearn.rows: {self.rows} of {n} forget rows leave too few to score; give fewer"
            )
        again, rest = self._split(ground)
        ways: dict[str, ExampleSet] = {SAME: again}
        lacking: dict[str, str] = {}
        for way, made in self._of_retain(ground).items():
            if isinstance(made, str):
                lacking[way] = made
            else:
                ways[way] = made
        probes = tuple(
            AuditProbe(
                way,
                RelearnSpec(ways[way].name, self.steps, self.learning_rate, self.batch_size, self.seed),
                (self._metric,),
            )
            for way in self.ways
            if way in ways
        )
        sets = {s.name: s for s in ways.values()} | {SCORED: some(ground.forget, rest, SCORED)}
        return AuditPlan(sets, probes, {way: why for way, why in lacking.items() if way in self.ways})

    def _split(self, ground: AuditInputs) -> tuple[ExampleSet, list[int]]:
        """The forget rows to train on, and the numbers of those to score; rows that say the same stay together."""
        again = chosen(ground.forget, self.rows, self.seed, f"audit_{SAME}")
        taught = {(r.question, r.answer) for r in again}
        return again, [r.row_id for r in ground.forget if (r.question, r.answer) not in taught]

    def _of_retain(self, ground: AuditInputs) -> Mapping[str, ExampleSet | str]:
        """Retain rows about the forget rows' entities and about others, or why there are none."""
        if ground.retain is None:
            return dict.fromkeys((ENTITY, OTHER), "this benchmark has no retain rows")
        keys = keys_of(ground.forget.rows)
        near = [r.row_id for r in ground.retain if keys & keys_of([r])]
        far = sorted({r.row_id for r in ground.retain} - set(near))
        without = "the forget rows name no entities (meta.keys)" if not keys else "no retain row shares an entity"
        return {
            ENTITY: chosen(ground.retain, self.rows, self.seed, f"audit_{ENTITY}", near) if near else without,
            OTHER: chosen(ground.retain, self.rows, self.seed, f"audit_{OTHER}", far)
            if far
            else "every retain row shares an entity with the forget rows",
        }

    def read(self, ground: AuditInputs, found: AuditOutputs) -> AuditFindings:
        """A reading for each way, and the curves by row."""
        asked = self.expand(ground)
        rest = self._split(ground)[1]
        readings: list[Finding] = []
        rows: dict[str, list[object]] = {k: [] for k in ("way", "step", "row_id", "model", "retain", "full")}
        for way in self.ways:
            why = asked.missing.get(way) or found.lacking
            if why:
                readings.append(Finding(way, note=why))
                continue
            at = [found.columns(f"{way}@{step}", self._metric) for step in self.steps]
            curves = tuple(np.stack([columns[side] for columns in at]) for side in range(3))
            readings.append(self._reading(way, (curves[0], curves[1], curves[2])))
            for i, step in enumerate(self.steps):
                told = ([way] * len(rest), [step] * len(rest), rest, *(c[i].tolist() for c in curves))
                for key, column in zip(rows, told, strict=True):
                    rows[key] += column
        return AuditFindings(tuple(readings), rows)

    def _reading(self, way: str, curves: tuple[Floats, Floats, Floats]) -> Finding:
        there = ~np.isnan(np.concatenate(curves)).any(axis=0)
        model, retain, full = (curve[:, there] for curve in curves)
        if model.shape[1] < 2:
            return Finding(way, note=f"only {model.shape[1]} rows have a value at every step")
        areas = tuple(area(curve, self.steps) for curve in (model, retain, full))
        where = position(*areas)
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
        # the area between the curves: each row's own difference from the retain model
        sides = (areas[0] - areas[1], areas[1] - areas[1], areas[2] - areas[1])
        return held_against(
            way, sides, where, margin=self.margin, known=self.known, note=self._said(back), details=details
        )

    def _said(self, back: Recovery | str) -> str:
        if isinstance(back, str):
            return back
        taken, theirs = (
            f"{steps:.3g} steps" if math.isfinite(steps) else f"not within {self.steps[-1]} steps"
            for steps in (back.steps, back.retain_steps)
        )
        return f"{self.recover:.0%} of what was lost is back: {taken} (retain model: {theirs})"
