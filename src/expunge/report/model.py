"""The contents of a report: plain values that the study collects from stored artifacts. Nothing here computes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from expunge.core.errors import ConfigError
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import AuditFinding
from expunge.report.protocol import Protocol
from expunge.report.section import Section

Role = Literal["full", "retain", "unlearn"]
T = TypeVar("T")
TOFU_SHOWN = (
    "forget_quality",
    "forget_truth_ratio",
    "forget_Q_A_Prob",
    "forget_Q_A_ROUGE",
    "model_utility",
    "retain_Q_A_Prob",
    "retain_Q_A_ROUGE",
)
ROLES: tuple[Role, ...] = ("full", "retain", "unlearn")  # also the order of the rows


@dataclass(frozen=True)
class ReportRun:
    """One model and its numbers.

    label: display name; runs of one role that share a label are seeds of the same method. settings: one short line.
    results: metric name -> result; that of `forget_truth_ratio` stores the raw ratio of each row as `score`. wall_s:
    seconds of training; steps: optimiser steps; tokens_per_s: during training; memory_gb: peak memory. trajectory:
    evaluations during training, {"step": 10, metric: value, ...} for each point, in order. cell: of a grid, whose runs
    are listed together. gibberish: why its texts are gibberish (empty: they are not); it is then broken. folder: of
    the model in the store.
    """

    label: str
    role: Role
    method: str | None = None
    settings: str = ""
    seed: int | str | None = None
    results: Mapping[str, MetricResult] = field(default_factory=dict)
    wall_s: float | None = None
    steps: int | None = None
    tokens_per_s: float | None = None
    memory_gb: float | None = None
    trajectory: tuple[Mapping[str, float], ...] = ()
    cell: str | None = None
    gibberish: str = ""
    folder: str = ""


@dataclass(frozen=True)
class RowScore:
    """A score of single rows. `known` is the end of its scale at which the model still knows the answer."""

    name: str
    known: Literal["high", "low"] = "high"


@dataclass(frozen=True)
class ReportEntry:
    """One row: the question, the true answer, and each model's answer (None: no generation).

    `said` is in the order of `Explorer.models`. scores: by model, then by score, NaN for a missing one.
    """

    set: str
    row_id: int
    question: str
    answer: str
    said: tuple[str | None, ...]
    scores: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Explorer:
    """The rows of a study to browse, the forget rows first. full, retain: the places of these two in `models`."""

    models: tuple[str, ...] = ()
    scores: tuple[RowScore, ...] = ()
    rows: tuple[ReportEntry, ...] = ()
    full: int | None = None
    retain: int | None = None


@dataclass(frozen=True)
class ReportProvenance:
    """Origin of a study. config: its settings as YAML; versions and machines: from the jobs' records."""

    config: str = ""
    versions: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    seeds: str = ""
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class SeedRange:
    """The retrain-seed range of the retain models: another training seed could produce a value within it."""

    low: float
    high: float
    mean: float
    n: int


@dataclass(frozen=True)
class MissingResult:
    """A failed or blocked job, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class ReportSample:
    """The models' answers to one forget question. by_run: run label -> generated text."""

    question: str
    truth: str
    by_run: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class AuditLine(AuditFinding):
    """One finding of an audit on one unlearned model. audit: the audit's name; label, seed: the run."""

    audit: str
    label: str
    seed: int | str | None

    @property
    def curves(self) -> dict[str, tuple[tuple[float, float], ...]]:
        """Scores after some steps of the model and its controls, from details such as `model_at_8`, or empty."""
        return self._points("_at_")

    @property
    def layers(self) -> dict[str, tuple[tuple[float, float], ...]]:
        """The same at each layer, from details such as `model_layer_2`."""
        return self._points("_layer_")

    def _points(self, between: str) -> dict[str, tuple[tuple[float, float], ...]]:
        out: dict[str, list[tuple[float, float]]] = {}
        for name, value in self.details.items():
            side, _, place = name.partition(between)
            if side in ("model", "retain", "full") and place.isdecimal():
                out.setdefault(side, []).append((float(place), value))
        return {side: tuple(sorted(points)) for side, points in out.items()}


