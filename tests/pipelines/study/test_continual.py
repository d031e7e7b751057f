"""Requests in turn: the trajectory and backward transfer by hand, and the report's section."""

from __future__ import annotations

import math

import numpy as np
import pytest

from expunge.benchmarks import Benchmark
from expunge.data.examples import Example, ExampleSet
from expunge.metrics.api import Metric, MetricResult
from expunge.pipelines.study.continual import backward_transfer, request_means, requests_section
from expunge.report.model import ReportRun

PARTS = {"1/3": (0, 2), "2/3": (2, 4), "3/3": (4, 6)}
# rows 0-1 rise from 0.1 to 0.3 after the last request, rows 2-3 stay at 0.2
VALUES = np.array(
    [[0.1, 0.1, 0.9, 0.9, 0.9, 0.7], [0.2, 0.2, 0.2, 0.2, 0.9, 0.7], [0.25, 0.35, 0.2, 0.2, 0.0, 0.2]]
)  # fmt: skip


def test_the_trajectory_and_backward_transfer_by_hand() -> None:
    expected = [[0.1, 0.9, 0.8], [0.2, 0.2, 0.8], [0.3, 0.2, 0.1]]
    np.testing.assert_allclose(request_means(VALUES, list(PARTS.values())), expected, rtol=1e-14)
    result = backward_transfer(VALUES, list(PARTS.values()))
    # ((0.3 - 0.1) + (0.2 - 0.2)) / 2 over equal requests; changes of rows 0.15, 0.25, 0, 0
    assert (result.value, result.rows) == (pytest.approx(0.1, rel=1e-14), 4)
    spread = np.std([0.15, 0.25, 0.0, 0.0], ddof=1) / 2
    assert result.high - result.value == pytest.approx(3.182446 * spread, rel=1e-6)  # t of 3 degrees of freedom
    assert math.isnan(backward_transfer(VALUES[:1], [(0, 6)]).value)


def run(label: str, values: np.ndarray, seed: int = 0) -> ReportRun:
    rows = {i: {"prob": float(v)} for i, v in enumerate(values)}
    results = {"forget_Q_A_Prob": MetricResult(float(values.mean()), per_row=rows), "model_utility": MetricResult(0.5)}
    return ReportRun(label, "unlearn", seed=seed, results=results)


def test_the_section_has_a_line_per_model_of_each_complete_chain() -> None:
    forget = ExampleSet("forget", tuple(Example(i, f"{i}?", {"answer": "a"}) for i in range(6)))
    metric = Metric("forget_Q_A_Prob", "probability", rows="forget", reads={"tokens": ("answer",)})
    benchmark = Benchmark("b", "s", {"forget": forget}, (metric,), (), (), utility="model_utility")
    runs = [run(f"NPO@{name}", row) for name, row in zip(PARTS, VALUES, strict=True)]
    section = requests_section(benchmark, PARTS, [*runs, run("GradDiff@1/3", VALUES[0]), run("NPO", VALUES[0])])
    assert section is not None
    (grid,) = section.grids
    assert grid.heads == ("model", "after request", "1/3", "2/3", "3/3", "model_utility", "backward transfer")
    assert [row[:5] for row in grid.rows] == [
        ("NPO (seed 0)", "1/3", "0.100", "0.900", "0.800"),
        ("NPO (seed 0)", "2/3", "0.200", "0.200", "0.800"),
        ("NPO (seed 0)", "3/3", "0.300", "0.200", "0.100"),
    ]
    assert grid.rows[2][6].startswith("+0.100 [-") and grid.rows[0][6] == ""
    assert requests_section(benchmark, PARTS, runs[:2]) is None
