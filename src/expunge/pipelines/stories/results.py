"""The report of a stories study, read from its finished jobs. Nothing is computed again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from expunge.audits.position import area, steps_to
from expunge.core.errors import DataError
from expunge.engine.job import Job
from expunge.engine.run import RunOutcome
from expunge.engine.store import Store
from expunge.interpretability.probe import ProbeLine
from expunge.judges.api import ENOUGH
from expunge.metrics.api import MetricResult, missing
from expunge.pipelines.stories.jobs import NEVER, PRESENT, StoryJobs, StorySubject
from expunge.pipelines.stories.work import GENERATIONS
from expunge.pipelines.study_jobs import TRAJECTORY
from expunge.report.model import MissingResult, ReportModel, ReportProvenance, ReportRun, ReportSample
from expunge.report.protocol import SCORE, ProbeCurve, Protocol, ProtocolCourse

Points = tuple[Mapping[str, float], ...]
N_SAMPLES = 4
RECOVERY_METRICS = ("recovery_steps", "recovery_steps_loss", "recovery_area")


def stories_model(
    name: str, jobs: StoryJobs, outcome: RunOutcome, store: Store, command: str, provenance: ReportProvenance
) -> ReportModel:
    """Return the report of a study of stories from the jobs that are done."""
    results = _StoryResults(jobs, outcome, store)
    runs, absent = [], []
    for subject in jobs.subjects:
        if subject.model.key in outcome.failures:
            absent.append(MissingResult(subject.model.name, outcome.failures[subject.model.key]))
            continue
        for job in (subject.measured, subject.recovery, subject.probe):
            if job is not None and job.key in outcome.failures and job is not subject.model:
                absent.append(MissingResult(job.name, outcome.failures[job.key]))
        runs.append(results.run(subject))
    settings = jobs.settings
    losses = tuple(f"loss_{name}" for name in settings.evaluated)
    probes = ("probe_auc", "probe_kept") if settings.probe else ()
    corpus = outcome.records.get(jobs.corpus.key, {}).get("facts", {})
    return ReportModel(
        title=f"Stories study {name}: {settings.delete} deleted and recovered",
        study=name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        sets={"stories": int(corpus["stories"])} if corpus else {},
        runs=tuple(runs),
        notes=_notes(jobs, outcome),
        missing=tuple(absent),
        samples=results.samples(),
        shown=(SCORE, *losses, *probes, *RECOVERY_METRICS),
        utility="",
        making=provenance,
        directions={SCORE: "the model still writes the feature", "probe_kept": "probes still find the feature"},
        protocol=results.protocol(),
    )


def _notes(jobs: StoryJobs, outcome: RunOutcome) -> tuple[str, ...]:
    out = []
    facts = outcome.records.get(jobs.judge.key, {}).get("facts")
    if facts:
        kind = "rules" if jobs.settings.judge.rules is not None else "a classifier trained on the stories' metadata"
        rates = [f"{key.replace('_', ' ')} {facts[key]:.3f}" for key in facts if key != "n" and facts[key] is not None]
        out.append(f"Judge of {jobs.settings.delete}: {kind}; on {facts['n']} other stories: {', '.join(rates)}.")
    n = jobs.settings.judge.prompts
    if n < ENOUGH:
        out.append(f"Only {n} prompts are judged; below {ENOUGH} the interval is too wide to rank models.")
    return tuple(out)


class _StoryResults:
    """The trajectories and probes of the finished models."""

    def __init__(self, jobs: StoryJobs, outcome: RunOutcome, store: Store) -> None:
        self.jobs, self.outcome, self.store = jobs, outcome, store
        self.settings = jobs.settings
        self.points = {s.label: self._points(s.measured) for s in jobs.subjects}
        self.back = {s.label: self._points(s.recovery) for s in jobs.subjects}
        self.probes = {s.label: self._probe(s.probe) for s in jobs.subjects}

    def _points(self, job: Job | None) -> Points:
        if job is None or job.key not in self.outcome.records:
            return ()
        return read_points(self.store.path(job) / TRAJECTORY)

    def _probe(self, job: Job | None) -> dict[tuple[str, int], ProbeLine]:
        if job is None or job.key not in self.outcome.records:
            return {}
        lines = pq.read_table(self.store.path(job) / "probe.parquet").to_pylist()
        return {(line["attribute"], line["layer"]): ProbeLine(**line) for line in lines}

    def end(self, label: str) -> Mapping[str, float]:
        """Return the values of a model before recovery; empty if it is not done."""
        return self.points[label][-1] if self.points.get(label) else {}

    def recovery(self, label: str) -> Points:
        """Return the course of a recovery, from the model it starts at."""
        return ({**self.end(label), "step": 0.0}, *self.back[label]) if self.back.get(label) else ()

    def deletion(self, label: str) -> Points:
        """Return the course of a deletion, from the present model."""
        return ({**self.end(PRESENT), "step": 0.0}, *self.points[label]) if self.points[label] else ()

    def run(self, subject: StorySubject) -> ReportRun:
        """Return a model's numbers."""
        end = self.end(subject.label)
        extra = {f"ci_{side}": end.get(f"{SCORE}_{side}", math.nan) for side in ("low", "high")}
        results = {SCORE: _result(end.get(SCORE), {**extra, "n": end.get(f"{SCORE}_n", math.nan)})}
        results |= {f"loss_{n}": _result(end.get(f"loss_{n}")) for n in self.settings.evaluated}
        if self.settings.probe is not None:
            results |= self._probe_results(subject.label)
        results |= self._recovery_results(subject)
        record = self.outcome.records.get(subject.model.key, {})
        rate = "" if subject.learning_rate is None else f"data set {subject.dataset}, lr {subject.learning_rate:g}"
        return ReportRun(
            label=subject.label,
            role=subject.role,  # type: ignore[arg-type]
            method=subject.dataset,
            settings=rate,
            results=results,
            wall_s=record.get("wall_s"),
            steps=record.get("facts", {}).get("steps"),
        )

    def _layer(self) -> int | None:
        """Return the layer at which the probes of the present and the never-learned model differ most."""
        present, never = self.probes[PRESENT], self.probes[NEVER]
        gaps = {
            key[1]: line.auc - never[key].auc
            for key, line in present.items()
            if key[0] == self.settings.delete and key in never and math.isfinite(line.auc - never[key].auc)
        }
        return max(gaps, key=lambda layer: gaps[layer]) if gaps else None

    def _probe_results(self, label: str) -> dict[str, MetricResult]:
        layer = self._layer()
        if layer is None or not self.probes[label]:
            none = missing("the probes of the present and the never-learned model have no numbers to compare")
            return {"probe_auc": none, "probe_kept": none}
        at = (self.settings.delete, layer)
        auc, high, low = self.probes[label][at].auc, self.probes[PRESENT][at].auc, self.probes[NEVER][at].auc
        share = MetricResult((auc - low) / (high - low)) if high > low else None
        return {
            "probe_auc": MetricResult(auc, extra={"layer": float(layer)}),
            "probe_kept": share or missing("the probe of the present model is no better than the never-learned one's"),
        }

    def _recovery_results(self, subject: StorySubject) -> dict[str, MetricResult]:
        if subject.role == "full":
            return dict.fromkeys(RECOVERY_METRICS, missing("this model is the reference of recovery"))
        course = self.recovery(subject.label)
        if not course:
            return dict.fromkeys(RECOVERY_METRICS, missing("its recovery is not done"))
        loss = f"loss_{self.settings.recovery}"
        results = {
            "recovery_steps": self._steps(course, SCORE),
            "recovery_steps_loss": self._steps(course, loss),
        }
        control = self.recovery(NEVER)
        steps = [int(p["step"]) for p in course]
        if [int(p["step"]) for p in control] != steps:
            return {**results, "recovery_area": missing("the control's recovery is not done")}
        both = np.array([[p[SCORE] for p in points] for points in (course, control)])
        if np.isnan(both).any():
            return {**results, "recovery_area": missing("not every step has a score")}
        return {**results, "recovery_area": MetricResult(float(np.subtract(*area(both.T, steps))))}

    def _steps(self, course: Points, name: str) -> MetricResult:
        """Return `steps_back` between the never-learned and the present model, both before recovery."""
        low, high = (self.end(label).get(name, math.nan) for label in (NEVER, PRESENT))
        return steps_back(course, name, low, high, self.settings.recovered)

    def samples(self) -> tuple[ReportSample, ...]:
        """Return generations of each model before recovery, for the first prompts that request the feature."""
        texts: dict[str, dict[int, tuple[str, str]]] = {}
        for s in self.jobs.subjects:
            if self.points[s.label]:
                text = (self.store.path(s.measured) / GENERATIONS).read_text(encoding="utf-8")
                lines = [json.loads(line) for line in text.splitlines()]
                last = max(line["step"] for line in lines)
                texts[s.label] = {x["row_id"]: (x["prompt"], _scored(x)) for x in lines if x["step"] == last}
        if not texts:
            return ()
        prompts = {i: prompt for rows in texts.values() for i, (prompt, _) in rows.items()}
        truth = f"any story with {self.settings.delete}"
        return tuple(
            ReportSample(prompts[i], truth, {label: rows[i][1] for label, rows in texts.items() if i in rows})
            for i in sorted(prompts)[:N_SAMPLES]
        )

    def protocol(self) -> Protocol:
        """Return the curves and findings of the report."""
        roles: dict[str, Any] = {s.label: s.role for s in self.jobs.subjects}
        subjects = [s for s in self.jobs.subjects if self.points[s.label]]
        present = (ProtocolCourse(PRESENT, "full", ({**self.end(PRESENT), "step": 0.0},)),) if self.end(PRESENT) else ()
        curves = []
        for label, lines in self.probes.items():
            for attribute in sorted({name for name, _ in lines}):
                layers = sorted(layer for name, layer in lines if name == attribute)
                auc = tuple(lines[attribute, layer].auc for layer in layers)
                curves.append(ProbeCurve(label, roles[label], attribute, tuple(layers), auc))
        return Protocol(
            feature=self.settings.delete,
            task=self.settings.recovery,
            losses=self.settings.evaluated,
            deletions=tuple(
                ProtocolCourse(s.label, "unlearn", self.deletion(s.label)) for s in subjects if s.role == "unlearn"
            ),
            recoveries=(
                *present,
                *(
                    ProtocolCourse(s.label, roles[s.label], self.recovery(s.label))
                    for s in subjects
                    if self.back[s.label]
                ),
            ),
            probes=tuple(curves),
            shown_at=self.settings.shown_at,
            findings=self._findings(),
        )

    def _findings(self) -> tuple[str, ...]:
        """Return the numbers of this study for the three claims of the paper."""
        done = [s for s in self.jobs.subjects if s.role == "unlearn" and self.points[s.label]]
        present = self.end(PRESENT)
        if not present:
            return ()
        control = self._recovery_results(next(x for x in self.jobs.subjects if x.label == NEVER))["recovery_steps"]
        out = [f"Before deletion: {_score_text(present)}. Never learned: {_score_text(self.end(NEVER))}."]
        for s in done:
            share = self._probe_results(s.label)["probe_kept"] if self.settings.probe else missing("no probes")
            probe = f"probe kept {share.value:.2f}" if math.isfinite(share.value) else f"probe: {share.reason}"
            back = self._recovery_results(s)["recovery_steps"]
            steps = f"{self.settings.recovered:.0%} of the score recovered: {_steps_text(back)}"
            if math.isfinite(back.value) or back.reason != control.reason:
                steps += f" (never learned: {_steps_text(control)})"
            out.append(f"{s.label}: {_score_text(self.end(s.label))}; {probe}; {steps}.")
        return tuple(out)