@dataclass(frozen=True)
class ReportModel:
    """All contents of a report.

    command: the command line that reproduces the study. created: a date, as text. sets: name of a set -> its number of
    rows. shown: the metrics of the table, in order. utility: the metric of remaining abilities. utility_floor: a share
    of the target model's utility; an unlearned model below it is marked as collapsed. null_band: metric (or
    "metric.extra", such as forget_quality.ks_distance) -> the retrain-seed range. audits: findings of audits.
    directions: metric -> meaning of a larger value. protocol: courses and probes of a study of stories. sections:
    further tables of this study.

    Raises:
        ConfigError: If two runs have the same role, label and seed, a role is unknown, or the floor is not within 0..1.
    """

    title: str
    study: str
    command: str
    created: str
    sets: Mapping[str, int]
    runs: tuple[ReportRun, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[MissingResult, ...] = ()
    samples: tuple[ReportSample, ...] = ()
    utility_floor: float = 0.5
    shown: tuple[str, ...] = TOFU_SHOWN
    utility: str = "model_utility"
    null_band: Mapping[str, SeedRange] = field(default_factory=dict)
    audits: tuple[AuditLine, ...] = ()
    explorer: Explorer = Explorer()
    making: ReportProvenance = ReportProvenance()
    directions: Mapping[str, str] = field(default_factory=dict)
    protocol: Protocol | None = None
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.utility_floor <= 1:
            raise ConfigError(
                f"utility_floor is {self.utility_floor}; allowed: 0 to 1, a share of the target model's utility"
            )
        keys: set[tuple[str, str, int | str | None]] = set()
        for run in self.runs:
            if run.role not in ROLES:
                raise ConfigError(f"run {run.label!r}: role is {run.role!r}; allowed: {', '.join(ROLES)}")
            key = (run.role, run.label, run.seed)
            if key in keys:
                raise ConfigError(
                    f"two runs have the role {run.role!r}, the label {run.label!r} and the seed {run.seed}"
                )
            keys.add(key)

    def groups(self) -> list[list[ReportRun]]:
        """Return runs grouped by role and label, full first, then retain, then the others in their order."""
        grouped: dict[tuple[str, str], list[ReportRun]] = {}
        for role in ROLES:
            for run in self.runs:
                if run.role == role:
                    grouped.setdefault((role, run.label), []).append(run)
        return list(grouped.values())

    def results_of(self, role: Role, cell: str | None = None) -> list[Mapping[str, MetricResult]]:
        """Return the results of the runs of one role. Each cell of a grid has its own controls."""
        return [run.results for run in self.runs if run.role == role and run.cell == cell]

    def mean_of(self, role: Role, metric: str, cell: str | None = None) -> float:
        """Return the mean of a metric over the finite values of the runs of one role; NaN if there is none."""
        values = [results[metric].value for results in self.results_of(role, cell) if metric in results]
        finite = [v for v in values if math.isfinite(v)]
        return math.fsum(finite) / len(finite) if finite else math.nan


def once(function: Callable[[ReportModel], T]) -> Callable[[ReportModel], T]:
    """Let a function of a report compute its value once for each report, because all outputs of a report read it."""

    @functools.wraps(function)
    def stored(model: ReportModel) -> T:
        values: dict[object, T] = model.__dict__.setdefault("_once", {})
        if function not in values:
            values[function] = function(model)
        return values[function]

    return stored


def run_names(group: list[ReportRun]) -> list[str]:
    """Return the display name of each run of a group: its label, and its seed if the group has several."""
    if len(group) == 1:
        return [group[0].label]
    return [f"{run.label}, seed {'not given' if run.seed is None else run.seed}" for run in group]
