"""A small report with made-up numbers: full, retain, a method with two seeds, a collapsed one, a hostile label."""

from __future__ import annotations

import math

import pytest

from expunge.metrics.api import MetricResult, missing
from expunge.report.model import MissingResult, ReportModel, ReportRun, ReportSample

HOSTILE = "<script>alert('label')</script> [red]|x"


def results(p: float, ks: float, utility: float, prob: float = 0.25) -> dict[str, MetricResult]:
    rows = {i: {"score": 1e-4 * 5.0**i} for i in range(8)}
    return {
        "forget_quality": MetricResult(p, extra={"ks_distance": ks}),
        "forget_truth_ratio": MetricResult(0.5, per_row=rows, extra={"ci_low": 0.4375, "ci_high": 0.5625}),
        "forget_Q_A_Prob": MetricResult(prob),
        "forget_Q_A_ROUGE": missing("generation was switched off"),
        "model_utility": MetricResult(utility),
        "retain_Q_A_Prob": MetricResult(0.875),
    }


@pytest.fixture
def model() -> ReportModel:
    return ReportModel(
        title="Forgetting <b>authors</b>",
        study="tofu",
        command="expunge study tofu seeds=[0,1]",
        created="2025-01-01",
        sets={"forget": 8, "retain": 72},
        runs=(
            ReportRun("npo", "unlearn", "npo", "beta 0.1", 0, results(1e-4, 0.25, 0.5, 0.25), 61.0, 10),
            ReportRun("retain90", "retain", results=results(1.0, 0.0, 0.625)),
            ReportRun("ga", "unlearn", "grad_ascent", "", 0, results(3.4e-35, 0.75, 0.125), 59.0, 10),
            ReportRun("npo", "unlearn", "npo", "beta 0.1", 1, results(1e-6, 0.75, 0.375, 0.75), 61.0, 10),
            ReportRun(
                HOSTILE, "unlearn", "dpo", "", 0, {"model_utility": MetricResult(math.nan, "no rows were scored")}
            ),
            ReportRun("full", "full", results=results(1e-9, 0.875, 0.625)),
        ),
        notes=("a note & more",),
        missing=(MissingResult("rmu", "the loss was not finite at step 3"),),
        samples=(
            ReportSample(
                "Who?", "She.", {"npo": "He.</dd><script>alert('said')</script>", "full": "She.", "other": " "}
            ),
        ),
    )
