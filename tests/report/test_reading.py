"""The cautions follow from the numbers of the report."""

from __future__ import annotations

import dataclasses

from expunge.metrics.api import MetricResult
from expunge.report.model import ReportModel, ReportRun
from expunge.report.reading import cautions, floor_line


def test_one_seed(model: ReportModel) -> None:
    assert any("One seed only" in line and "ga" in line and "npo" not in line for line in cautions(model))
    single = dataclasses.replace(model, runs=tuple(r for r in model.runs if r.seed != 1))
    assert any("was run with one seed" in line for line in cautions(single))
    twice = dataclasses.replace(model, runs=tuple(r for r in model.runs if r.label in ("npo", "full", "retain90")))
    assert cautions(twice) == ()


def test_unlike_row_counts(model: ReportModel) -> None:
    assert not any("different numbers of forget rows" in line for line in cautions(model))
    odd = ReportRun("x", "unlearn", results={"forget_truth_ratio": MetricResult(0.5, per_row={0: {"score": 1.0}})})
    lines = cautions(dataclasses.replace(model, runs=(*model.runs, odd)))
    assert any("(1, 8)" in line for line in lines)


def test_a_test_without_power_and_no_retain_model(model: ReportModel) -> None:
    weak = ReportRun("full", "full", results={"forget_quality": MetricResult(0.5)})
    lines = cautions(dataclasses.replace(model, runs=(weak,)))
    assert any("p = 0.500" in line for line in lines)
    assert any("no retain model" in line for line in lines)


def test_the_floor_says_its_number_or_why_there_is_none(model: ReportModel) -> None:
    assert "(0.312)" in floor_line(model)
    assert "not applied" in floor_line(dataclasses.replace(model, runs=()))
