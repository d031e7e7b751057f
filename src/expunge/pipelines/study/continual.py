"""Several forget requests in turn: the remaining knowledge of each request after each one, and backward transfer.

With A[k, j] the mean of a number of knowledge over the rows of request j, in the model after request k:

    backward transfer = mean over rows of earlier requests of (value after the last request - value after the own one)

It follows Lopez-Paz and Ranzato 2017 (arXiv:1706.08840), with rows in place of tasks; equal requests give
the mean of A[K, j] - A[j, j] over j < K. There a large value is good. Here a value above 0 means that later requests
bring earlier ones back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from expunge.audits.api import STATISTIC
from expunge.benchmarks import Benchmark
from expunge.benchmarks.metric_suite import FORGET
from expunge.core.records import Floats
from expunge.metrics.api import Metric
from expunge.metrics.equivalence import mean_interval
from expunge.pipelines.study.requests import Ranges
from expunge.report.model import ReportRun
from expunge.report.section import GridSection, Section

FAMILIES = ("probability", "extraction_strength")
ABOUT = (
    "The forget requests were done one after another. Each line is the model after a request, each column the mean "
    "{metric} of the rows of one request. Columns to the right of a model's own request have not been forgotten yet. "
    "Backward transfer is the mean change of earlier requests' rows until the last request, with its 95 % interval "
    "over rows. Above 0, later requests bring earlier ones back."
)


@dataclass(frozen=True)
class BackwardTransfer:
    """The mean change of the rows of earlier requests, its 95 % interval, and the number of rows."""

    value: float
    low: float
    high: float
    rows: int


def request_means(values_KR: Floats, parts: Sequence[tuple[int, int]]) -> Floats:
    """Return A[k, j] of each model k and each request j, (K, K), from a number per model and row (K, R)."""
    means: Floats = np.stack([values_KR[:, first:end].mean(axis=1) for first, end in parts], axis=1)
    return means


def backward_transfer(values_KR: Floats, parts: Sequence[tuple[int, int]]) -> BackwardTransfer:
    """Return the backward transfer of a chain of K models, from a number per model and row (K, R).

    parts: the rows [first, end) of each request, in order. NaN for a single request.
    """
    changes = [values_KR[-1, first:end] - values_KR[k, first:end] for k, (first, end) in enumerate(parts[:-1])]
    if not changes:
        return BackwardTransfer(math.nan, math.nan, math.nan, 0)
    changes_R = np.concatenate(changes)
    changes_R = changes_R[~np.isnan(changes_R)]
    if not len(changes_R):
        return BackwardTransfer(math.nan, math.nan, math.nan, 0)
    return BackwardTransfer(float(changes_R.mean()), *mean_interval(changes_R), len(changes_R))


def request_metric(benchmark: Benchmark) -> Metric | None:
    """Return the benchmark's metric of the forget rows' true answers, or None."""
    names = (FORGET, benchmark.forget_set)
    metrics = [m for m in benchmark.panel if m.family in FAMILIES and m.rows in names and m.tokens == ("answer",)]
    return metrics[0] if metrics else None


def requests_section(benchmark: Benchmark, parts: Ranges, runs: Sequence[ReportRun]) -> Section | None:
    """Return the trajectories of all chains whose models are complete; None without one."""
    metric = request_metric(benchmark)
    whole = benchmark.sets.get(benchmark.forget_set)
    if metric is None or metric.rows is None or whole is None or len(benchmark.sets[metric.rows]) != len(whole):
        return None
    chains: dict[tuple[str, object], dict[str, ReportRun]] = {}
    for run in runs:
        label, _, request = run.label.rpartition("@")
        if run.role == "unlearn" and request in parts and metric.name in run.results:
            chains.setdefault((label, run.seed), {})[request] = run
    rows: list[tuple[str, ...]] = []
    for (label, seed), chain in chains.items():
        if len(chain) == len(parts):
            rows += _lines(f"{label} (seed {seed})", chain, parts, metric, benchmark.measured_utility, len(whole))
    if not rows:
        return None
    heads = ("model", "after request", *parts, benchmark.measured_utility, "backward transfer")
    grid = GridSection("The remaining knowledge of each request.", heads, tuple(rows), "model", ("after request",))
    return Section("requests", "Requests in turn", "Requests", ABOUT.format(metric=metric.name), (grid,))


def _lines(
    name: str, chain: Mapping[str, ReportRun], parts: Ranges, metric: Metric, utility: str, n_rows: int
) -> list[tuple[str, ...]]:
    statistic = STATISTIC.get(metric.family, "score")
    values_KR = np.array(
        [
            [_number(chain[request].results[metric.name].per_row.get(i, {}).get(statistic)) for i in range(n_rows)]
            for request in parts
        ]
    )
    means_KK = request_means(values_KR, list(parts.values()))
    transfer = backward_transfer(values_KR, list(parts.values()))
    out = []
    for k, request in enumerate(parts):
        useful = chain[request].results.get(utility)
        shown = f"{transfer.value:+.3f} [{transfer.low:+.3f}, {transfer.high:+.3f}]" if k == len(parts) - 1 else ""
        out.append(
            (
                name,
                request,
                *(_shown(v) for v in means_KK[k]),
                _shown(math.nan if useful is None else useful.value),
                shown,
            )
        )
    return out


def _number(value: float | list[float] | None) -> float:
    return float(value) if isinstance(value, float | int) else math.nan


def _shown(value: float) -> str:
    return "\u2013" if math.isnan(value) else f"{value:.3f}"