def steps_back(course: Points, name: str, never: float, present: float, share: float) -> MetricResult:
    """Return the number of steps until a curve covers `share` of the distance from `never` to `present`.

    Scores rise on the way and losses fall. Values between two points are interpolated linearly.
    """
    if name not in course[0]:
        return missing(f"{name} is not measured")
    sign = -1.0 if name.startswith("loss_") else 1.0
    if not sign * present > sign * never:
        return missing(f"nothing to recover: the {name} of the present model is no better than the never-learned one's")
    level = never + share * (present - never)
    steps = [int(p["step"]) for p in course]
    step = steps_to(sign * np.array([p[name] for p in course]), steps, sign * level)
    return MetricResult(step) if math.isfinite(step) else missing(f"not within {steps[-1]} steps")


def _scored(line: Mapping[str, Any]) -> str:
    score = "-" if line["score"] is None else f"{line['score']:g}"
    return f"[judged {score}] {line['generation']}"


def _score_text(point: Mapping[str, float]) -> str:
    if not math.isfinite(point.get(SCORE, math.nan)):
        return "no score"
    return f"score {point[SCORE]:.2f} [{point[f'{SCORE}_low']:.2f}, {point[f'{SCORE}_high']:.2f}]"


def _steps_text(steps: MetricResult) -> str:
    return f"after {steps.value:.3g} steps" if math.isfinite(steps.value) else str(steps.reason)


def _result(value: float | None, extra: Mapping[str, float] | None = None) -> MetricResult:
    if value is None or not math.isfinite(value):
        return missing("no generation had a score" if extra else "not measured")
    return MetricResult(value, extra=dict(extra or {}))


def read_points(path: Path) -> Points:
    """Return the numbers of a stored trajectory. Raises DataError if the file is not one."""
    try:
        lines: Sequence[dict[str, Any]] = [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a trajectory: {error}") from None
    left_out = ("epoch", "phase")
    return tuple(
        {k: math.nan if v is None else float(v) for k, v in line.items() if k not in left_out} for line in lines
    )
